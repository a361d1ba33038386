"""``diptych weights [NAME]``: the published weights that open by address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from diptych.cli.options.output import finish, parse

if TYPE_CHECKING:
    from diptych.models.io.releases.release import Release

ADDRESS = 48
"""Letters of the column of addresses."""


@dataclass(frozen=True)
class WeightsArgs:
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help="all details of one system or release; default: list all")] = ""
    file: Annotated[Path, tyro.conf.arg(help="a file or folder of weights: print the releases that it looks like")] = Path()
    json: Annotated[bool, tyro.conf.arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(
        WeightsArgs, argv, "weights", "Published weights that open by address: where they are kept, their licence, what opens."
    )
    from diptych.core.errors import DataError, UnknownName
    from diptych.models.io.releases.families import all_releases
    from diptych.models.io.releases.release import recognised

    rows = all_releases()
    if args.file != Path():
        if not args.file.exists():
            raise DataError("there is no such file or folder", file=args.file)
        rows = tuple(recognised(args.file.expanduser(), rows))
        lines = [f"{row.slug:<24}{row.title}: {row.address}" for row in rows]
        return finish({"releases": [row.to_json() for row in rows]}, lines or ["looks like none of the releases"], args.json)
    if args.name:
        rows = tuple(row for row in rows if args.name in (row.slug, *row.systems))
        if not rows:
            raise UnknownName("release", args.name, {name for row in all_releases() for name in (row.slug, *row.systems)})
        lines = [line for row in rows for line in _in_full(row.to_json())]
    else:
        width = max(len(row.slug) for row in rows) + 2
        lines = [f"{'name':<{width}}{'address':<{ADDRESS}}what it is"]
        lines += [f"{row.slug:<{width}}{row.address or '-':<{ADDRESS}}{_about(row)}" for row in rows]
        lines.append(f"{len(rows)} rows; `diptych weights NAME` shows one in full")
    return finish({"releases": [row.to_json() for row in rows]}, lines, args.json)


def _about(row: Release) -> str:
    """Title of a release; of a system without one the reason."""
    return row.title if row.address else f"{row.title}: {row.source}"


def _in_full(row: dict[str, object]) -> list[str]:
    shown = {key: value for key, value in row.items() if key not in ("slug", "title", "systems") and value}
    return [f"{row['slug']}: {row['title']}", *(f"  {key:<9} {value}" for key, value in shown.items())]
