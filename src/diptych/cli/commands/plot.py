"""``diptych plot COMPARISON`` or ``diptych plot RUN RUN ...``: plots for a paper, each with its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from diptych.cli.options.output import finish, parse


@dataclass(frozen=True)
class PlotArgs:
    sources: Annotated[Positional[tuple[Path, ...]], arg(metavar="SOURCE", help="the folder of a comparison, or run folders")]
    out: Annotated[Path, arg(help="folder of the files")] = Path("plots")
    format: Annotated[tuple[Literal["svg", "pdf", "png"], ...], arg(help="one or several")] = ("svg", "pdf")
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(
        PlotArgs, argv, "plot", "Values with intervals and seeds, differences, curves over steps; the data of each as CSV."
    )
    from diptych.api.runs import paper_plots

    files = [str(path) for path in paper_plots(args.sources, args.out, formats=args.format)]
    return finish({"files": files}, files, args.json)
