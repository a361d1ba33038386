"""``diptych run SLUG``: start a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from diptych.cli.output import finish, parse
from diptych.cli.subcommands import dispatch
from diptych.core.errors import ConfigError


@dataclass(frozen=True)
class Composed:
    index: Annotated[Path, arg(help="the index to search")]
    image: Annotated[Path, arg(help="the picture that the answers should resemble")]
    text: Annotated[str, arg(help="what they should have beside, or lack with a negative weight")]
    weight: Annotated[float, arg(help="of the text beside the picture")] = 2.0
    k: Annotated[int, arg(aliases=["-k"], help="how many answers")] = 5
    model: Annotated[str, arg(help="the model, if it moved since the index was built")] = ""
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False


def main(argv: Sequence[str]) -> int:
    subs = {"composed_search": (_composed, "a picture and a text together: 'this, but at night'")}
    return dispatch("run", subs, argv)


def _composed(argv: Sequence[str]) -> int:
    args = parse(Composed, argv, "run composed_search", "Search with a picture and a text together.")
    if not args.image.is_file():
        raise ConfigError(f"{args.image} does not exist")
    from diptych.api import open_index
    from diptych.core.image import FileImage
    from diptych.pipelines.composed_search import ComposedSearch

    with open_index(args.index, model=args.model) as opened:
        assert opened.embedder is not None
        hits = ComposedSearch(opened.embedder, opened, args.weight)(FileImage(args.image), args.text, k=args.k)
    lines = [f"{hit.score:6.3f}  {hit.uid}  {hit.payload.get('text') or hit.payload.get('caption') or ''}" for hit in hits]
    return finish({"hits": [asdict(hit) for hit in hits]}, lines, args.json)
