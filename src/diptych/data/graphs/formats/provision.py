"""Scene graphs with masks and depth as ProVision annotates them (Zhang et al., 2024, 2412.07012).

    {"id": {"data_path": "images/a.png",
            "annotation": {"width": 401, "height": 400, "labels": [...], "bboxes": [[x1, y1, x2, y2], ...], "det_scores": [...],
                           "attributes": [[...], ...], "relations": [[0, "holding", 1], ...],
                           "seg_mask_id": "a.npy", "depth_mask_id": "a_depth.npy"},
            "source": null}}

Boxes are pixels. A folder of such files is read as one: annotations of one id are put together. Masks are an array [regions, height,
width] and depth one [height, width], both .npy, in seg_masks/ and depth_masks/ beside the annotations or in the folder above. Pickled
masks are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.errors import DataError
from diptych.core.image import FileImage
from diptych.core.media import MediaItem
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation
from diptych.data.dataset import Pool
from diptych.data.graphs.find import ImageFinder, files_of, load_json
from diptych.data.masks import encode

PATTERNS = ("*annotations*.json", "*.json")
FOLDERS = {"seg_mask_id": "seg_masks", "depth_mask_id": "depth_masks"}
LISTS = ("labels", "bboxes", "det_scores", "attributes")


def read(source: Path, *, name: str, root: Path | None = None) -> Pool:
    """One file, or a folder whose files are merged by id. Raises DataError that names file, id and field."""
    files = files_of(source, PATTERNS, "JSON")
    merged: dict[str, dict[str, Any]] = {}
    paths: dict[str, str] = {}
    for file in files:
        value = load_json(file)
        if not isinstance(value, dict):
            raise DataError(f"holds a {type(value).__name__}", file=file, expected="annotations by id")
        for key, entry in value.items():
            annotation = entry.get("annotation") if isinstance(entry, dict) else None
            if not isinstance(annotation, dict) or not isinstance(entry.get("data_path"), str):
                raise DataError(f"'{key}' is {str(entry)[:60]}", file=file, expected='{"data_path": path, "annotation": {...}}')
            paths.setdefault(key, entry["data_path"])
            merged.setdefault(key, {}).update(annotation)
    finder = ImageFinder(files[0], source, root)
    samples = [_sample(key, paths[key], annotation, files[0], finder) for key, annotation in merged.items()]
    return Pool.from_samples(samples, name=name)


def _sample(key: str, path: str, annotation: dict[str, Any], file: Path, finder: ImageFinder) -> Sample:
    image = finder.find([path, Path(path).name])
    if image is None:
        raise DataError(
            f"the image '{path}' of '{key}' does not exist", file=file, field="data_path", expected="it beside the file, or root="
        )
    labels = annotation.get("labels") or []
    given = {field: annotation.get(field) or [None] * len(labels) for field in LISTS}
    for field, values in given.items():
        if not isinstance(values, list) or len(values) != len(labels):
            raise DataError(f"'{key}' has {len(values)} for {len(labels)} labels", file=file, field=field, expected="one each")
    masks = _masks(key, annotation, len(labels), file)
    try:
        regions = tuple(
            Region(_box(box), str(label), tuple(map(str, some or ())), 1.0 if score is None else float(score), mask)
            for box, label, score, some, mask in zip(
                given["bboxes"], labels, given["det_scores"], given["attributes"], masks, strict=True
            )
        )
        relations = tuple(Relation(int(a), str(predicate), int(b)) for a, predicate, b in annotation.get("relations") or ())
        made = Sample(
            key.replace("/", "-").replace(".", "-"),
            FileImage(image),
            regions=regions,
            relations=relations,
            media=_depth(key, annotation, file),
        )
        _ = made.graph  # whose relations point at regions that are there
    except (TypeError, ValueError, DataError) as error:
        raise DataError(f"'{key}': {error}", file=file, field="annotation", expected="boxes, attributes and relations") from error
    return made


def _box(value: Any) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(one) for one in value)
    return x0, y0, x1, y1


def _masks(key: str, annotation: dict[str, Any], count: int, file: Path) -> list[Any]:
    path = _array(key, annotation, "seg_mask_id", file)
    if path is None:
        return [None] * count
    mask_NHW = np.load(path, mmap_mode="r", allow_pickle=False)
    if mask_NHW.ndim != 3 or len(mask_NHW) != count:
        raise DataError(f"holds {list(mask_NHW.shape)}", file=path, field="seg_mask_id", expected=f"[{count}, height, width]")
    return [encode(np.asarray(mask_HW, bool)) for mask_HW in mask_NHW]


def _depth(key: str, annotation: dict[str, Any], file: Path) -> dict[str, MediaItem]:
    path = _array(key, annotation, "depth_mask_id", file)
    return {} if path is None else {"depth": MediaItem("raster", (FileImage(path),))}


def _array(key: str, annotation: dict[str, Any], field: str, file: Path) -> Path | None:
    """The .npy of a field; None if the annotation names none."""
    named = annotation.get(field)
    if not named:
        return None
    if not isinstance(named, str) or Path(named).name != named or Path(named).suffix != ".npy":
        raise DataError(
            f"'{key}' names {named!r}", file=file, field=field, expected="the name of a .npy; save pickled masks as one"
        )
    paths = [folder / below / named for folder in (file.parent, file.parent.parent) for below in (FOLDERS[field], ".")]
    path = next((candidate for candidate in paths if candidate.is_file()), None)
    if path is None:
        raise DataError(
            f"the array '{named}' of '{key}' does not exist", file=file, field=field, expected=f"it in {FOLDERS[field]}/"
        )
    return path
