"""``diptych segment MODEL IMAGE... --out picture.png``: the class of every pixel, as a picture and as a file of class numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from diptych.cli.options.output import DEVICE, existing_file, finish, listed, parse
from diptych.core.errors import ConfigError


@dataclass(frozen=True)
class SegmentArgs:
    model: Annotated[Positional[str], arg(metavar="MODEL", help="a run's folder")]
    images: Annotated[
        Positional[tuple[Path, ...]], arg(metavar="IMAGE ...", help="picture files", help_behavior_hint="(one or more)")
    ]
    labels: Annotated[str, arg(help="class names, separated by commas; empty: all of training")] = ""
    out: Annotated[Path | None, arg(help="picture with the classes in colours (.png); a folder for several images")] = None
    maps: Annotated[Path | None, arg(help="class indices as grey values (.png); a folder for several images")] = None
    device: DEVICE = "auto"
    json: Annotated[bool, arg(help="print one JSON object")] = False


def main(argv: Sequence[str]) -> int:
    args = parse(SegmentArgs, argv, "segment", "Say of every pixel which class it belongs to, with a model that segments.")
    for path in args.images:
        existing_file(path)
    if not args.images:
        raise ConfigError("no image is given: diptych segment MODEL IMAGE")
    import numpy as np

    from diptych.api import load
    from diptych.core.contracts import Segmenter
    from diptych.core.image import FileImage
    from diptych.data.media.decode import decode, encode_png
    from diptych.models.io.open_address import require
    from diptych.report.segments import segment_picture

    model: Any = load(args.model)
    require(model, Segmenter, who="diptych segment")
    names = listed(args.labels) or tuple(model.classes)
    answers, lines = [], []
    for path in args.images:
        image = FileImage(path)
        label_HW = model.segment([image], names)[0]
        share_K = np.bincount(label_HW.ravel(), minlength=len(names)) / label_HW.size
        shares = sorted(((float(s), name) for s, name in zip(share_K, names, strict=True) if s), reverse=True)
        answers.append({"image": str(path), "classes": [{"name": name, "share": share} for share, name in shares]})
        lines.append(f"{path}: " + ", ".join(f"{name} {100 * share:.1f} %" for share, name in shares))
        if args.out is not None:
            path_of_output = _output_path(args.out, path, len(args.images))
            path_of_output.write_bytes(encode_png(segment_picture(decode(image), label_HW, names)))
            lines.append(f"  picture: {path_of_output}")
        if args.maps is not None:
            if len(names) > 255:
                raise ConfigError(f"{len(names)} classes do not fit a picture of 8 bits (expected --labels with fewer)")
            path_of_output = _output_path(args.maps, path, len(args.images))
            _write_map(path_of_output, label_HW.astype(np.uint8))
            lines.append(f"  classes by number: {path_of_output}")
    return finish({"answers": answers, "labels": list(names)}, lines, args.json)


def _output_path(wanted: Path, image: Path, count: int) -> Path:
    """The file itself for one image; for several, a file named like the image in that folder."""
    if count == 1 and wanted.suffix:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        return wanted
    wanted.mkdir(parents=True, exist_ok=True)
    return wanted / f"{image.stem}.png"


def _write_map(path: Path, label_HW: Any) -> None:
    from PIL import Image

    Image.fromarray(label_HW).save(path, format="PNG")
