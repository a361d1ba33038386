"""Caption files in JSON: COCO ("images", "annotations"), Karpathy's splits ("images" with "sentences"), persons, a list of objects, or
groups of images with the same captions (`semantic_groups`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.core.disk.json_text import parse_json
from diptych.core.disk.paths import is_file, is_utf8, read_file
from diptych.core.errors import DataError
from diptych.data.dataset import Pool
from diptych.data.quarantine import QuarantineEntry
from diptych.data.read.assemble import SourceRows, assemble
from diptych.data.read.persons import describes_persons, market_rows, person_rows, root_of
from diptych.data.read.read_options import ReadOptions
from diptych.data.read.rows import Rows
from diptych.data.read.semantic_groups import holds_groups
from diptych.data.read.semantic_groups import rows_of as semantic_groups
from diptych.data.shards.sidecar import text_of

KARPATHY_SPLITS = {"restval": "train"}
"""Karpathy's fourth split belongs to training."""


def read_json(path: Path, options: ReadOptions, *, name: str, root: Path | None = None) -> Pool:
    """Read a JSON file of any of these kinds, recognised by its keys. Malformed entries are left out."""
    try:
        text = text_of(read_file(path), "", str(path))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=path, expected="a file") from error
    if isinstance(text, QuarantineEntry):
        raise DataError(text.reason, file=path)
    try:
        value = parse_json(text)
    except json.JSONDecodeError as error:
        raise DataError(f"is not JSON: {error.msg} in line {error.lineno}", file=path) from error
    except ValueError as error:
        raise DataError(str(error), file=path, expected="captions") from error
    bad: list[QuarantineEntry] = []
    notes: list[str] = []
    if isinstance(value, dict) and isinstance(value.get("images"), list):
        images = value["images"]
        if isinstance(value.get("annotations"), list):
            rows = _coco(path, images, value["annotations"], bad)
        elif any(isinstance(image, dict) and "sentences" in image for image in images[:100]):
            rows = _karpathy(path, images, bad)
        else:
            raise DataError(
                "has images but neither 'annotations' nor 'sentences'", file=path, expected="COCO or Karpathy captions"
            )
        _some(rows, bad, path)
        found_root = root or _root(path, [row["image"] for row in rows[:20]])
        options = replace(options, image="image", text=options.text or {"captions": ""})
    elif holds_groups(value):
        rows, found_root = semantic_groups(path, value, bad), root or path.parent
        _some(rows, bad, path)
        options = replace(options, image="image", text=options.text or {"captions": ""})
    elif isinstance(value, list) and describes_persons(value):
        rows = person_rows(path, value, bad, notes)
        _some(rows, bad, path)
        found_root = root or root_of(path, rows[:20])
        options = replace(options, image="image", text=options.text or {"captions": ""}, group=options.group or "group")
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        rows, found_root = _objects(path, value, bad), root or path.parent
    else:
        kind = f"an object with {', '.join(list(value)[:6])}" if isinstance(value, dict) else f"a {type(value).__name__}"
        raise DataError(f"holds {kind}", file=path, expected="COCO captions, Karpathy splits, a list of objects, or groups")
    collected = Rows()
    for row in rows:
        collected.add(row)
    top = str(found_root)
    return assemble(
        SourceRows(name, collected.table(), str(path), root=top, within=options.within(top), bad=bad, notes=notes), options
    )


def captions_within(folder: Path) -> tuple[Path | None, list[Path]]:
    """The one JSON file of COCO or Karpathy captions in a folder or its ``annotations``, and the other JSON files there.

    Raises DataError for several files of captions. None if there is none that can be read.
    """
    files = [file for pattern in ("*.json", "annotations/*.json") for file in sorted(folder.glob(pattern)) if is_file(file)]
    holding = [file for file in files if not file.name.startswith(".") and _holds_captions(file)]
    if len(holding) > 1:
        names = ", ".join(str(file.relative_to(folder)) for file in holding[:5])
        raise DataError(f"holds {len(holding)} files of captions ({names})", file=folder, expected="one of them: give its path")
    return (holding[0], [file for file in files if file != holding[0]]) if holding else (None, files)


def _holds_captions(file: Path) -> bool:
    try:
        value = parse_json(read_file(file))
    except (OSError, ValueError):
        return False
    if not isinstance(value, dict) or not isinstance(value.get("images"), list):
        return False
    notes = value.get("annotations")
    entries, field = (notes, "caption") if isinstance(notes, list) else (value["images"], "sentences")
    return any(isinstance(entry, dict) and field in entry for entry in entries[:100])


def read_market(root: Path, options: ReadOptions, *, name: str) -> Pool:
    """Read a folder of Market-1501: pictures without captions, in the splits train, gallery and query."""
    bad: list[QuarantineEntry] = []
    rows = list(market_rows(root, bad))
    _some(rows, bad, root)
    collected = Rows()
    for row in rows:
        collected.add(row)
    top = str(root)
    source = SourceRows(name, collected.table(), top, root=top, within=options.within(top), bad=bad)
    return assemble(source, replace(options, image="image", group=options.group or "group"))


def _some(rows: list[dict[str, Any]], bad: list[QuarantineEntry], path: Path) -> None:
    if not rows:
        first = f"; first problem: {bad[0]}" if bad else ""
        raise DataError(f"does not name an image{first}", file=path, expected="at least one image")


def _objects(path: Path, values: list[Any], bad: list[QuarantineEntry]) -> list[dict[str, Any]]:
    """Objects of a list; other values are left out."""
    odd = [(row, value) for row, value in enumerate(values) if not isinstance(value, dict)]
    bad += [
        QuarantineEntry("", "read", f"is a {type(value).__name__}, not an object", f"{path}, row {row}") for row, value in odd
    ]
    return [value for value in values if isinstance(value, dict)]


def _coco(path: Path, images: list[Any], annotations: list[Any], bad: list[QuarantineEntry]) -> list[dict[str, Any]]:
    """One row per image, with its captions in the order of the annotations."""
    captions: dict[Any, list[str]] = {}
    for row, annotation in enumerate(annotations):
        if fault := _fault(annotation, {"image_id": (int, str), "caption": (str,)}):
            bad.append(QuarantineEntry("", "read", fault, f"{path}, annotation {row}"))
            continue
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    rows, ids = [], set()
    for row, image in enumerate(images):
        fault = _fault(image, {"id": (int, str), "file_name": (str,)})
        if not fault and image["id"] in ids:
            fault = f"its id {image['id']} was taken before"
        if fault:
            bad.append(QuarantineEntry("", "read", fault, f"{path}, image {row}"))
            continue
        ids.add(image["id"])
        rows.append({"image": image["file_name"], "coco_id": image["id"], "captions": captions.pop(image["id"], [])})
    bad += [
        QuarantineEntry("", "read", f"captions of image_id {key}, which is not among the images", str(path)) for key in captions
    ]
    return rows


def _karpathy(path: Path, images: list[Any], bad: list[QuarantineEntry]) -> list[dict[str, Any]]:
    rows = []
    for row, image in enumerate(images):
        if fault := _fault(image, {"filename": (str,), "split": (str,), "sentences": (list,)}):
            bad.append(QuarantineEntry("", "read", fault, f"{path}, image {row}"))
            continue
        captions = []
        for number, sentence in enumerate(image["sentences"]):
            if fault := _fault(sentence, {"raw": (str,)}):
                bad.append(QuarantineEntry("", "text", fault, f"{path}, image {row}, sentence {number}"))
            else:
                captions.append(sentence["raw"])
        folder = image.get("filepath", "")
        rows.append(
            {
                "image": f"{folder}/{image['filename']}" if folder else image["filename"],
                "split": KARPATHY_SPLITS.get(image["split"], image["split"]),
                "captions": captions,
                **({"coco_id": image["cocoid"]} if "cocoid" in image else {}),
            }
        )
    return rows


def _fault(entry: Any, fields: Mapping[str, tuple[type, ...]]) -> str:
    """The first of these fields that is missing or of the wrong type, in words; "" if there is none."""
    names = " and ".join(fields)
    if not isinstance(entry, dict):
        return f"is a {type(entry).__name__}, not an object with {names}"
    for name, kinds in fields.items():
        if name not in entry:
            return f"has {', '.join(map(str, entry)) or 'no keys'} and no {name}"
        if not isinstance(entry[name], kinds) or isinstance(entry[name], bool):
            return f"its {name} is a {type(entry[name]).__name__}, not a {' or '.join(kind.__name__ for kind in kinds)}"
        if name != "caption" and isinstance(entry[name], str) and not is_utf8(entry[name]):
            return f"its {name} holds half a surrogate pair, which is not a character"
    return ""


def _root(path: Path, names: list[str]) -> Path:
    """Folder of the first images: beside the file, one level up, or a subfolder there (``val2017/``)."""
    near = [path.parent, path.parent.parent]
    near += [folder for folder_above in near for folder in sorted(folder_above.iterdir()) if folder.is_dir()]
    for folder in near:
        if any(is_file(folder / name) for name in names):
            return folder
    raise DataError(f"image {names[0] if names else ''} was found nowhere near", file=path, expected="root=FOLDER of the images")
