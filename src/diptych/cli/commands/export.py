"""``diptych export RUN OUT --to transformers|open_clip|onnx|sentence-transformers|adapter|diptych``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from diptych.cli.options.output import finish, parse


@dataclass(frozen=True)
class ExportArgs:
    model: Annotated[Positional[str], arg(metavar="MODEL", help="a run folder, a model folder, or lora:ADAPTER#BASE")]
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    to: Annotated[
        Literal["transformers", "open_clip", "onnx", "sentence-transformers", "adapter", "diptych"],
        arg(
            help="format of OUT; adapter: the run's adapters for the CLIPModel of its initial weights; diptych: a model folder of Diptych"
        ),
    ] = "onnx"
    like: Annotated[str, arg(help="hf:FOLDER or open_clip:ARCH/FILE of the original weights: OUT gets the same model class")] = ""
    download: Annotated[bool, arg(help="allow downloading a model")] = False
    push: Annotated[str, arg(metavar="OWNER/NAME", help="also upload OUT to a model hub; run `hf auth login` first")] = ""
    public: Annotated[bool, arg(help="make the repository of --push public")] = False
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(
        ExportArgs,
        argv,
        "export",
        "A folder for transformers, open_clip, sentence-transformers, peft or ours, or two ONNX files.",
    )
    from diptych.api.exports import export

    export(args.model, args.out, to=args.to, like=args.like, download=args.download, push=args.push, public=args.public)
    files = sorted(path.name for path in args.out.iterdir())
    payload: dict[str, object] = {"out": str(args.out), "files": files}
    lines = [f"{args.out}: {', '.join(files)}"]
    if args.push:
        payload["pushed"] = args.push
        lines.append(f"sent to {args.push}")
    return finish(payload, lines, args.json)
