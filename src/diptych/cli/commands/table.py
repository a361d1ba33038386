"""``diptych table COMPARISON`` or ``diptych table RUN RUN ...``: a table for a paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from diptych.cli.options.output import finish, parse
from diptych.core.disk.files import write_atomic


@dataclass(frozen=True)
class TableArgs:
    sources: Annotated[Positional[tuple[Path, ...]], arg(metavar="SOURCE", help="the folder of a comparison, or run folders")]
    format: Annotated[Literal["md", "latex", "csv"], arg(help="Markdown, LaTeX (booktabs) or CSV")] = "md"
    out: Annotated[Path, arg(help="output file; default: printed")] = Path()
    every: Annotated[bool, arg(help="all metrics of a comparison, not only the main ones")] = False
    points: Annotated[bool, arg(help="shares in hundredths")] = False
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(TableArgs, argv, "table", "Mean, standard deviation, difference with interval and mark, controls and chance.")
    from diptych.api.runs import paper_table

    made = paper_table(args.sources, every=args.every, points=args.points)
    text = made.text(args.format)
    if args.out != Path():
        write_atomic(args.out, text)
    lines = [f"table: {args.out}"] if args.out != Path() else text.rstrip().splitlines()
    return finish({"head": list(made.head), "rows": [list(row) for row in made.rows], "out": str(args.out)}, lines, args.json)
