"""Captions whose phrases have boxes, as MDETR's JSON has them: RefCOCO, RefCOCO+, RefCOCOg, Flickr30k, GQA and the mixed pre-training set.

    finetune_refcoco_val.json   images: [{"id", "file_name", "width", "height", "caption"}], one a sentence
                                annotations: [{"image_id", "bbox": [x, y, width, height], "tokens_positive": [[start, stop], ...]}]

Rows of the same file become one sample with several sentences (`extras["grounding"]`); equal boxes become one region, called by the
words of its first phrase. Boxes of a sentence with equal spans belong to one phrase. RefCOCO's own files are those of `refcoco`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.core.errors import DataError
from diptych.data.dataset import Pool
from diptych.data.graphs.collect import Collector
from diptych.data.graphs.entries import BoxAnnotation, ImageAnnotation, PhraseAnnotation
from diptych.data.graphs.fields import corners, ident, need, split_of
from diptych.data.graphs.find import files_of, load_json
from diptych.data.text.tokens.spans import SpanText, from_json

PATTERNS = ("*.json", "annotations/*.json")


def read(source: Path, *, name: str, root: Path | None = None) -> Pool:
    """One file, or a folder of them."""
    files = files_of(source, PATTERNS, "JSON")
    collect = Collector(source, files[0], root=root)
    for file in files:
        collect.open(file)
        value = load_json(file)
        try:
            images, annotations = need(value, "images", list), need(value, "annotations", list)
        except DataError as error:
            raise DataError(error.problem, file=file, field=error.field, expected=error.expected) from None
        boxes: dict[Any, list[tuple[int, Any]]] = {}
        for number, annotation in enumerate(annotations):
            key = annotation.get("image_id") if isinstance(annotation, dict) else None
            boxes.setdefault(key if isinstance(key, int | str) else None, []).append((number, annotation))
        rows: dict[str, list[tuple[int, Any]]] = {}
        for row, image in enumerate(images):
            named = image.get("file_name") if isinstance(image, dict) else None
            if not isinstance(named, str):
                collect.bad(row, f"the image has no file_name: {str(image)[:60]}")
                continue
            rows.setdefault(named, []).append((row, image))
        image_ids = {image.get("id") for same in rows.values() for _, image in same}
        for key, lost in boxes.items():
            if key not in image_ids:
                collect.bad(None, f"annotation {lost[0][0]} is of image_id {key}, which is not among the images")
        split = split_of(file)

        def entry(row: int, same: list[tuple[int, Any]], boxes: Any = boxes, split: str = split) -> ImageAnnotation:
            return _entry(same, boxes, split)

        collect.each(((same[0][0], same) for same in rows.values()), entry)
    return collect.pool(name)


def _entry(same: list[tuple[int, Any]], boxes: dict[Any, list[tuple[int, Any]]], split: str) -> ImageAnnotation:
    row, first = same[0]
    size = (first["width"], first["height"]) if first.get("width") and first.get("height") else None
    made = ImageAnnotation(row, ident(first, "id"), [first["file_name"]], size, extras={"split": split} if split else {})
    box_by_corners: dict[tuple[float, ...], BoxAnnotation] = {}
    for number, image in same:
        caption = need(image, "caption", str)
        phrases: dict[Any, PhraseAnnotation] = {}
        for position, annotation in boxes.get(ident(image, "id"), ()):
            xyxy = corners(annotation.get("bbox"), sides=True)
            spans = from_json(annotation.get("tokens_positive"), caption, f"annotation {position}")
            words = " ".join(SpanText(caption, {0: spans}).words(0))
            box = box_by_corners.setdefault(xyxy, BoxAnnotation(xyxy, xyxy, words, where=f"annotation {position}"))
            phrases.setdefault(spans, PhraseAnnotation([list(span) for span in spans])).boxes.append(box.key)
        if not phrases:
            raise DataError(f"the caption of image {number} has no box", expected="annotations of its id")
        made.sentences.append((caption, list(phrases.values())))
    made.boxes = list(box_by_corners.values())
    return made
