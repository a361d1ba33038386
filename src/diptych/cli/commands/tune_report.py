"""``diptych tune-report RUN --source DATA``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, finish, parse


@dataclass(frozen=True)
class TuneReportArgs:
    run: Annotated[Positional[Path], arg(metavar="RUN", help="a finished run that began with --init")]
    source: Annotated[str, arg(help="data on which the original model is good")] = ""
    data: Annotated[str, arg(help="target data; those of the run by default")] = ""
    before: Annotated[str, arg(help="the original model; the run's start/ by default")] = ""
    task: Annotated[str, arg(help="evaluation task")] = "retrieval"
    out: Annotated[Path | None, arg(help="output page; tuning.html in the run folder by default")] = None
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(TuneReportArgs, argv, "tune-report", "Did tuning help, and what was forgotten?")
    from diptych.api.tuning import plain, tune_report

    out = args.run / "tuning.html" if args.out is None else args.out
    report = tune_report(
        args.run, source=args.source or None, data=args.data or None, before=args.before, task=args.task, out=out
    )
    return finish({**plain(report), "page": str(out)}, [*report.lines(), f"report: {out}"], args.json)
