"""``diptych named-after DETECTOR DATA --out MODEL``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, finish, parse, say
from diptych.core.errors import ConfigError

DESCRIPTION = (
    "A detector that names what it finds like the crops that it looks most like. DETECTOR finds things of one name: train it on "
    "nameless:DATA, which is DATA with all things called 'thing'."
)


@dataclass(frozen=True)
class NamedAfterArgs:
    detector: Annotated[Positional[str], arg(metavar="DETECTOR", help="a run or model folder of a detector")]
    data: Annotated[Positional[str], arg(metavar="DATA", help="pictures with boxes and labels; of data with splits only 'train'")]
    out: Annotated[Path, arg(help="output model folder")] = Path()
    encoder: Annotated[
        str, arg(help="encoder of the crops: efficientnet-lite0, thumbnails (their pixels), or a model that embeds images")
    ] = "efficientnet-lite0"
    image_size: Annotated[int, arg(help="side of a crop in pixels; 0: 64, and 16 for thumbnails")] = 0
    called: Annotated[
        str, arg(help="label that the detector gives to all boxes; empty: the one name that it was trained with")
    ] = ""
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(NamedAfterArgs, argv, "named-after", DESCRIPTION)
    if args.out == Path():
        raise ConfigError("the output folder is missing: --out MODEL")
    from diptych.api import named_after

    options: dict[str, Any] = {"encoder": args.encoder, "image_size": args.image_size, "called": args.called}
    made = named_after(args.detector, args.data, args.out, **options)
    lost = made.crops.unreadable
    if lost:
        say(f"{len(lost):,} pictures cannot be read and have no crops: {', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}")
    crops, names = len(made.crops.names), len(made.objects)
    lines = [f"{args.out}: {crops:,} crops of {names:,} names; ask it with diptych detect {args.out} IMAGE"]
    return finish({"out": str(args.out), "crops": crops, "names": names, "unreadable": list(lost)}, lines, args.json)
