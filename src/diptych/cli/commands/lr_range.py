"""``diptych lr-range RECIPE --data D``: a learning-rate range test."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, finish, parse
from diptych.core.disk.files import write_atomic

DESCRIPTION = """The loss while the learning rate grows from step to step: where it falls fastest, and from where on it rises.
Take the rate of the steepest fall, or a third of that of the smallest loss, and sweep around it."""


@dataclass(frozen=True)
class RangeArgs:
    recipe: Annotated[Positional[str], arg(metavar="RECIPE", help="a slug, or FILE.py:CLASS")]
    data: Annotated[str, arg(help="any readable data; its training rows are used")]
    low: Annotated[float, arg(help="rate of the first step")] = 1e-6
    high: Annotated[float, arg(help="rate of the last step; the test ends earlier if the loss explodes")] = 1.0
    steps: Annotated[int, arg(help="number of steps from the first to the last rate")] = 100
    out: Annotated[Path, arg(help="a page to write; a table with its points, .csv, lies beside it")] = Path()
    preset: Annotated[str, arg(help="preset that sets the values of the fields")] = "tiny"
    set: Annotated[tuple[str, ...], arg(metavar="FIELD=VALUE", help="fields of the recipe: batch_size=64")] = ()
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(RangeArgs, argv, "lr-range", DESCRIPTION)
    from diptych.api import learning_rate_range
    from diptych.core.terminal.spelling import options

    done = learning_rate_range(
        args.recipe, args.data, low=args.low, high=args.high, steps=args.steps, preset=args.preset, **options(args.set)
    )
    lines = [f"{len(done.points)} steps from {done.points[0][0]:.2g} to {done.points[-1][0]:.2g}"]
    falls = math.isfinite(done.steepest)
    lines.append(f"steepest fall at {done.steepest:.2g}" if falls else "the loss never fell: begin lower, or take more steps")
    lines.append(f"smallest loss at {done.lowest:.2g}" + ("" if done.diverged else "; it did not explode up to the last rate"))
    if args.out != Path():
        from diptych.report.pages.rate_range import rate_range_page

        made = io.StringIO()
        csv.writer(made, lineterminator="\n").writerows([("lr", "loss", "smoothed"), *done.points])
        write_atomic(args.out.with_suffix(".csv"), made.getvalue())
        lines.append(f"open {rate_range_page(args.out, done.points, done.steepest, done.lowest)}")
    payload = {
        "steepest": done.steepest if falls else None,
        "lowest": done.lowest,
        "diverged": done.diverged,
        "points": [list(map(_finite, point)) for point in done.points],
    }
    return finish(payload, lines, args.json)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
