"""``diptych explain words MODEL IMAGE --out picture.png``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, existing_file, finish, parse
from diptych.core.errors import ConfigError

DESCRIPTION = (
    "Which words a lexical model (recipe lexlip) makes of a picture: these are what an index of kind lexical finds it by. Weights are of "
    "norm 1 over all words of the picture; pieces of words have '##' where they go on."
)


@dataclass(frozen=True)
class ExplainWordsArgs:
    model: Annotated[Positional[str], arg(metavar="MODEL", help="a run's folder, or a model's")]
    image: Annotated[Positional[Path], arg(metavar="IMAGE", help="a picture file")]
    top: Annotated[int, arg(help="number of words with the highest weights")] = 20
    out: Annotated[Path | None, arg(help="the picture beside a bar for each word (.png)")] = None
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(ExplainWordsArgs, argv, "explain words", DESCRIPTION)
    existing_file(args.image)
    if args.out is not None and args.out.suffix.lower() != ".png":
        raise ConfigError(f"--out is {args.out} (expected a file that ends in .png)")
    from diptych.api import load
    from diptych.core.image import FileImage
    from diptych.pipelines.picture_words import words_of

    image = FileImage(args.image)
    words = words_of(load(args.model), image, args.top)
    lines = words.lines()
    if args.out is not None:
        from diptych.data.media.decode import decode, encode_png
        from diptych.report.word_bars import word_bars

        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_bytes(encode_png(word_bars(decode(image, exact=True), words.words, words.weights)))
        lines.append(f"picture: {args.out}")
    return finish({"image": str(args.image), **words.to_json()}, lines, args.json)
