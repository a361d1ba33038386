"""``diptych export RUN OUT --to transformers|onnx``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from diptych.cli.output import finish, parse
from diptych.core.errors import ConfigError


@dataclass(frozen=True)
class Export:
    model: Annotated[Positional[str], arg(metavar="MODEL", help="a run folder or a model folder")]
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    to: Annotated[Literal["transformers", "onnx"], arg(help="what OUT will be")] = "onnx"
    json: Annotated[bool, arg(help="one JSON object on stdout")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(Export, argv, "export", "A transformers folder, or image.onnx and text.onnx.")
    from diptych.api import load
    from diptych.models.io.export import to_onnx, to_transformers
    from diptych.models.pairs.embedder import PairEmbedder

    model = load(args.model)
    if not isinstance(model, PairEmbedder):
        raise ConfigError(
            f"{args.model} is a {getattr(model, 'kind', 'foreign')} model; only dual encoders of ours can be exported"
        )
    (to_onnx if args.to == "onnx" else to_transformers)(model, args.out)
    files = sorted(path.name for path in args.out.iterdir())
    return finish({"out": str(args.out), "files": files}, [f"{args.out}: {', '.join(files)}"], args.json)
