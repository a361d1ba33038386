"""``diptych slides embed MODEL DATA OUT | cut DATA OUT``: whole slides, tile by tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, finish, parse
from diptych.cli.options.subcommands import dispatch

JSON = Annotated[bool, arg(help="print one JSON object")]
MPP = Annotated[float, arg(help="micrometres per pixel of a tile")]
OVERLAP = Annotated[float, arg(help="share of a tile that overlaps with its neighbours")]
TISSUE = Annotated[float, arg(help="minimum share of tissue of a tile")]
SPACING = Annotated[float, arg(help="micrometres per pixel of slides without a resolution (0: they are left out)")]


@dataclass(frozen=True)
class SlidesEmbedArgs:
    model: Annotated[Positional[str], arg(metavar="MODEL")]
    data: Annotated[Positional[str], arg(metavar="DATA", help="samples with a slide")]
    out: Annotated[Positional[Path], arg(metavar="OUT", help="output folder, one file per slide")]
    size: Annotated[int, arg(help="side of a tile in pixels (0: the input size of the model)")] = 0
    mpp: MPP = 0.5
    overlap: OVERLAP = 0.0
    tissue: TISSUE = 0.25
    spacing: SPACING = 0.0
    overwrite: Annotated[bool, arg(help="recompute slides with an existing file")] = False
    batch_size: Annotated[int, arg(help="tiles per batch")] = 64
    device: DEVICE = "auto"
    json: JSON = False


@dataclass(frozen=True)
class SlidesCutArgs:
    data: Annotated[Positional[str], arg(metavar="DATA", help="samples with a slide")]
    out: Annotated[Positional[Path], arg(metavar="OUT", help="folder for the data set of tiles")]
    size: Annotated[int, arg(help="side of a tile in pixels")] = 224
    mpp: MPP = 0.5
    overlap: OVERLAP = 0.0
    tissue: TISSUE = 0.25
    spacing: SPACING = 0.0
    barcode: Annotated[str, arg(help="column of TCGA barcodes (or uid), whose patients become the groups")] = ""
    overwrite: Annotated[bool, arg(help="replace an existing data set")] = False
    json: JSON = False


def main(argv: Sequence[str]) -> int:
    subs = {
        "embed": (_embed, "features of every tile, a file a slide; goes on where it was stopped"),
        "cut": (_cut, "tiles as a data set, each with its place: to index, search and serve"),
    }
    return dispatch("slides", subs, argv)


def _embed(argv: Sequence[str]) -> int:
    args = parse(SlidesEmbedArgs, argv, "slides embed", "Embed the tiles of slides. Slides whose file is there are passed over.")
    from diptych.api import slide_features

    report = slide_features(args.model, args.data, args.out, **_options(args, "size", "overwrite", "batch_size"))
    return _finish_report(report, args.out, args.json)


def _cut(argv: Sequence[str]) -> int:
    args = parse(SlidesCutArgs, argv, "slides cut", "Write the tiles of slides as a data set, each with a picture of its place.")
    from diptych.api import cut_slides

    return _finish_report(cut_slides(args.data, args.out, **_options(args, "size", "overwrite", "barcode")), args.out, args.json)


def _options(args: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(args, name) for name in (*names, "mpp", "overlap", "tissue", "spacing")}


def _finish_report(report: Any, out: Path, as_json: bool) -> int:
    lines = [
        f"{out}: {report.tiles:,} tiles of {report.slides:,} slides" + (f", {report.kept:,} of them kept" if report.kept else "")
    ]
    lines += [f"  left out {uid}: {reason}" for uid, reason in report.unreadable]
    return finish({"out": str(out), **asdict(report)}, lines, as_json)
