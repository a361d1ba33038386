"""MC-Bench's annotations (Xu et al., 2024, arXiv 2410.12332): pairs of pictures with a text, and boxes in both, as COCO-like JSON.

{"images": [{"id", "text_id", "pair_image_id", "inter_img_id", "file_name", "height", "width"}],
 "annotations": [{"id", "image_id", "text_id", "category_id", "bbox": [x, y, w, h], "iscrowd"}],
 "descriptions": [{"id", "images_id": [a, b], "text", "positive_sample", "text_style"}],
 "categories": [{"id", "name": "group 1"}, ...]}
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.core.disk.json_text import parse_json
from diptych.core.errors import DataError
from diptych.core.image import FileImage
from diptych.core.media import MediaItem
from diptych.core.sample import Sample
from diptych.data.dataset import Pool

FIELD = "multi_context"
"""What a sample of pictures asks for, in its extras: `text`, `style`, `positive`, and of each of `images` its `id`, `width`, `height`, and
the `boxes` (xyxy pixels), `groups` and `crowd` of what the text means; `categories` are the names of the groups by number."""
LARGEST = 1 << 28  # bytes of a file that is looked into
FOLDERS = ("", "mc-bench_images", "images")
"""Where pictures lie beside the annotations."""


def holds(path: Path) -> bool:
    """True if a file is of this form."""
    if path.suffix.lower() != ".json" or not path.is_file() or not 0 < path.stat().st_size <= LARGEST:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return whole.find(b'"descriptions"') >= 0 and whole.find(b'"images_id"') >= 0


def read_multi_context(path: Path, *, name: str = "", root: Path | None = None) -> Pool:
    """A sample for each text, with its pictures as `media["images"]`.

    root  the folder of the pictures; else that of the file, or `mc-bench_images` beside it
    Raises DataError for a text without pictures, a picture or box that points nowhere, a box without area, and a category that is not
    declared, naming the record.
    """
    try:
        plain = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"is not valid JSON: {error}", file=path, expected="annotations of MC-Bench") from error
    parts = {part: _records_of(plain, part, path) for part in ("images", "annotations", "descriptions", "categories")}
    images = {entry["id"]: {**entry, "place": position} for position, entry in enumerate(parts["images"])}
    names = {int(entry["id"]): str(entry.get("name", entry["id"])) for entry in parts["categories"]}
    boxes: dict[Any, list[Mapping[str, Any]]] = {}
    for row, entry in enumerate(parts["annotations"]):
        _check_annotation(entry, row, images, names, path)
        boxes.setdefault(entry["image_id"], []).append(entry)
    samples = []
    for row, text in enumerate(parts["descriptions"]):
        shown = [images.get(one) for one in text.get("images_id", [])]
        if len(shown) < 2 or None in shown:
            raise DataError(
                f"description {text['id']} has the pictures {text.get('images_id')}",
                file=path,
                row=row,
                field="images_id",
                expected="ids of two entries of 'images' or more",
            )
        if not isinstance(text.get("text"), str) or not text["text"].strip():
            raise DataError(f"description {text['id']} has no text", file=path, row=row, field="text", expected="words")
        entries = [entry for entry in shown if entry is not None]
        sources = tuple(FileImage(_file(str(entry["file_name"]), path, root)) for entry in entries)
        question_fields = {
            "text": text["text"],
            "style": str(text.get("text_style", "")),
            "positive": bool(text.get("positive_sample", any(boxes.get(entry["id"]) for entry in entries))),
            "categories": {str(number): name for number, name in names.items()},
            "images": [_truth(entry, boxes.get(entry["id"], ())) for entry in entries],
        }
        media = {"images": MediaItem("images", sources)}
        samples.append(Sample(f"mc-{int(text['id']):05d}", media=media, extras={FIELD: question_fields}, source="mc_bench"))
    pool = Pool.from_samples(samples, name=name or path.stem)
    pool.notes.append(f"read as mc_bench: {len(samples):,} texts about pairs of pictures")
    return pool


def _records_of(plain: Any, part: str, path: Path) -> list[Any]:
    records = plain.get(part) if isinstance(plain, Mapping) else None
    if not isinstance(records, list) or not all(isinstance(entry, Mapping) and "id" in entry for entry in records):
        raise DataError(f"'{part}' is {str(records)[:60]}", file=path, field=part, expected="a list of records with an id")
    return records


def _check_annotation(
    entry: Mapping[str, Any], row: int, images: Mapping[Any, Any], names: Mapping[int, str], path: Path
) -> None:
    if entry.get("image_id") not in images:
        raise DataError(
            f"annotation {entry['id']} is of picture {entry.get('image_id')}",
            file=path,
            row=row,
            field="image_id",
            expected="an id in 'images'",
        )
    if entry.get("category_id") not in names:
        raise DataError(
            f"annotation {entry['id']} has the category {entry.get('category_id')}",
            file=path,
            row=row,
            field="category_id",
            expected=f"one of {sorted(names)}",
        )
    box = entry.get("bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(isinstance(end, int | float) for end in box) and min(box[2:]) > 0):
        raise DataError(
            f"annotation {entry['id']} has the box {box}",
            file=path,
            row=row,
            field="bbox",
            expected="[x, y, width, height] with an area",
        )


def _truth(image: Mapping[str, Any], entries: Any) -> dict[str, Any]:
    rows = [(*entry["bbox"][:2], entry["bbox"][0] + entry["bbox"][2], entry["bbox"][1] + entry["bbox"][3]) for entry in entries]
    return {
        "id": int(image["id"]),
        "place": int(image["place"]),
        "width": int(image["width"]),
        "height": int(image["height"]),
        "boxes": [[float(end) for end in box] for box in rows],
        "groups": [int(entry["category_id"]) for entry in entries],
        "crowd": [bool(entry.get("iscrowd", 0)) for entry in entries],
    }


def _file(name: str, path: Path, root: Path | None) -> Path:
    folders = [root] if root is not None else [path.parent / folder for folder in FOLDERS]
    return next((folder / name for folder in folders if (folder / name).is_file()), folders[0] / name)
