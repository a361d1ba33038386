"""``diptych search INDEX "text, or path of a picture or point cloud" [-k 5]``, or by ``--triplet "person, riding, horse"``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, finish, parse
from diptych.core.disk.paths import is_picture_name
from diptych.core.errors import ConfigError, UnknownName

CONDITION = re.compile(r"(?P<column>.+?)(?P<sign>>=|<=|>|<|=)(?P<value>.*)", re.DOTALL)


@dataclass(frozen=True)
class SearchArgs:
    index: Annotated[Positional[Path], arg(metavar="INDEX")]
    query: Annotated[Positional[str], arg(metavar="QUERY", help="words, or the path of a picture or point cloud")] = ""
    image: Annotated[Path | None, arg(help="a picture to combine with the text: like this picture, but ...")] = None
    cloud: Annotated[Path | None, arg(help="a point cloud to combine with the text, for a model that embeds clouds")] = None
    weight: Annotated[
        float, arg(help="weight of the text beside pictures and clouds; a negative weight excludes what the text describes")
    ] = 2.0
    triplet: Annotated[str, arg(help="for an index of graphs: 'subject, relation, object'; * is a wildcard")] = ""
    like: Annotated[tuple[str, ...], arg(help="uids of items that are good examples")] = ()
    unlike: Annotated[tuple[str, ...], arg(help="uids of items that are bad examples")] = ()
    k: Annotated[int, arg(aliases=["-k"], help="number of hits")] = 5
    where: Annotated[tuple[str, ...], arg(help="conditions on columns, such as style=noto or 'score>=0.3'")] = ()
    distinct: Annotated[float | None, arg(help="show only the best of items with a higher cosine than this, such as 0.94")] = None
    model: Annotated[str, arg(help="the model, if it moved since the index was built")] = ""
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(
        SearchArgs,
        argv,
        "search",
        "Search an index by text, picture or point cloud, by several of them, by triplet, or by examples.",
    )
    if args.triplet:
        return _by_triplet(args)
    text, image, cloud = _query(args)
    from diptych.api import open_index
    from diptych.core.image import FileImage
    from diptych.index.plan import SearchPlan, cloud_item

    shown = FileImage(image) if image else None
    with open_index(args.index, model=args.model) as opened:
        where = filters(args.where, opened.info.columns)
        options: dict[str, Any] = {"k": args.k, "where": where, "distinct": args.distinct, "cloud": cloud_item(cloud)}
        hits = opened.answer(SearchPlan.of(text, shown, args.like, args.unlike, args.weight, **options))
        suggestion = opened.suggestion(text)
    lines = [f"{hit.score:6.3f}  {hit.uid}  {hit.payload.get('text') or hit.payload.get('caption') or ''}" for hit in hits]
    lines = lines or ["nothing found"]
    lines += [f"did you mean: {suggestion}"] if suggestion else []
    facts = {"query": args.query, "hits": [asdict(hit) for hit in hits]} | ({"suggestion": suggestion} if suggestion else {})
    return finish(facts, lines, args.json)


def _by_triplet(args: SearchArgs) -> int:
    if args.query or args.image or args.cloud or args.like or args.unlike:
        raise ConfigError("--triplet is the whole question (expected no words, picture, cloud or examples beside it)")
    from diptych.index.kinds import open_index
    from diptych.index.kinds.graphs import triplet
    from diptych.index.plan import ByTriplet, SearchPlan

    pattern = triplet(args.triplet)
    with open_index(args.index) as opened:
        where = filters(args.where, opened.info.columns)
        hits = opened.answer(SearchPlan((ByTriplet(pattern),), args.k, where, args.distinct))
    lines = [f"{hit.score:6.3f}  {hit.uid}  {_best(hit.payload['triplets'])}" for hit in hits]
    return finish({"triplet": list(pattern), "hits": [asdict(hit) for hit in hits]}, lines or ["nothing found"], args.json)


def _best(rows: Sequence[Mapping[str, Any]]) -> str:
    first = f"{rows[0]['subject']} | {rows[0]['relation']} | {rows[0]['object']}"
    return first + (f"  (+{len(rows) - 1} more)" if len(rows) > 1 else "")


def _query(args: SearchArgs) -> tuple[str, Path | None, Path | None]:
    """Text, picture and point cloud of a search; a query that ends as a file of either does is one."""
    from diptych.index.plan import is_cloud_name

    text, image, cloud = args.query.strip(), args.image, args.cloud
    if not text and image is None and cloud is None and not args.like:
        raise ConfigError("the query is empty: say some words or the path of a picture or point cloud, or give --like UID")
    if is_picture_name(text):
        if image is not None:
            raise ConfigError(f"{text} and {image} are two pictures (expected words beside --image)")
        text, image = "", Path(text)
    elif is_cloud_name(text):
        if cloud is not None:
            raise ConfigError(f"{text} and {cloud} are two point clouds (expected words beside --cloud)")
        text, cloud = "", Path(text)
    for file, kind in ((image, "picture"), (cloud, "point cloud")):
        if file is not None and not file.is_file():
            what = "is a folder" if file.is_dir() else "does not exist"
            raise ConfigError(f"{file} {what} (a query that ends like a {kind} is taken for a path)")
    return text, image, cloud


def filters(words: Sequence[str], columns: Mapping[str, str]) -> dict[str, Any] | None:
    """``style=noto``, ``style=noto,twemoji`` and ``score>=0.3`` to conditions; values become what the column holds."""
    conditions: dict[str, Any] = {}
    for word in words:
        parts = CONDITION.fullmatch(word)
        if parts is None:
            raise ConfigError(f"filter {word!r} (expected COLUMN=VALUE, COLUMN=VALUE,VALUE or COLUMN>=NUMBER)")
        name, sign, value = parts["column"].strip(), parts["sign"], parts["value"].strip()
        if name not in columns:
            raise UnknownName("column in --where", name, columns)
        if sign == "=":
            values = [_value_of_kind(name, one, columns[name]) for one in value.split(",")]
            conditions[name] = values if len(values) > 1 else values[0]
        else:
            edges = conditions.setdefault(name, {})
            if not isinstance(edges, dict):
                raise ConfigError(f"column '{name}' has a value and a range (expected one of the two)")
            edges[sign] = _value_of_kind(name, value, "number")
    return conditions or None


def _value_of_kind(column: str, value: str, kind: str) -> Any:
    """A command line word converted to the kind of a column."""
    if kind in ("integer", "number"):
        try:
            return float(value)
        except ValueError:
            raise ConfigError(f"column '{column}' holds numbers, the condition gives {value!r}") from None
    if kind == "boolean":
        if value.lower() not in ("true", "false"):
            raise ConfigError(f"column '{column}' holds true or false, the condition gives {value!r}")
        return value.lower() == "true"
    return value
