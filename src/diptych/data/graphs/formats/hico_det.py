"""HICO-DET in the JSON that QPIC and its followers read: ``trainval_hico.json`` and ``test_hico.json``.

    annotations/trainval_hico.json   [{"file_name", "img_id", "annotations": [{"bbox", "category_id"}],
    annotations/test_hico.json         "hoi_annotation": [{"subject_id", "object_id", "category_id", "hoi_category_id"}]}]
    images/train2015/  images/test2015/
    anno.mat                         image-level labels of the original release: the column `labelled_objects`   may be missing

``bbox`` is xyxy and its numbers are kept as they are; scorers add one pixel to width and height. Objects have COCO's ids, verbs
1..117, triplets 1..600; some ids are strings with a line break. A training image whose triplets point past its boxes is left out
whole, as every published reader does. Subjects are always people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from diptych.core.disk.files import write_atomic
from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.graphs.collect import gather
from diptych.data.graphs.entries import BoxAnnotation, ImageAnnotation, RelationAnnotation
from diptych.data.graphs.fields import corners, need, whole
from diptych.data.graphs.find import files_of
from diptych.data.graphs.formats.hico_det_labels import LABELLED, labelled_objects
from diptych.data.graphs.image_export import ImageExporter, by_split, image_ids, label_id, number
from diptych.data.vocabularies import PERSON, vocabulary

PATTERNS = ("*_hico.json", "annotations/*_hico.json")


def read(source: Path, *, name: str, root: Path | None = None) -> Pool:
    """One file, or a folder with both: the splits are "train" and "test"."""
    entry = partial(_entry, labels=labelled_objects(source))
    return gather(source, files_of(source, PATTERNS, "HICO-DET annotations"), entry, name=name, root=root)


def write(samples: Sequence[Sample], folder: Path, placer: ImageExporter) -> list[Path]:
    """Split "test" to ``test_hico.json``, everything else to ``trainval_hico.json``."""
    hico_det = vocabulary("hico-det")
    verbs = {verb: n for n, verb in enumerate(hico_det.predicates, 1)}
    triplets = {triplet: n for n, triplet in enumerate(hico_det.triplets, 1)}
    ids = image_ids(samples)
    made: dict[str, list[dict[str, Any]]] = {}
    for split, members in by_split(samples).items():
        file, images = ("test_hico", "test2015") if split == "test" else ("trainval_hico", "train2015")
        for sample in members:
            labels = [region.label for region in sample.regions]
            hois = []
            for relation in sample.relations:
                triplet = (labels[relation.subject], relation.predicate, labels[relation.object])
                if triplet not in triplets:
                    verb = label_id(verbs, relation.predicate, "verb", sample)
                    problem = (
                        "the subject is not a person" if triplet[0] != PERSON else f"verb {verb} does not go with {triplet[2]}"
                    )
                    raise DataError(
                        f"sample '{sample.uid}': {' '.join(triplet)} is not one of the 600 triplets", expected=problem
                    )
                hois.append(
                    {
                        "subject_id": relation.subject,
                        "object_id": relation.object,
                        "category_id": verbs[relation.predicate],
                        "hoi_category_id": triplets[triplet],
                    }
                )
            row = hoia_row(sample, placer.put(sample, sample.uid, f"images/{images}").name)
            made.setdefault(file, []).append({**row, "img_id": ids[sample.uid], "hoi_annotation": hois})
    return [_dump(folder / "annotations" / f"{file}.json", rows) for file, rows in made.items()]


def _entry(row: int, value: Any, split: str, *, labels: Mapping[str, list[str]]) -> ImageAnnotation:
    boxes = hoia_boxes(value)
    verbs = vocabulary("hico-det").predicates
    links = []
    for hoi in need(value, "hoi_annotation", list):
        ends = [whole(need(hoi, end), end) for end in ("subject_id", "object_id")]
        if not all(0 <= end < len(boxes) for end in ends):
            raise DataError(f"a triplet points at box {max(ends)}, and there are {len(boxes)}", field="hoi_annotation")
        verb = whole(need(hoi, "category_id"), "category_id")
        fault = "" if 1 <= verb <= len(verbs) else f"category_id {verb} is not one of the {len(verbs)} verbs"
        links.append(RelationAnnotation(ends[0], "" if fault else verbs[verb - 1], ends[1], fault=fault))
    file = need(value, "file_name", str)
    image_id = whole(value.get("img_id", row), "img_id")
    extras = {"split": split} | ({LABELLED: labels.get(file)} if labels else {})
    return ImageAnnotation(row, image_id, [file], boxes=boxes, links=links, extras=extras, key=file)


# ---------------------------------------------------------------- shared with V-COCO in this form


def hoia_boxes(value: Any) -> list[BoxAnnotation]:
    """The boxes of an entry; their keys are their positions."""
    coco = vocabulary("coco")
    labels = dict(zip(coco.object_ids, coco.objects, strict=True))
    boxes = []
    for at, box in enumerate(need(value, "annotations", list)):
        category = whole(need(box, "category_id"), "category_id")
        fault = "" if category in labels else f"category_id {category} is not one of COCO's"
        boxes.append(BoxAnnotation(at, corners(need(box, "bbox")), labels.get(category, ""), fault=fault))
    return boxes


def hoia_row(sample: Sample, file_name: str) -> dict[str, Any]:
    """``file_name`` and ``annotations`` of a sample."""
    coco = vocabulary("coco")
    ids = dict(zip(coco.objects, coco.object_ids, strict=True))
    boxes = [
        {"bbox": [number(value) for value in region.box], "category_id": label_id(ids, region.label, "object", sample)}
        for region in sample.regions
    ]
    return {"file_name": file_name, "annotations": boxes}


def _dump(path: Path, value: Any) -> Path:
    write_atomic(path, json.dumps(value))
    return path
