"""CVAT's XML for images, version 1.1: boxes and polygons with attributes (cvat.ai, "CVAT for images 1.1").

    annotations.xml   <annotations><version>1.1</version>
                        <image id="0" name="plans/a.png" subset="Train" width="640" height="480">
                          <box label="door" xtl="12.5" ytl="40" xbr="60" ybr="98"><attribute name="state">open</attribute></box>
                          <polygon label="room" points="0,0;90,0;90,70"/></image></annotations>

An attribute becomes its value, a checked box its name, an unchecked one nothing. CVAT has no relations between boxes. Turned boxes, points,
lines, masks and tracks over frames are left out.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from diptych.core.errors import DataError
from diptych.data.dataset import Pool
from diptych.data.graphs.collect import Collector
from diptych.data.graphs.entries import BoxAnnotation, ImageAnnotation
from diptych.data.graphs.fields import corners, split_of
from diptych.data.graphs.find import files_of, read_text

PATTERNS = ("annotations.xml", "*.xml")
SUBSETS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
OTHERS = ("points", "polyline", "mask", "cuboid", "ellipse", "skeleton")


def read(source: Path, *, name: str, root: Path | None = None) -> Pool:
    """One file, or a folder with one for each split."""
    files = files_of(source, PATTERNS, "XML")
    collect = Collector(source, files[0], root=root)
    for file in files:
        collect.open(file)
        split = split_of(file)
        collect.each(enumerate(_images(file)), lambda row, image, split=split: _entry(row, image, split))  # type: ignore[misc]
    return collect.pool(name)


def _images(file: Path) -> list[ElementTree.Element]:
    text = read_text(file)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError("declares its own entities", file=file, expected="CVAT for images 1.1")
    try:
        tree = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"is not XML: {error}", file=file) from error
    if tree.tag != "annotations" or tree.find("image") is None:
        raise DataError(f"contains no image below <{tree.tag}>", file=file, expected="CVAT for images 1.1, not for video")
    return tree.findall("image")


def _entry(row: int, image: ElementTree.Element, split: str) -> ImageAnnotation:
    if not image.get("name"):
        raise DataError("has no name", field="image", expected='<image name="a.png" ...>')
    path = str(image.get("name"))
    sides = tuple(int(image.get(side, 0)) for side in ("width", "height"))
    made = ImageAnnotation(row, image.get("id", row), list(dict.fromkeys([path, path.rpartition("/")[2]])))
    made.size = (sides[0], sides[1]) if all(sides) else None
    made.boxes = [_box(number, element) for number, element in enumerate(image) if element.tag in ("box", "polygon", *OTHERS)]
    subset = SUBSETS.get(image.get("subset", "").lower(), split)
    made.extras = {"split": subset} if subset else {}
    return made


def _box(number: int, element: ElementTree.Element) -> BoxAnnotation:
    mask: Any = None
    xyxy, fault = corners(None), ""
    if element.tag == "box":
        xyxy = corners([element.get(side) for side in ("xtl", "ytl", "xbr", "ybr")])
        fault = "it is turned" if float(element.get("rotation", 0)) else ""
    elif element.tag == "polygon":
        points = [tuple(map(float, point.split(","))) for point in element.get("points", "").split(";")]
        if any(len(point) != 2 or not all(map(math.isfinite, point)) for point in points):
            raise DataError("has points that are not pairs of numbers", field="points", expected="x,y;x,y;...")
        xs, ys = zip(*points, strict=True)
        xyxy, mask = (min(xs), min(ys), max(xs), max(ys)), [[side for point in points for side in point]]
    else:
        fault = f"a {element.tag} is neither a box nor a polygon"
    attributes = tuple(filter(None, map(_attribute, element.findall("attribute"))))
    return BoxAnnotation(number, xyxy, element.get("label", ""), attributes, mask=mask, fault=fault, where=f"shape {number}")


def _attribute(element: ElementTree.Element) -> str:
    """Value of an attribute; the name of one that is checked, "" for one that is not."""
    value = (element.text or "").strip()
    return {"true": element.get("name", ""), "false": ""}.get(value.lower(), value)
