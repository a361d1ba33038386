"""``diptych data why | card``: the life of a row, and what a data set is made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from diptych.cli.options.output import finish, parse


@dataclass(frozen=True)
class WhyArgs:
    folder: Annotated[Positional[Path], arg(help="a folder of `data links`, `data download`, `data build` or `curate`")]
    uid: Annotated[Positional[str], arg(metavar="UID", help="the row")]
    json: Annotated[bool, arg(help="print one JSON object")] = False


@dataclass(frozen=True)
class CardArgs:
    source: Annotated[Positional[str], arg(help="any readable data; for a built folder Croissant metadata are written, too")]
    out: Annotated[Path, arg(help="folder of README.md and croissant.json; by default that of the data")] = Path()
    json: Annotated[bool, arg(help="print one JSON object")] = False


def why(argv: Sequence[str]) -> int:
    args = parse(WhyArgs, argv, "data why", "Everything that happened to a row, over all folders from its first source on.")
    from diptych.data.lineage.why import row_history

    events = row_history(args.folder, args.uid)
    lines, before = [], ""
    for event in events:
        if event.folder != before:
            lines.append(event.folder)
            before = event.folder
        lines.append(f"  {event.step}: {event.line}")
    plain = json.loads(json.dumps([asdict(event) for event in events], default=str))
    return finish({"uid": args.uid, "events": plain}, lines, args.json)


def card(argv: Sequence[str]) -> int:
    args = parse(CardArgs, argv, "data card", "A data card (Markdown), and Croissant metadata (JSON-LD) of a built folder.")
    from diptych.core.disk.files import write_atomic, write_json
    from diptych.core.errors import ConfigError
    from diptych.curate.engine.sources import open_pool
    from diptych.data.lineage.data_card import croissant, data_card, data_facts
    from diptych.data.lineage.record import lineage_of
    from diptych.data.shards.mark import is_built

    folder = Path(args.source).expanduser()
    out = args.out if args.out != Path() else folder
    if not out.is_dir() and args.out == Path():
        raise ConfigError(f"{args.source} is not a folder: give the folder of the card, --out FOLDER")
    facts, steps = data_facts(open_pool(args.source)), lineage_of(folder) if folder.is_dir() else []
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "README.md", data_card(facts, steps))
    files = [str(out / "README.md")]
    if is_built(folder):
        write_json(out / "croissant.json", croissant(facts, folder, steps))
        files.append(str(out / "croissant.json"))
    lines = [
        f"{facts.rows:,} samples, {_counted(len(facts.licences), 'licence')}, {_counted(len(steps), 'recorded step')}",
        *files,
    ]
    return finish({**asdict(facts), "steps": [asdict(step) for step in steps], "files": files}, lines, args.json)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
