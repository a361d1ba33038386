"""``diptych explain align MODEL IMAGE "text" --out picture.png``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, existing_file, finish, parse
from diptych.core.errors import ConfigError

DESCRIPTION = (
    "Lay a text over a picture: for each word, how well every patch fits it. Models that embed patches and words say so themselves; "
    "others are asked with one part of the picture covered after the other. `diptych eval MODEL localisation` scores it where boxes are "
    "known."
)


@dataclass(frozen=True)
class ExplainAlignArgs:
    model: Annotated[Positional[str], arg(metavar="MODEL", help="a run's folder, or published weights")]
    image: Annotated[Positional[Path], arg(metavar="IMAGE", help="a picture file")]
    text: Annotated[Positional[str], arg(metavar="TEXT", help="the text to align with it")]
    out: Annotated[Path | None, arg(help="the picture once for the text and once for each word, with its weights (.png)")] = None
    grid: Annotated[int, arg(help="parts per side to cover, for models without patches: costs grid * grid + 1 embeddings")] = 7
    download: Annotated[bool, arg(help="allow downloading published weights")] = False
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(ExplainAlignArgs, argv, "explain align", DESCRIPTION)
    existing_file(args.image)
    if args.out is not None and args.out.suffix.lower() != ".png":
        raise ConfigError(f"--out is {args.out} (expected a file that ends in .png)")
    from diptych.api import load
    from diptych.core.image import FileImage
    from diptych.pipelines.alignment import align

    image = FileImage(args.image)
    alignment = align(load(args.model, download=args.download), image, args.text, grid=args.grid)
    lines = alignment.lines()
    if args.out is not None:
        from diptych.data.media.decode import decode, encode_png
        from diptych.report.alignment import alignment_picture

        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_bytes(
            encode_png(alignment_picture(decode(image, exact=True), alignment.words, alignment.weight_WHW, alignment.box))
        )
        lines.append(f"picture: {args.out}")
    return finish({"image": str(args.image), **alignment.to_json()}, lines, args.json)
