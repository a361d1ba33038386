"""``diptych systems [SLUG]``: the table of systems, or one row of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from diptych.cli.options.output import finish, parse
from diptych.core import systems


@dataclass(frozen=True)
class SystemsArgs:
    slug: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help="one system; nothing lists them all")] = ""
    json: Annotated[bool, tyro.conf.arg(help="one JSON object on stdout")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(SystemsArgs, argv, "systems", f"The {len(systems.SYSTEMS)} systems, the baselines, and which of them work.")
    if args.slug:
        row = systems.find(args.slug)
        lines = [f"{row.slug}: {row.title}", f"  family  {row.family}", f"  entry   {row.entry}"]
        lines += [f"  also    {path}" for path in row.also]
        lines += ["  works   yes" if row.works else "  works   no: " + ", ".join(row.missing)]
        lines += [f"  claim   {row.verdict}"]
        return finish(row.to_json(), lines, args.json)
    rows = [*systems.SYSTEMS, *systems.BASELINES]
    state = {row.slug: "works" if row.works else "built" if row.built else "-" for row in rows}
    lines = [
        f"{row.slug:<18}{state[row.slug]:<7}{row.verdict if row.built else '':<25}{row.family:<12}{row.title}" for row in rows
    ]
    working = sum(row.works for row in systems.SYSTEMS)
    built = sum(row.built for row in systems.SYSTEMS)
    shown = sum(row.shown for row in systems.SYSTEMS)
    lines.append(
        f"{len(systems.SYSTEMS)} systems: {working} work, {built} built, {shown} shown; and {len(systems.BASELINES)} baselines"
    )
    return finish(
        {"systems": [row.to_json() for row in rows], "working": working, "built": built, "shown": shown}, lines, args.json
    )
