"""Open Images V6 relationships, in the JSON of scene-graph releases and as the CSV that Open Images publishes.

    vrd-{train,val,test}-anno.json   [{"img_fn", "img_size": [w, h], "bbox", "det_labels": 0..600, "rel": [[s, o, 0..29]]}]
    categories_dict.json             {"obj": [601 names], "rel": [30 names]}
    images/                          img_fn has no suffix

    oidv6-{train,validation,test}-annotations-vrd.csv   ImageID, LabelName1, LabelName2, XMin1, XMax1, ..., RelationshipLabel
    *-annotations-bbox.csv                              all boxes of these images   may be missing
    *class-descriptions*.csv   *attributes-description*.csv   LabelName -> name
    {train,validation,test}/

Predicates are words ("holding hands"). In the CSV a relation "is" gives its first box an attribute, boxes are shares of the
image, and equal ones (to six digits) are one box; images without any relation do not occur there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from diptych.core.disk.files import write_atomic
from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.graphs.collect import gather
from diptych.data.graphs.entries import BoxAnnotation, ImageAnnotation, RelationAnnotation
from diptych.data.graphs.fields import corners, need
from diptych.data.graphs.find import SUFFIXES, files_of, load_json, matching_files
from diptych.data.graphs.image_export import ImageExporter, by_split, labels_of, number
from diptych.data.vocabularies import vocabulary

PATTERNS = ("vrd-*-anno.json", "annotations/vrd-*-anno.json")
CATEGORIES = ("categories_dict.json", "annotations/categories_dict.json")


def read(source: Path, *, name: str, root: Path | None = None) -> Pool:
    """One ``vrd-*-anno.json``, or a folder of them, with ``categories_dict.json`` beside."""
    files = files_of(source, PATTERNS, "vrd-*-anno.json")
    file = next(iter(matching_files(files[0].parent, *CATEGORIES)), None)
    if file is None:
        raise DataError("has no categories_dict.json beside it", file=files[0], expected='{"obj": [...], "rel": [...]}')
    names = load_json(file)
    try:
        labels, predicates = [str(label) for label in need(names, "obj", list)], _words(need(names, "rel", list))
    except DataError as error:
        raise DataError(error.problem, file=file, field=error.field) from None
    return gather(source, files, lambda row, v, split: _entry(row, v, labels, predicates, split), name=name, root=root)


def _words(names: Iterable[Any]) -> list[str]:
    return [str(name).replace("_", " ") for name in names]


def _entry(row: int, value: Any, labels: Sequence[str], predicates: Sequence[str], split: str) -> ImageAnnotation:
    file = need(value, "img_fn", str)
    bboxes, numbers = need(value, "bbox", list), need(value, "det_labels", list)
    if len(bboxes) != len(numbers):
        raise DataError(f"has {len(bboxes)} boxes and {len(numbers)} det_labels")
    size = value.get("img_size")
    boxes = []
    for n, (bbox, label) in enumerate(zip(bboxes, numbers, strict=True)):
        is_valid = isinstance(label, int) and 0 <= label < len(labels)
        fault = "" if is_valid else f"det_label {label} is not one of the {len(labels)} classes"
        boxes.append(BoxAnnotation(n, corners(bbox), labels[label] if is_valid else "", fault=fault))
    links = []
    for subject, thing, predicate in need(value, "rel", list):
        is_valid = isinstance(predicate, int) and 0 <= predicate < len(predicates)
        fault = "" if is_valid else f"predicate {predicate} is not one of the {len(predicates)}"
        links.append(RelationAnnotation(subject, predicates[predicate] if is_valid else "", thing, fault=fault))
    names = [file, *(file + suffix for suffix in SUFFIXES)]
    extras = {"split": split} if split else {}
    return ImageAnnotation(row, Path(file).stem, names, (size[0], size[1]) if size else None, boxes, links, extras)


def write(samples: Sequence[Sample], folder: Path, placer: ImageExporter) -> list[Path]:
    """A file for each split ("" becomes train) and ``categories_dict.json``; predicates keep their published numbers.

    Attributes, scores and masks have no place in this format. Image ids are uids.
    """
    labels, predicates = labels_of(samples)
    published = vocabulary("open-images").predicates
    if set(predicates) <= set(published):
        predicates = list(published)
    label_number, predicate_number = ({name: n for n, name in enumerate(names)} for names in (labels, predicates))
    paths = [folder / "categories_dict.json"]
    write_atomic(paths[0], json.dumps({"obj": labels, "rel": [name.replace(" ", "_") for name in predicates]}))
    for split, members in by_split(samples).items():
        rows = []
        for sample in members:
            placed = placer.put(sample, sample.uid, "images")
            rows.append(
                {
                    "img_fn": sample.uid,
                    "img_size": [placed.width, placed.height],
                    "bbox": [[number(value) for value in region.box] for region in sample.regions],
                    "det_labels": [label_number[region.label] for region in sample.regions],
                    "rel": [[r.subject, r.object, predicate_number[r.predicate]] for r in sample.relations],
                }
            )
        paths.append(folder / f"vrd-{split or 'train'}-anno.json")
        write_atomic(paths[-1], json.dumps(rows))
    return paths
