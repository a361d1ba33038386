"""OmniLabel: free-form object descriptions, each annotated as present or absent in some pictures (Schulter et al., 2023, 2304.11463).

    dataset_all_val.json   images: [{"id", "file_name"}]
                           descriptions: [{"id", "text", "image_ids": [...], "anno_info": {"type": ...}}]
                           annotations: [{"image_id", "bbox": [x, y, width, height], "description_ids": [...], "iscrowd"}]

The type is "object_category" or "object_description". Each description that lists an image is a sentence of one phrase, the whole text,
with the regions that it means; none where it is a negative. The kind is "description" for a free description and "category" for a plain
name. A region is called by the first description that means it; a crowd keeps the attribute "crowd". A description that an annotation
names and that does not list the image is not asked for there, as in the released evaluation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.core.errors import DataError
from diptych.data.dataset import Pool
from diptych.data.graphs.collect import Collector
from diptych.data.graphs.entries import BoxAnnotation, ImageAnnotation, PhraseAnnotation
from diptych.data.graphs.fields import corners, ident, listed, need, split_of
from diptych.data.graphs.find import files_of, load_json
from diptych.data.graphs.formats.coco import CROWD

PATTERNS = ("dataset_*.json", "*.json")


def read(source: Path, *, name: str, root: Path | None = None) -> Pool:
    """One file, or a folder of them."""
    files = files_of(source, PATTERNS, "JSON")
    collect = Collector(source, files[0], root=root)
    for file in files:
        collect.open(file)
        value = load_json(file)
        try:
            images, descriptions = need(value, "images", list), need(value, "descriptions", list)
            texts = {ident(entry, "id"): (need(entry, "text", str), _kind(entry)) for entry in descriptions}
            text_ids_by_image: dict[Any, list[Any]] = {}
            for entry in descriptions:
                for image_id in need(entry, "image_ids", list):
                    text_ids_by_image.setdefault(image_id, []).append(entry["id"])
            boxes: dict[Any, list[tuple[int, Any]]] = {}
            for number, annotation in enumerate(listed(value, "annotations")):
                boxes.setdefault(ident(annotation, "image_id"), []).append((number, annotation))
        except DataError as error:
            raise DataError(error.problem, file=file, field=error.field, expected=error.expected) from None
        split = split_of(file)

        def entry_of(
            row: int,
            image: Any,
            texts: Any = texts,
            text_ids_by_image: Any = text_ids_by_image,
            boxes: Any = boxes,
            split: str = split,
        ) -> ImageAnnotation:
            key = ident(image, "id")
            made = ImageAnnotation(row, key, [need(image, "file_name", str)], extras={"split": split} if split else {})
            meant: dict[Any, list[Any]] = {}
            for number, annotation in boxes.get(key, ()):
                ids = need(annotation, "description_ids", list)
                if not ids or any(one not in texts for one in ids):
                    raise DataError(f"annotation {number} has the description_ids {ids}", expected="ids among the descriptions")
                where = f"annotation {number}"
                kinds = (CROWD,) if annotation.get("iscrowd") else ()
                made.boxes.append(
                    BoxAnnotation(number, corners(annotation.get("bbox"), sides=True), texts[ids[0]][0], kinds, where=where)
                )
                for one in ids:
                    meant.setdefault(one, []).append(number)
            for one in dict.fromkeys(text_ids_by_image.get(key, ())):
                text, kind = texts[one]
                made.sentences.append((text, [PhraseAnnotation([[0, len(text)]], meant.get(one, []), kind)]))
            return made

        collect.each(enumerate(images), entry_of)
    return collect.pool(name)


def _kind(entry: dict[str, Any]) -> str:
    kinds = {"object_category": "category", "object_description": "description"}
    kind = need(need(entry, "anno_info", dict), "type", str)
    if kind not in kinds:
        raise DataError(f"{kind!r} is not a description type", field="anno_info.type", expected=" | ".join(kinds))
    return kinds[kind]
