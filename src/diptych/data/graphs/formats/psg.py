"""Panoptic scene graphs (PSG): boxes and relations of COCO images whose things and stuff are both segmented.

    psg.json        {"data": [{"image_id", "file_name", "width", "height", "annotations": [{"bbox", "bbox_mode", "category_id"}],
                     "segments_info", "pan_seg_file_name", "relations": [[subject, object, predicate]]}], "thing_classes",
                     "stuff_classes", "predicate_classes", "test_image_ids"}
    coco/train2017/  coco/val2017/

Masks stay in the panoptic PNGs: the columns `segment_ids` (one number per region) and `panoptic` (the file) say where. Boxes are
xyxy (bbox_mode 0) or (x, y, width, height) (bbox_mode 1).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diptych.core.disk.files import write_atomic
from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.graphs.collect import Collector
from diptych.data.graphs.entries import BoxAnnotation, ImageAnnotation, RelationAnnotation
from diptych.data.graphs.fields import corners, listed, need, whole
from diptych.data.graphs.find import load_json, matching_files
from diptych.data.graphs.image_export import ImageExporter, by_split, image_ids, label_id, labels_of, number, per_region_column

PATTERNS = ("psg*.json", "annotations/psg*.json", "psg/psg*.json")
XYXY, XYWH = 0, 1
SEGMENTS, PANOPTIC = "segment_ids", "panoptic"


def read(source: Path, *, name: str, root: Path | None = None) -> Pool:
    """``psg.json``, or a folder that holds one: images in ``test_image_ids`` are "test", the others "train"."""
    file = source if source.is_file() else next(iter(matching_files(source, *PATTERNS)), None)
    if file is None:
        raise DataError("contains no PSG annotations", file=source, expected=" or ".join(PATTERNS))
    collect = Collector(source, file, root=root)
    value = load_json(file)
    try:
        rows = need(value, "data", list)
        reader = _PsgReader(value)
    except DataError as error:
        raise DataError(error.problem, file=file, field=error.field, expected=error.expected) from None
    collect.each(enumerate(rows), reader.entry)
    return collect.pool(name)


class _PsgReader:
    def __init__(self, value: Any) -> None:
        self.labels = [str(label) for label in [*need(value, "thing_classes", list), *listed(value, "stuff_classes")]]
        self.predicates = [str(predicate) for predicate in need(value, "predicate_classes", list)]
        self.test = {str(number) for number in listed(value, "test_image_ids")}

    def entry(self, row: int, value: Any) -> ImageAnnotation:
        image_id = whole(need(value, "image_id"), "image_id")
        file = need(value, "file_name", str)
        size = (value["width"], value["height"]) if value.get("width") and value.get("height") else None
        boxes = [self._box(n, box) for n, box in enumerate(need(value, "annotations", list))]
        links = [self._link(triplet) for triplet in listed(value, "relations")]
        split = "test" if str(image_id) in self.test else "train"
        entry = ImageAnnotation(row, image_id, list(dict.fromkeys([file, Path(file).name])), size, boxes, links, {"split": split})
        segments = listed(value, "segments_info")
        if boxes and len(segments) == len(boxes):
            entry.per_region[SEGMENTS] = [segment.get("id", -1) for segment in segments]
            entry.extras[PANOPTIC] = str(value.get("pan_seg_file_name", ""))
        return entry

    def _box(self, n: int, value: Any) -> BoxAnnotation:
        category = need(value, "category_id", int)
        is_valid = 0 <= category < len(self.labels)
        fault = "" if is_valid else f"category_id {category} is not one of the {len(self.labels)} classes"
        mode = value.get("bbox_mode", XYXY)
        if mode not in (XYXY, XYWH):
            fault = f"bbox_mode is {mode}, not 0 or 1"
        return BoxAnnotation(
            n, corners(value.get("bbox"), sides=mode == XYWH), self.labels[category] if is_valid else "", fault=fault
        )

    def _link(self, value: Any) -> RelationAnnotation:
        if not isinstance(value, list) or len(value) != 3:
            return RelationAnnotation(None, "", None, fault=f"{value} is not [subject, object, predicate]")
        subject, thing, predicate = value
        is_valid = isinstance(predicate, int) and 0 <= predicate < len(self.predicates)
        fault = "" if is_valid else f"predicate {predicate} is not one of the {len(self.predicates)} classes"
        return RelationAnnotation(subject, self.predicates[predicate] if is_valid else "", thing, fault=fault)


def write(samples: Sequence[Sample], folder: Path, placer: ImageExporter) -> list[Path]:
    """``psg.json``; every label becomes a thing class. Without `segment_ids` there are no segments, only boxes."""
    names, kinds = labels_of(samples)
    labels, predicates = ({name: n for n, name in enumerate(group)} for group in (names, kinds))
    data, test = [], []
    numbers = image_ids(samples)
    for split, members in by_split(samples).items():
        for sample in members:
            placed = placer.put(sample, f"images/{sample.uid}")
            test += [str(numbers[sample.uid])] * (split == "test")
            boxes = [
                {
                    "bbox": [number(value) for value in region.box],
                    "bbox_mode": XYXY,
                    "category_id": label_id(labels, region.label, "object", sample),
                }
                for region in sample.regions
            ]
            row: dict[str, Any] = {
                "image_id": str(numbers[sample.uid]),
                "file_name": placed.name,
                "width": placed.width,
                "height": placed.height,
                "annotations": boxes,
                "relations": [[r.subject, r.object, predicates[r.predicate]] for r in sample.relations],
            }
            if PANOPTIC in sample.extras:
                row["pan_seg_file_name"] = sample.extras[PANOPTIC]
                row["segments_info"] = [
                    {"id": segment, "category_id": box["category_id"], "iscrowd": 0, "isthing": 1}
                    for segment, box in zip(per_region_column(sample, SEGMENTS, -1), boxes, strict=True)
                ]
            data.append(row)
    value = {
        "data": data,
        "thing_classes": names,
        "stuff_classes": [],
        "predicate_classes": kinds,
        "test_image_ids": test,
    }
    write_atomic(folder / "psg.json", json.dumps(value))
    return [folder / "psg.json"]
