"""``diptych report RUN``: write the HTML report of a run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from diptych.cli.options.output import finish, parse


@dataclass(frozen=True)
class ReportArgs:
    run: Annotated[Positional[Path], arg(metavar="RUN")]
    data: Annotated[str, arg(help="data of the run, if the run names none or an address on another machine")] = ""
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(ReportArgs, argv, "report", "One HTML file: data, curves, metrics with intervals, neighbours, failures.")
    from diptych.api import report

    path = report(args.run, args.data or None)
    return finish({"report": str(path)}, [str(path)], args.json)
