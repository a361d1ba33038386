"""``diptych demo``: the main job on real data, from curation to a report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from diptych.cli.output import finish, parse, say
from diptych.core.run_folder import RunFolder

QUERIES = (
    "a red heart",
    "something to eat for breakfast",
    "an animal that lives in the sea",
    "flag with a cross",
    "rainy weather",
    "music",
)


@dataclass(frozen=True)
class Demo:
    out: Annotated[Path, arg(help="folder of the runs and of report.html; goes on where it was stopped")] = Path("runs/demo")
    data: Annotated[str, arg(help="other data with held-out splits")] = "emoji"
    seeds: Annotated[int, arg(help="runs of each recipe")] = 3
    recipes: Annotated[tuple[str, ...], arg(help="what is compared")] = ("clip", "locked")
    steps: Annotated[int, arg(help="steps of each run; 0 takes each recipe's own")] = 0
    seconds: Annotated[
        int, arg(help="what all of it may take: seeds and steps are cut to that, and what was cut is said; 0 cuts nothing")
    ] = 360
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(Demo, argv, "demo", "Curate, train, evaluate and search real data; ends in a report.")
    from diptych import api
    from diptych.report.side_by_side import Side, Story, over_seeds, side_by_side
    from diptych.worlds.address import training_rows

    begin = time.perf_counter()
    whole = api.read(args.data)
    say(f"{whole.name}: {len(whole):,} samples")
    curated, steps = _curate(whole, args.out)
    args, cut = _within(args, curated, time.perf_counter() - begin)
    sides = []
    results: dict[str, dict[str, list[float]]] = {}
    for recipe in args.recipes:
        runs, minutes = [], []
        for seed in range(args.seeds):
            run, spent = _run(recipe, curated, args, seed)
            runs.append(run)
            minutes.append(spent)
            for name, result in api.evaluate_kept(run).items():
                results.setdefault(name, {}).setdefault(recipe, []).append(result.metrics["t2i_r@1"].value)
        sides.append(Side(recipe, tuple(runs), tuple(minutes)))
    found = _search(sides[-1].runs[0].path, curated, args)
    story = Story(
        title=f"Diptych demo: {' and '.join(args.recipes)} on {whole.name}",
        lead=f"{cut}Real data, {args.seeds} seeds a recipe, held-out splits that no run saw. Made by one command: diptych demo. "
        f"Queries are {'the names of the pictures' if _queries(whole) else 'all texts of the pictures'}.",
        inspection=tuple(api.data_report(api.recipe(args.recipes[-1]), training_rows(curated), curated)),
        curation=tuple(steps),
        searches=found,
    )
    page = side_by_side(args.out / "report.html", sides, whole, story)
    lines, spent_all = [], (time.perf_counter() - begin) / 60
    for name, by_recipe in results.items():
        for recipe, values in by_recipe.items():
            mean, low, high = over_seeds(values)
            lines.append(f"{name:<16}{recipe:<8}text to image R@1 {mean:.3f} [{low:.3f}, {high:.3f}] over {len(values)} seeds")
    lines += [f"{spent_all:.1f} minutes", f"open {page}"]
    return finish({"report": str(page), "results": results, "minutes": spent_all, "cut": cut.strip()}, lines, args.json)


TRAINING = 0.6
"""The share of the time that goes to steps; the rest is for encoding, evaluation, the index and the page."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What fits: seeds a recipe, and the share of its own steps that each takes."""

    seeds: int
    share: float


def cut_to(seconds: float, a_seed: float, seeds: int) -> Cut:
    """What fits into so many seconds of steps, of which one seed of every recipe takes `a_seed`: fewer seeds first, then fewer steps.

    >>> cut_to(200.0, 60.0, 3), cut_to(130.0, 60.0, 3), cut_to(30.0, 60.0, 3)
    (Cut(seeds=3, share=1.0), Cut(seeds=2, share=1.0), Cut(seeds=1, share=0.5))
    """
    whole = min(seeds, int(seconds // a_seed)) if a_seed > 0 else seeds
    return Cut(whole, 1.0) if whole >= 1 else Cut(1, seconds / a_seed)


def _within(args: Demo, curated: Any, spent: float) -> tuple[Demo, str]:
    """The same with as many seeds and steps as this machine does in time, by a few real steps of each recipe; and what was cut, in words.
    What is there already goes on as it was begun."""
    from diptych import api

    if not args.seconds or any(args.out.glob("*-0/run.json")):
        return args, ""
    begin, a_seed, own = time.perf_counter(), 0.0, {}
    for name in args.recipes:
        cost = api.estimate(api.recipe(name, steps=args.steps) if args.steps else name, curated)
        own[name] = int(cost["steps"])
        a_seed += float(cost["seconds"])
    left = args.seconds - spent - (time.perf_counter() - begin)
    cut = cut_to(max(left, 1.0) * TRAINING, a_seed, args.seeds)
    if cut == Cut(args.seeds, 1.0):
        return args, ""
    steps = {name: max(1, int(own[name] * cut.share)) for name in own}
    what = f"{cut.seeds} of {args.seeds} seeds" + ("" if cut.share == 1.0 else f" and {cut.share:.0%} of the steps")
    words = f"Cut to {args.seconds} seconds on this machine: {what}; the README's table is the full one (--seconds 0). "
    say(words.strip())
    return replace(args, seeds=cut.seeds, steps=0 if cut.share == 1.0 else min(steps.values())), words


def _curate(whole: Any, out: Path) -> tuple[Any, list[tuple[str, int, int, float]]]:
    """Exact duplicates leave the training rows; held-out rows stay as they are."""
    from diptych.curate.duplicates.exact import ExactDuplicates
    from diptych.curate.engine.pool import curate
    from diptych.worlds.address import split_names, training_rows

    rows = training_rows(whole)
    done = curate(rows, [ExactDuplicates()], out / "curation")
    for line in done.lines():
        say(f"curate: {line}")
    steps = [(step.slug.replace("_", " "), step.before, step.after, step.seconds) for step in done.steps]
    gone = [drop.uid for drop in done.removed]
    return (whole.exclude(gone) if "train" in split_names(whole) else done.kept), steps


def _run(recipe: str, data: Any, args: Demo, seed: int) -> tuple[RunFolder, float]:
    """Train and evaluate one seed, or go on with it, or take it as it is."""
    from diptych import api

    folder = args.out / f"{recipe}-{seed}"
    start = time.perf_counter()
    if (folder / "run.json").exists():
        run = api.resume(folder, data=data)
    else:
        say(f"train {recipe}, seed {seed}")
        made = api.recipe(recipe, steps=args.steps) if args.steps else api.recipe(recipe)
        run = api.train(made, data, folder, seed=seed, save_every=100)
    if "minutes" not in run.expect_finished().state:
        results = api.evaluate_run(run, data, origins=_queries(data))
        minutes = (time.perf_counter() - start) / 60
        run.write_state(minutes=minutes)
        for name, result in results.items():
            say(f"  {name}: text to image R@1 {result.metrics['t2i_r@1']}")
    return RunFolder.open(folder), float(RunFolder.open(folder).state["minutes"])


def _queries(data: Any) -> tuple[str, ...]:
    """Names are what people search by: where samples have them (origin "label"), they are the queries; else every text is."""
    return ("label",) if any(text.origin == "label" for text in data[0].texts) else ()


def _search(model: Path, data: Any, args: Demo) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """A few queries over everything, answered by the last recipe's first run."""
    from diptych import api

    say("index and search")
    with api.index(str(model), data, args.out / "index", overwrite=True) as index:
        return tuple((words, tuple(hit.uid for hit in index.search_text(words, 7))) for words in QUERIES)
