"""``diptych demo``: the main job on real data, from curation to a report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from diptych.cli.options.output import finish, parse, say
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
class DemoArgs:
    out: Annotated[Path, arg(help="folder of the runs and of report.html; an unfinished demo is continued")] = Path("runs/demo")
    data: Annotated[str, arg(help="other data with held-out splits")] = "emoji"
    seeds: Annotated[int, arg(help="runs of each recipe")] = 3
    recipes: Annotated[tuple[str, ...], arg(help="recipes to compare")] = ("clip", "locked")
    steps: Annotated[int, arg(help="steps of each run; 0: each recipe's default")] = 0
    seconds: Annotated[
        int, arg(help="time limit: further seeds start only if they fit; the first is always completed; 0 runs all")
    ] = 360
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(DemoArgs, argv, "demo", "Curate, train, evaluate and search real data; ends in a report.")
    from diptych import api
    from diptych.api.recipes import recipe_of
    from diptych.report.pages.side_by_side import PageText, RecipeRuns, side_by_side
    from diptych.worlds.address import training_rows

    begin = time.perf_counter()
    whole = api.read(args.data)
    say(f"{whole.name}: {len(whole):,} samples")
    curated, steps = _curate(whole, args.out)
    clock = TimeBudget(args.seconds if not any(args.out.glob("*-0/run.json")) else 0, begin)  # what was begun goes on as it was
    if clock.seconds:
        say(
            f"a seed of {' and '.join(args.recipes)} trains for about {_minutes_of_a_seed(args, curated):.1f} minutes on this machine"
        )
    runs: dict[str, list[tuple[RunFolder, float]]] = {recipe: [] for recipe in args.recipes}
    results: dict[str, dict[str, list[float]]] = {}
    searches: tuple[tuple[str, tuple[str, ...]], ...] = ()
    for seed in range(args.seeds):
        if not clock.has_another_round():
            break
        for recipe in args.recipes:
            runs[recipe].append(_run(recipe, curated, args, seed))
            for name, result in api.evaluate_kept(runs[recipe][-1][0]).items():
                results.setdefault(name, {}).setdefault(recipe, []).append(result.metrics["t2i_r@1"].value)
        clock.round_is_over()
        searches = searches or _search(runs[args.recipes[-1]][0][0].path, curated, args)
    seeds = len(runs[args.recipes[0]])
    cut, trained = _cut_note(args, seeds), "one seed" if seeds == 1 else f"{seeds} seeds"
    sides = [RecipeRuns(recipe, tuple(run for run, _ in own), tuple(spent for _, spent in own)) for recipe, own in runs.items()]
    story = PageText(
        title=f"Diptych demo: {' and '.join(args.recipes)} on {whole.name}",
        lead=f"{cut}Real data, {trained} a recipe, held-out splits that no run saw. Made by one command: diptych demo. "
        f"Queries are {'the names of the pictures' if _queries(whole) else 'all texts of the pictures'}.",
        inspection=tuple(api.data_report(recipe_of(runs[args.recipes[-1]][0][0]), training_rows(curated), curated)),
        curation=tuple(steps),
        searches=searches,
    )
    page = side_by_side(args.out / "report.html", sides, whole, story)
    lines, spent_all = [], (time.perf_counter() - begin) / 60
    for name, by_recipe in results.items():
        for recipe, values in by_recipe.items():
            lines.append(f"{name:<16}{recipe:<8}text to image R@1 {_over_seeds(values)}")
    lines += [f"{spent_all:.1f} minutes", f"open {page}"]
    return finish({"report": str(page), "results": results, "minutes": spent_all, "cut": cut.strip()}, lines, args.json)


def _over_seeds(values: Sequence[float]) -> str:
    """Mean of the seeds with its interval, which one seed alone does not have."""
    from diptych.report.pages.side_by_side import over_seeds

    mean, low, high = over_seeds(values)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}] over {len(values)} seeds" if len(values) > 1 else f"{mean:.3f} of one seed"


LAST = 5.0
"""Seconds that the page takes after the last round, at most."""


class TimeBudget:
    """When the time is up. A round is one seed of every recipe, with its evaluation: another one begins where one like the last
    fits into what is left. `seconds` 0 never ends."""

    def __init__(self, seconds: float, begin: float) -> None:
        self.seconds, self.begin = seconds, begin
        self._round_began, self._last = 0.0, 0.0

    @property
    def left(self) -> float:
        return self.begin + self.seconds - time.perf_counter()

    def has_another_round(self) -> bool:
        """Always true of the first. Begins it."""
        self._round_began = time.perf_counter()
        return not self.seconds or not self._last or self._last + LAST <= self.left

    def round_is_over(self) -> None:
        self._last = time.perf_counter() - self._round_began


def _minutes_of_a_seed(args: DemoArgs, curated: Any) -> float:
    """Minutes that one seed of every recipe trains on this machine, by a few real steps of each."""
    from diptych import api

    recipes = [api.recipe(name, steps=args.steps) if args.steps else name for name in args.recipes]
    return sum(float(api.estimate(recipe, curated)["seconds"]) for recipe in recipes) / 60


def _cut_note(args: DemoArgs, seeds: int) -> str:
    """Sentence on the seeds that were left out to fit the time limit; "" where none was."""
    if seeds == args.seeds:
        return ""
    words = f"{seeds} of {args.seeds} seeds fit into {args.seconds} seconds on this machine, each at full length (--seconds 0 runs all). "
    say(words.strip())
    return words


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


def _run(recipe: str, data: Any, args: DemoArgs, seed: int) -> tuple[RunFolder, float]:
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


def _search(model: Path, data: Any, args: DemoArgs) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """A few queries over everything, answered by the last recipe's first run."""
    from diptych import api

    say("index and search")
    with api.index(str(model), data, args.out / "index", overwrite=True) as index:
        return tuple((words, tuple(hit.uid for hit in index.search_text(words, 7))) for words in QUERIES)
