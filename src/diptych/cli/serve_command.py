"""``diptych serve MODEL [--index INDEX] [--data D]``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from diptych.cli.output import parse, say


@dataclass(frozen=True)
class Serve:
    model: Annotated[Positional[str], arg(metavar="MODEL")]
    index: Annotated[Path, arg(help="an index that this model built; adds /search and the page")] = Path()
    data: Annotated[str, arg(help="the data of the index, for its pictures")] = ""
    host: str = "127.0.0.1"
    port: int = 8000
    download: bool = False


def main(argv: Sequence[str]) -> int:
    args = parse(Serve, argv, "serve", "Embeddings over HTTP, and a search page.")
    from diptych.api import load, open_index, read
    from diptych.serve.app import run

    model = load(args.model, download=args.download)
    index = open_index(args.index, model=model) if args.index != Path() else None
    say(f"http://{args.host}:{args.port}/")
    run(model, index, pool=read(args.data) if args.data else None, host=args.host, port=args.port)
    return 0
