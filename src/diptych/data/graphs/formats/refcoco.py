"""RefCOCO, RefCOCO+ and RefCOCOg as their authors publish them: expressions that each mean one box.

    refs(unc).p      a list of {"ref_id", "ann_id", "image_id", "file_name", "category_id", "split", "sentences": [{"raw", "sent"}]}
    instances.json   boxes of COCO: images, annotations, categories

The pickle is read without unpickling (`layouts.pickled`). One sample an image; every expression is a sentence whose only phrase is the
whole of it and means its box (`extras["grounding"]`). The splits are those of the file: train, val, test (refcocog), testA and testB.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from diptych.core.errors import DataError
from diptych.data.dataset import Pool
from diptych.data.graphs.collect import Collector
from diptych.data.graphs.entries import BoxAnnotation, ImageAnnotation, PhraseAnnotation
from diptych.data.graphs.fields import corners, ident, need
from diptych.data.graphs.find import load_json
from diptych.data.read.layouts.pickled import read_plain

PATTERN = "refs(*).p"
BOXES = "instances.json"


def read(source: Path, *, name: str, root: Path | None = None) -> Pool:
    """A folder with `instances.json` and one file of references, or that file itself."""
    files = [source] if source.is_file() else sorted(source.glob(PATTERN))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise DataError(
            f"holds {len(files)} files of references ({names})", file=source, expected=f"one {PATTERN}: give its path"
        )
    file = files[0]
    references = read_plain(file)
    if not isinstance(references, list):
        raise DataError(f"holds a {type(references).__name__}", file=file, expected="a list of references")
    instances = load_json(file.parent / BOXES)
    try:
        boxes, sizes = _boxes(need(instances, "annotations", list)), _sizes(need(instances, "images", list))
        labels = {ident(one, "id"): need(one, "name", str) for one in need(instances, "categories", list)}
    except DataError as error:
        raise DataError(error.problem, file=file.parent / BOXES, field=error.field, expected=error.expected) from None
    collect = Collector(source, file, root=root)
    collect.open(file)
    by_image: dict[Any, list[tuple[int, Any]]] = {}
    for row, reference in enumerate(references):
        key = reference.get("image_id") if isinstance(reference, dict) else None
        if not isinstance(key, int | str):
            collect.bad(row, f"is not a reference with an image_id: {str(reference)[:60]}")
            continue
        by_image.setdefault(key, []).append((row, reference))

    def entry(row: int, same: list[tuple[int, Any]]) -> ImageAnnotation:
        return _entry(same, boxes, sizes, labels)

    collect.each(((same[0][0], same) for same in by_image.values()), entry)
    return collect.pool(name)


def _boxes(annotations: list[Any]) -> dict[Any, Any]:
    return {one["id"]: one for one in annotations if isinstance(one, dict) and isinstance(one.get("id"), int | str)}


def _sizes(images: list[Any]) -> dict[Any, tuple[int, int, str]]:
    return {
        one["id"]: (one["width"], one["height"], str(one.get("file_name", "")))
        for one in images
        if isinstance(one, dict) and {"id", "width", "height"} <= one.keys()
    }


def _entry(
    same: list[tuple[int, Any]], boxes: dict[Any, Any], sizes: dict[Any, tuple[int, int, str]], labels: dict[Any, str]
) -> ImageAnnotation:
    row, first = same[0]
    number = ident(first, "image_id")
    splits = {need(reference, "split", str) for _, reference in same}
    if len(splits) > 1:
        raise DataError(f"image {number} is in several splits: {', '.join(sorted(splits))}", field="split", expected="one")
    width, height, stored = sizes.get(number, (0, 0, ""))
    named = need(first, "file_name", str)
    # COCO_train2014_000000581857_16.jpg is the box 16 of COCO_train2014_000000581857.jpg
    names = list(dict.fromkeys(filter(None, (stored, re.sub(r"_\d+(\.\w+)$", r"\1", named), named))))
    made = ImageAnnotation(row, number, names, (width, height) if width and height else None, extras={"split": splits.pop()})
    box_by_key: dict[Any, BoxAnnotation] = {}
    for position, reference in same:
        key = ident(reference, "ann_id")
        if key not in boxes:
            raise DataError(f"reference {position} means the box {key}, which {BOXES} does not have", field="ann_id")
        label = labels.get(boxes[key].get("category_id"), "")
        xyxy = corners(boxes[key].get("bbox"), sides=True)
        box_by_key.setdefault(key, BoxAnnotation(key, xyxy, label or "object", where=f"annotation {key}"))
        for sentence in need(reference, "sentences", list):
            words = str(sentence.get("sent") or sentence.get("raw") or "").strip() if isinstance(sentence, dict) else ""
            if words:
                made.sentences.append((words, [PhraseAnnotation([[0, len(words)]], [key])]))
    made.boxes = list(box_by_key.values())
    return made
