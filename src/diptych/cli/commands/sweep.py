"""``diptych sweep RECIPE --data D --over lr=log(1e-4,1e-2) batch_size=64,128 --trials 20 --prune``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from diptych.cli.options.config_file import ConfigFile, config_of, leading
from diptych.cli.options.output import finish, parse, say
from diptych.core.config import overlaid
from diptych.core.errors import ConfigError

DESCRIPTION = """Try values of a recipe's fields by Optuna, judged on the split "val"; the test rows are not read.
The same command goes on with a sweep that was stopped or killed, and several processes may run it at once in one --out."""


@dataclass(frozen=True)
class SweepArgs:
    recipe: Annotated[Positional[str], arg(metavar="RECIPE", help="a slug, or FILE.py:CLASS")]
    data: Annotated[str, arg(help="any readable data; without a split val one is held out")]
    over: Annotated[
        tuple[str, ...],
        arg(metavar="FIELD=RANGE", help="log(LOW,HIGH), uniform(LOW,HIGH), or values: lr=log(1e-4,1e-2) batch_size=64,128"),
    ] = ()
    trials: Annotated[int, arg(help="number of trials in total, including those of other processes")] = 20
    out: Annotated[Path, arg(help="folder of the trials, of best.yaml, trials.csv and sweep.html")] = Path("runs/sweep")
    metric: Annotated[str, arg(help="metric of the evaluation, such as r@5; '' uses the task's main one")] = ""
    prune: Annotated[bool, arg(help="end trials that are below the median of the others at the same step")] = False
    prune_after: Annotated[int, arg(help="number of first trials that are never pruned")] = 5
    evaluations: Annotated[int, arg(help="number of evaluations per trial, evenly spaced")] = 5
    sampler: Annotated[
        Literal["tpe", "random", "grid"], arg(help="tpe (Optuna's default), random, or grid (all combinations)")
    ] = "tpe"
    seed: Annotated[int, arg(help="seed of the sampler; trials use the seed of --config, or 0")] = 0
    storage: Annotated[
        str, arg(help="a database for several machines, such as postgresql://HOST/NAME; '' is a file in --out")
    ] = ""
    processes: Annotated[int, arg(help="number of processes on this machine that work on the sweep in parallel")] = 1
    preset: Annotated[str, arg(help="preset that sets the values of the other fields")] = "tiny"
    set: Annotated[tuple[str, ...], arg(metavar="FIELD=VALUE", help="other fields: steps=500 width=64")] = ()
    config: Annotated[Path, arg(metavar="FILE.yaml", help="sections sweep, recipe and run")] = Path()
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    file = config_of(argv, "sweep", "train", "recipe", "run")
    argv = leading(argv, file, "sweep", ("recipe",))
    args = parse(SweepArgs, argv, "sweep", DESCRIPTION, file.default(SweepArgs, "sweep", values=_plain(file)))
    from diptych.api import sweep
    from diptych.api.recipes import recipe
    from diptych.core.terminal.spelling import options as spelled
    from diptych.train.options import TrainOptions

    if args.processes < 1:
        raise ConfigError(f"processes is {args.processes} (expected 1 or more)")
    with file.named():
        made = overlaid(recipe(args.recipe, preset=args.preset), file.section("recipe"), "recipe")
        run = overlaid(TrainOptions(progress=False), {**file.section("run"), "progress": False}, "run")
    made = recipe(made, **spelled(args.set))
    others = _others(argv, args.processes - 1)
    try:
        done = sweep(
            made,
            args.data,
            over=args.over,
            trials=args.trials,
            out=args.out,
            metric=args.metric,
            prune=args.prune,
            prune_after=args.prune_after,
            evaluations=args.evaluations,
            sampler=args.sampler,
            seed=args.seed,
            storage=args.storage,
            options=run,
            say=say,
        )
    except BaseException:
        for other in others:
            other.send_signal(signal.SIGTERM)
        raise
    finally:
        for other in others:
            other.wait()
    best = [f"train it: diptych train --config {args.out / 'best.yaml'} --out NEW"] if done.best else []
    return finish(done.to_json(), [*done.lines(), *best, f"open {args.out / 'sweep.html'}"], args.json)


def _others(argv: Sequence[str], count: int) -> list[subprocess.Popen[bytes]]:
    """Further processes of the same sweep, which print to stderr alone."""
    words = [sys.executable, "-m", "diptych", "sweep", *argv, "--processes", "1"]
    return [subprocess.Popen(words, stdout=sys.stderr.fileno()) for _ in range(count)]


def _plain(file: ConfigFile) -> dict[str, Any]:
    """Section "sweep" with ranges and fields as the command line has them."""
    section = file.section("sweep")
    if isinstance(over := section.get("over"), dict):
        section["over"] = [f"{name}={_words(value)}" for name, value in over.items()]
    if isinstance(changes := section.get("set"), dict):
        section["set"] = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
    return section


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(one if isinstance(one, str) else json.dumps(one) for one in value)
    return str(value)
