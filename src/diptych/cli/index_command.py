"""``diptych index build MODEL DATA OUT | add | remove | info``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from diptych.cli.output import finish, parse
from diptych.cli.subcommands import dispatch

JSON = Annotated[bool, arg(help="one JSON object on stdout")]


@dataclass(frozen=True)
class Build:
    model: Annotated[Positional[str], arg(metavar="MODEL")]
    data: Annotated[Positional[str], arg(metavar="DATA")]
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    split: Annotated[str, arg(help="only this split")] = ""
    what: Annotated[Literal["images", "texts"], arg(help="what can be found")] = "images"
    kind: Annotated[Literal["dense"], arg(help="kind of index")] = "dense"
    overwrite: bool = False
    json: JSON = False


@dataclass(frozen=True)
class Add:
    index: Annotated[Positional[Path], arg(metavar="INDEX")]
    data: Annotated[Positional[str], arg(metavar="DATA")]
    model: Annotated[str, arg(help="the model, if it moved since the index was built")] = ""
    json: JSON = False


@dataclass(frozen=True)
class Remove:
    index: Annotated[Positional[Path], arg(metavar="INDEX")]
    uids: Annotated[Positional[tuple[str, ...]], arg(metavar="UID", help="samples to take down")]
    json: JSON = False


@dataclass(frozen=True)
class Info:
    index: Annotated[Positional[Path], arg(metavar="INDEX")]
    json: JSON = False


def main(argv: Sequence[str]) -> int:
    subs = {
        "build": (_build, "embed data and make it searchable"),
        "add": (_add, "more data, embedded by the same model"),
        "remove": (_remove, "take samples down by uid"),
        "info": (_info, "what an index holds"),
    }
    return dispatch("index", subs, argv)


def _build(argv: Sequence[str]) -> int:
    args = parse(Build, argv, "index build", "Embed data and make it searchable.")
    from diptych.api import index, read

    data = read(args.data, split=args.split) if args.split else args.data
    with index(args.model, data, args.out, what=args.what, overwrite=args.overwrite) as made:
        count = len(made)
    return finish({"index": str(args.out), "count": count}, [f"{args.out}: {count:,} items"], args.json)


def _add(argv: Sequence[str]) -> int:
    args = parse(Add, argv, "index add", "Add data to an index.")
    from diptych.api import open_index, read

    with open_index(args.index, model=args.model) as opened:
        added, count = opened.add(read(args.data)), len(opened)
    return finish({"added": added, "count": count}, [f"{added:,} added, {count:,} items now"], args.json)


def _remove(argv: Sequence[str]) -> int:
    args = parse(Remove, argv, "index remove", "Take samples down.")
    from diptych.index.dense import DenseIndex

    with DenseIndex.open(args.index) as opened:
        removed, count = opened.remove(args.uids), len(opened)
    return finish({"removed": removed, "count": count}, [f"{removed:,} removed, {count:,} items left"], args.json)


def _info(argv: Sequence[str]) -> int:
    args = parse(Info, argv, "index info", "What an index holds.")
    from diptych.index.dense import DenseIndex

    with DenseIndex.open(args.index) as opened:
        info = asdict(opened.info)
    return finish(info, [f"{name:<12}{value}" for name, value in info.items()], args.json)
