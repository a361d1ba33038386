"""Label Studio's JSON export: boxes, polygons and relations that were drawn on pictures (labelstud.io, "JSON").

    project.json   [{"id", "data": {"image": "/data/upload/1/0f3c9a12-plan.png"},
                     "annotations": [{"result": [{"id", "type": "rectanglelabels", "original_width", "original_height",
                                                  "value": {"x", "y", "width", "height", "rectanglelabels": ["door"]}},
                                                 {"type": "relation", "from_id", "to_id", "direction", "labels": ["opens into"]}]}]}]

Positions are percent of the picture. The label of a shape stands in it, or in a part "labels" of the same id (`<Labels>` beside
`<Rectangle>`). Further labels of a box and its choices become attributes; a relation drawn both ways is two. Of
several annotations of a task the one marked as ground truth is read, else the first that was not cancelled. A picture is looked for under
the path below the storage, and by its file name without the eight characters that an upload puts before it. Turned boxes, brushes and key
points are left out, and so is a relation without a label.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from diptych.core.errors import DataError
from diptych.data.dataset import Pool
from diptych.data.graphs.collect import Collector
from diptych.data.graphs.entries import BoxAnnotation, ImageAnnotation, RelationAnnotation
from diptych.data.graphs.fields import corners, listed, need, split_of
from diptych.data.graphs.find import files_of, load_list

PATTERNS = ("*.json",)
SHAPES = ("rectanglelabels", "rectangle", "polygonlabels", "polygon")
UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")


def read(source: Path, *, name: str, root: Path | None = None) -> Pool:
    """One file, or a folder with one for each split."""
    files = files_of(source, PATTERNS, "JSON")
    collect = Collector(source, files[0], root=root)
    for file in files:
        collect.open(file)
        split = split_of(file)

        def entry(row: int, task: Any, split: str = split) -> ImageAnnotation | None:
            several = [one for one in need(task, "annotations", list) if not one.get("was_cancelled")]
            if not several:
                return None
            if len(several) > 1:
                collect.bad(row, f"has {len(several)} annotations, of which one was read")
            made = ImageAnnotation(row, task.get("id", row), _names(task), relative=True)
            chosen = next((one for one in several if one.get("ground_truth")), several[0])
            _read_result(need(chosen, "result", list), made)
            made.extras = {"split": split} if split else {}
            return made

        collect.each(enumerate(load_list(file, "tasks")), entry)
    return collect.pool(name)


def _names(task: dict[str, Any]) -> list[str]:
    """Candidate file names of the picture of a task, the one with its folders first."""
    data = need(task, "data", dict)
    address = data.get("image") or next((value for value in data.values() if isinstance(value, str) and "." in value), None)
    if not isinstance(address, str):
        raise DataError("does not name a picture", field="data", expected='{"image": path or address}')
    parts = urlsplit(address)
    path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0].lstrip("/")
    last = path.rpartition("/")[2]
    return list(dict.fromkeys([path, last, UPLOADED.sub("", last)]))


def _read_result(result: list[Any], made: ImageAnnotation) -> None:
    """Boxes and relations of one annotation."""
    named: dict[str, dict[Any, list[str]]] = {"choices": {}, "labels": {}}
    shapes = {part.get("id") for part in result if part.get("type") in SHAPES}
    for part in result:
        if (kind := part.get("type")) in named and "id" in part:
            named[kind].setdefault(part["id"], []).extend(map(str, listed(need(part, "value", dict), kind)))
    for number, part in enumerate(result):
        kind, where = part.get("type"), f"result {number}"
        if kind == "relation":
            made.links += _relations(part)
        elif kind in SHAPES:
            key = part.get("id")
            made.boxes.append(_box(part, where, named["labels"].get(key, []), named["choices"].get(key, [])))
        elif kind != "choices" and not (kind == "labels" and part.get("id") in shapes):
            made.boxes.append(
                BoxAnnotation(("part", number), corners(None), "", fault=f"{kind} is neither a box nor a polygon", where=where)
            )


def _box(part: dict[str, Any], where: str, labels: list[str], choices: list[str]) -> BoxAnnotation:
    value = need(part, "value", dict)
    labels = next((listed(value, name) for name in ("rectanglelabels", "polygonlabels", "labels") if value.get(name)), labels)
    fault = "" if labels else "it has no label"
    mask: list[list[float]] | None = None
    if points := value.get("points"):
        xs, ys = zip(*((float(x), float(y)) for x, y in points), strict=True)
        xyxy = (min(xs), min(ys), max(xs), max(ys))
        size = part.get("original_width"), part.get("original_height")
        mask = [[at * side / 100 for point in points for at, side in zip(point, size, strict=True)]] if all(size) else None
    else:
        xyxy = corners([value.get(side) for side in ("x", "y", "width", "height")], sides=True)
        fault = fault or ("it is turned" if value.get("rotation") else "")
    x0, y0, x1, y1 = (side / 100 for side in xyxy)
    names = [*map(str, labels), *choices]
    return BoxAnnotation(
        part.get("id"), (x0, y0, x1, y1), names[0] if labels else "", tuple(names[1:]), mask=mask, fault=fault, where=where
    )


def _relations(part: dict[str, Any]) -> list[RelationAnnotation]:
    ends = need(part, "from_id"), need(part, "to_id")
    labels = [str(label) for label in listed(part, "labels")]
    if not labels:
        return [RelationAnnotation(ends[0], "", ends[1], fault="it has no label")]
    ways = {"left": [ends[::-1]], "bi": [ends, ends[::-1]]}.get(str(part.get("direction")), [ends])
    return [RelationAnnotation(subject, label, object_) for label in labels for subject, object_ in ways]
