"""``diptych explain tokens MODEL IMAGE --out picture.png``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, existing_file, finish, parse
from diptych.core.errors import ConfigError

DESCRIPTION = (
    "Patches that each image token of a language model stands for, for models that reduce tokens (simvlg, pllava, mono_internvl): outlines "
    "of the tokens, and each token's mean colour. Several pictures are the frames of a clip."
)


@dataclass(frozen=True)
class ExplainTokensArgs:
    model: Annotated[Positional[str], arg(metavar="MODEL", help="a run's folder")]
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE ...", help="a picture file, or the frames of a clip")]
    out: Annotated[Path | None, arg(help="the picture with the tokens' outlines and mean colours (.png)")] = None
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(ExplainTokensArgs, argv, "explain tokens", DESCRIPTION)
    if not args.images:
        raise ConfigError("no picture is given (expected a file, or the frames of a clip)")
    for path in args.images:
        existing_file(path)
    if args.out is not None and args.out.suffix.lower() != ".png":
        raise ConfigError(f"--out is {args.out} (expected a file that ends in .png)")
    from diptych.api import load
    from diptych.core.image import FileImage
    from diptych.models.bridges.writer import BridgeGenerator
    from diptych.pipelines.token_sources import token_sources

    model = load(args.model)
    if not isinstance(model, BridgeGenerator):
        raise ConfigError(
            f"{args.model} has no image tokens before a language model (expected a run of simvlg, pllava or the like)"
        )
    images = [FileImage(path) for path in args.images]
    sources = token_sources(model, images)
    lines = sources.lines()
    if args.out is not None:
        from diptych.data.media.decode import decode, encode_png
        from diptych.report.token_sources import token_source_picture

        shown = [decode(images[number], exact=True) for number in sources.frames]
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_bytes(encode_png(token_source_picture(shown, sources.owners, sources.box)))
        lines.append(f"picture: {args.out}")
    return finish({"images": [str(path) for path in args.images], **sources.to_json()}, lines, args.json)
