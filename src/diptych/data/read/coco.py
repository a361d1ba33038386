"""Caption files in JSON: COCO ("images", "annotations"), Karpathy's splits ("images" with "sentences"), or a list of objects."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.core.errors import DataError
from diptych.data.dataset import Pool
from diptych.data.quarantine import Bad
from diptych.data.read.assemble import Found, assemble
from diptych.data.read.rows import Rows
from diptych.data.read.wanted import Wanted
from diptych.data.shards.sidecar import text_of

KARPATHY_SPLITS = {"restval": "train"}
"""Karpathy's fourth split belongs to training."""


def read_json(path: Path, wanted: Wanted, *, name: str, root: Path | None = None) -> Pool:
    """Recognise the kind by its keys."""
    text = text_of(path.read_bytes(), "", str(path))
    if isinstance(text, Bad):
        raise DataError(text.reason, file=path)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"is not JSON: {error.msg} in line {error.lineno}", file=path) from error
    bad: list[Bad] = []
    if isinstance(value, dict) and isinstance(value.get("images"), list):
        images = value["images"]
        if isinstance(value.get("annotations"), list):
            rows = _coco(path, images, value["annotations"], bad)
        elif images and "sentences" in images[0]:
            rows = _karpathy(path, images)
        else:
            raise DataError(
                "has images but neither 'annotations' nor 'sentences'", file=path, expected="COCO or Karpathy captions"
            )
        found_root = root or _root(path, [str(row["image"]) for row in rows[:20]])
        wanted = replace(wanted, image="image", text=wanted.text or {"captions": ""})
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        rows, found_root = value, root or path.parent
    else:
        kind = f"an object with {', '.join(list(value)[:6])}" if isinstance(value, dict) else f"a {type(value).__name__}"
        raise DataError(f"holds {kind}", file=path, expected="COCO captions, Karpathy splits, or a list of objects")
    collected = Rows()
    for row in rows:
        collected.add(row)
    if not len(collected):
        raise DataError("names no image", file=path, expected="at least one image")
    return assemble(Found(name, collected.table(), str(path), root=str(found_root), bad=bad), wanted)


def _coco(path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]], bad: list[Bad]) -> list[dict[str, Any]]:
    """A row an image, with its captions in the order of the annotations."""
    captions: dict[Any, list[str]] = {}
    for row, annotation in enumerate(annotations):
        if "caption" not in annotation or "image_id" not in annotation:
            there = ", ".join(annotation)
            raise DataError(f"annotation has {there}", file=path, row=row, field="annotations", expected="image_id and caption")
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    rows = []
    for row, image in enumerate(images):
        if "file_name" not in image or "id" not in image:
            raise DataError(f"image has {', '.join(image)}", file=path, row=row, field="images", expected="id and file_name")
        rows.append({"image": image["file_name"], "coco_id": image["id"], "captions": captions.pop(image["id"], [])})
    bad += [Bad("", "read", f"captions of image_id {key}, which is not among the images", str(path)) for key in captions]
    return rows


def _karpathy(path: Path, images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for row, image in enumerate(images):
        if "filename" not in image or "split" not in image:
            raise DataError(
                f"image has {', '.join(image)}", file=path, row=row, field="images", expected="filename, split, sentences"
            )
        folder = image.get("filepath", "")
        rows.append(
            {
                "image": f"{folder}/{image['filename']}" if folder else image["filename"],
                "split": KARPATHY_SPLITS.get(image["split"], image["split"]),
                "captions": [sentence["raw"] for sentence in image["sentences"]],
                **({"coco_id": image["cocoid"]} if "cocoid" in image else {}),
            }
        )
    return rows


def _root(path: Path, names: list[str]) -> Path:
    """The folder under which the first images lie: beside the file, one up, or a folder there (``val2017/``)."""
    near = [path.parent, path.parent.parent]
    near += [folder for place in near for folder in sorted(place.iterdir()) if folder.is_dir()]
    for folder in near:
        if any((folder / name).is_file() for name in names):
            return folder
    raise DataError(f"image {names[0] if names else ''} was found nowhere near", file=path, expected="root=FOLDER of the images")
