"""``diptych search INDEX "text or image path" [-k 5]``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from diptych.cli.output import finish, parse
from diptych.core.errors import ConfigError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Search:
    index: Annotated[Positional[Path], arg(metavar="INDEX")]
    query: Annotated[Positional[str], arg(metavar="QUERY", help="words, or the path of a picture")]
    k: Annotated[int, arg(aliases=["-k"], help="how many answers")] = 5
    where: Annotated[tuple[str, ...], arg(help="filters on columns, such as style=noto")] = ()
    model: Annotated[str, arg(help="the model, if it moved since the index was built")] = ""
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(Search, argv, "search", "Search an index by text or by picture.")
    if not args.query.strip():
        raise ConfigError("the query is empty: say some words or the path of a picture")
    from diptych.api import open_index

    picture = Path(args.query) if args.query.lower().endswith(PICTURES) else None
    if picture is not None and not picture.is_file():
        raise ConfigError(f"{picture} does not exist (a query that ends like a picture is taken for a path)")
    with open_index(args.index, model=args.model) as opened:
        where = filters(args.where)
        hits = (
            opened.search_image(picture, args.k, where=where) if picture else opened.search_text(args.query, args.k, where=where)
        )
    lines = [f"{hit.score:6.3f}  {hit.uid}  {hit.payload.get('text') or hit.payload.get('caption') or ''}" for hit in hits]
    return finish({"query": args.query, "hits": [asdict(hit) for hit in hits]}, lines or ["nothing found"], args.json)


def filters(words: Sequence[str]) -> dict[str, Any] | None:
    """``style=noto`` and ``style=noto,twemoji`` to a filter; None without any."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"filter {word!r} (expected COLUMN=VALUE, or COLUMN=VALUE,VALUE)")
        found[name] = value.split(",") if "," in value else value
    return found or None
