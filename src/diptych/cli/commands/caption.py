"""``diptych caption MODEL IMAGE...``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, existing_file, finish, note_empty, parse
from diptych.core.errors import ConfigError


@dataclass(frozen=True)
class CaptionArgs:
    model: Annotated[
        Positional[str], arg(metavar="MODEL", help="a run's folder, or hf:NAME of a generative vision-language model")
    ]
    images: Annotated[
        Positional[tuple[Path, ...]], arg(metavar="IMAGE ...", help="picture files", help_behavior_hint="(one or more)")
    ]
    prompt: Annotated[str, arg(help="the prompt; default: the model's own template")] = ""
    max_tokens: Annotated[int, arg(help="maximum number of tokens of a caption")] = 64
    beams: Annotated[int, arg(help="number of beams; 1 is greedy decoding")] = 1
    download: Annotated[bool, arg(help="allow downloading a model")] = False
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(CaptionArgs, argv, "caption", "Write a caption for each image.")
    if not args.images:
        raise ConfigError("no image is named (expected one picture file or more)")
    for path in args.images:
        existing_file(path)
    if args.max_tokens < 1 or args.beams < 1:
        raise ConfigError(f"--max-tokens is {args.max_tokens} and --beams {args.beams} (expected 1 or more)")
    from diptych.api import caption, load

    model = load(args.model, download=args.download)
    options = {"num_beams": args.beams} if args.beams > 1 else {}
    texts = caption(model, list(args.images), prompt=args.prompt, max_tokens=args.max_tokens, **options)
    note_empty(texts)
    captions = [{"image": str(path), "caption": text} for path, text in zip(args.images, texts, strict=True)]
    return finish({"captions": captions}, [f"{row['image']}: {row['caption']}" for row in captions], args.json)
