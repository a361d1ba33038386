"""``diptych compare RECIPE RECIPE ... --data D --budget steps:N``, or run folders and foreign models in their place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from diptych.cli.options.arms import arm_words
from diptych.cli.options.config_file import ConfigFile, config_of
from diptych.cli.options.output import DEVICE, finish, parse, say
from diptych.core.errors import ConfigError
from diptych.core.registry import RECIPES

DESCRIPTION = """Which idea helps on your data: every recipe under one budget, same rows, same seeds, everything else equal.
The first arm is what the others are measured against. What is finished in --out is read; a comparison that was stopped goes on."""

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class CompareArgs:
    arms: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="ARM ...",
            help="recipes, with options as in clip:lr=2e-4; or run folders, hf:NAME, open_clip:ARCH/FILE; NAME=ARM gives it a name",
        ),
    ]
    data: Annotated[str, arg(help="any readable data with held-out splits")]
    tasks: Annotated[str, arg(help="evaluation tasks, separated by commas: retrieval,zero_shot,probe")] = "retrieval"
    split: Annotated[
        str, arg(help="only these held-out splits, separated by commas; first val to choose, then test, without new training")
    ] = ""
    seeds: Annotated[int, arg(help="runs of each recipe; three at least for a verdict")] = 5
    budget: Annotated[str, arg(help="steps:N, samples:N or seconds:N of training; '' takes the steps of the first recipe")] = ""
    preset: Annotated[Literal["tiny", "paper"], arg(help="sizes for two cores, or the published configuration")] = "tiny"
    matters: Annotated[float, arg(help="the smallest difference that would matter, in units of the metric")] = 0.01
    equal: Annotated[float, arg(help="arms that differ by less count as equal; 0 uses --matters")] = 0.0
    out: Annotated[Path, arg(help="folder of the cells and of report.html")] = Path("runs/compare")
    config: Annotated[Path, arg(metavar="FILE.yaml", help="options, in a section compare (`diptych config compare`)")] = Path()
    set: Annotated[tuple[str, ...], arg(metavar="FIELD=VALUE", help="fields of every recipe: batch_size=64 width=64")] = ()
    dry_run: Annotated[bool, arg(help="print the estimated minutes and stop")] = False
    pilot: Annotated[
        float, arg(help="seconds of short trainings that estimate beforehand what a long comparison can show; 0 for none")
    ] = 60.0
    precision: Annotated[Precision, arg(help="precision of the training")] = "auto"
    processes: Annotated[int, arg(help="number of trainings to run in parallel, each in its own process")] = 1
    workers: Annotated[int, arg(help="data-loading processes per run")] = 0
    download: Annotated[bool, arg(help="allow downloading a model")] = False
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    file = config_of(argv, "compare")
    if not argv:
        built = ", ".join(RECIPES)
        raise ConfigError(f"no recipes to compare: diptych compare RECIPE RECIPE --data D --budget steps:N   (recipes: {built})")
    args = parse(CompareArgs, argv, "compare", DESCRIPTION, file.default(CompareArgs, "compare", values=_plain(file)))
    if args.seeds < 1:
        raise ConfigError(f"seeds is {args.seeds} (expected 1 or more; three at least for a verdict)")
    from diptych.api import compare
    from diptych.core.terminal.spelling import options, split_names
    from diptych.train.options import TrainOptions

    if args.dry_run:
        return _cost(args)
    comparison = compare(
        args.arms,
        args.data,
        tasks=split_names(args.tasks),
        seeds=args.seeds,
        budget=args.budget,
        preset=args.preset,
        out=args.out,
        options=TrainOptions(workers=args.workers, precision=args.precision),
        processes=args.processes,
        pilot=args.pilot,
        splits=split_names(args.split),
        matters=args.matters,
        equal=args.equal,
        download=args.download,
        say=say,
        **options(args.set),
    )
    page = comparison.report()
    return finish({**comparison.to_json(), "report": str(page)}, [*comparison.lines(), f"open {page}"], args.json)


def _plain(file: ConfigFile) -> dict[str, Any]:
    """Section "compare" with arms and fields as the command line has them: an arm may be a mapping, {recipe: clip, lr: 1e-3}, under its
    name."""
    section = file.section("compare")
    arms = section.get("arms")
    if isinstance(arms, dict):
        section["arms"] = [f"{name}={arm_words(one, f'{file.path}: compare.arms.{name}')}" for name, one in arms.items()]
    elif isinstance(arms, list):
        section["arms"] = [arm_words(one, f"{file.path}: compare.arms") for one in arms]
    if isinstance(tasks := section.get("tasks"), list):
        section["tasks"] = ",".join(map(str, tasks))
    if isinstance(changes := section.get("set"), dict):
        section["set"] = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
    return section


def _cost(args: CompareArgs) -> int:
    """Minutes of training, by a few real steps of each recipe; evaluation comes on top."""
    from diptych.api import estimate
    from diptych.api.comparison import recipe_of_arm
    from diptych.comparisons.budget import Budget
    from diptych.core.terminal.spelling import options

    budget = Budget.parse(args.budget) if args.budget else None
    minutes, lines, first = {}, [], 0
    for words in args.arms:
        made = recipe_of_arm(words, preset=args.preset, **options(args.set))
        if made is None:
            raise ConfigError(f"'{words}' is a model that is there: nothing would be trained (expected recipes with --dry-run)")
        cost = estimate(made, args.data)
        first = first or int(cost["steps"])
        pace = float(cost["seconds_per_step"])
        steps = budget.steps_of(made.batch_size, pace) if budget else first
        minutes[words] = args.seeds * steps * pace / 60
        lines.append(f"{words:<26}{args.seeds} seeds of {steps:,} steps at {pace:.3f} s: {minutes[words]:,.1f} minutes")
    total = sum(minutes.values())
    return finish(
        {"minutes": minutes, "total": total}, [*lines, f"{'together':<26}{total:,.1f} minutes, and the evaluations"], args.json
    )
