"""HICO-DET as a list of pairs per image (``instances_train2015.json``, ``instances_test2015.json``: UPT, PViC and others).

    instances_test2015.json   {"annotation": [{"boxes_h", "boxes_o", "hoi", "object", "verb"}], "filenames", "size", "objects",
                               "verbs", "correspondence", "empty", "rare", "non_rare"}
    hico_20160224_det/images/test2015/
    anno.mat                  image-level labels of the original release: the column `labelled_objects`   may be missing

A box that occurs in several pairs is one region. Boxes that are in no pair have no place in this form. Objects are numbered in
HICO's own alphabetical order, triplets from 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.core.disk.files import write_atomic
from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.graphs.collect import Collector
from diptych.data.graphs.entries import BoxAnnotation, ImageAnnotation, RelationAnnotation
from diptych.data.graphs.fields import corners, need, split_of, whole
from diptych.data.graphs.find import files_of, load_json
from diptych.data.graphs.formats.hico_det_labels import LABELLED, labelled_objects
from diptych.data.graphs.image_export import ImageExporter, by_split, label_id
from diptych.data.vocabularies import PERSON, vocabulary

PATTERNS = ("instances_*2015.json", "annotations/instances_*2015.json")


def read(source: Path, *, name: str, root: Path | None = None) -> Pool:
    """One file, or a folder with both: the splits are "train" and "test"."""
    files = files_of(source, PATTERNS, "HICO-DET pairs")
    collect = Collector(source, files[0], root=root)
    labels = labelled_objects(source)
    for file in files:
        collect.open(file)
        value = load_json(file)
        reader = _HicoDetReader(file, value, labels)
        collect.each(enumerate(need(value, "annotation", list)), reader.entry)
    return collect.pool(name)


class _HicoDetReader:
    """The lists that every row of a file points into."""

    def __init__(self, file: Path, value: Any, labels: Mapping[str, list[str]]) -> None:
        self.labels = labels
        try:
            self.names = need(value, "filenames", list)
            self.objects = [str(label).replace("_", " ") for label in need(value, "objects", list)]
            self.verbs = [str(verb).replace("_", " ") for verb in need(value, "verbs", list)]
            rows = len(need(value, "annotation", list))
            self.sizes: list[Any] = need(value, "size", list) if "size" in value else [None] * rows
        except DataError as error:
            raise DataError(error.problem, file=file, field=error.field) from None
        self.split = split_of(file)
        if not len(self.names) == len(self.sizes) == rows:
            raise DataError(f"has {rows} annotations for {len(self.names)} filenames and {len(self.sizes)} sizes", file=file)

    def entry(self, row: int, value: Any) -> ImageAnnotation:
        columns = [need(value, name, list) for name in ("boxes_h", "boxes_o", "object", "verb")]
        if len({len(column) for column in columns}) > 1:
            raise DataError(f"has {', '.join(str(len(column)) for column in columns)} boxes_h, boxes_o, object, verb")
        boxes: dict[Any, BoxAnnotation] = {}
        links = []
        for human, thing, label, verb in zip(*columns, strict=True):
            subject = self._box(boxes, PERSON, human)
            is_valid = isinstance(label, int) and 0 <= label < len(self.objects)
            other = self._box(
                boxes, self.objects[label] if is_valid else "", thing, "" if is_valid else f"object {label} is unknown"
            )
            sound = isinstance(verb, int) and 0 <= verb < len(self.verbs)
            links.append(
                RelationAnnotation(
                    subject, self.verbs[verb] if sound else "", other, fault="" if sound else f"verb {verb} is unknown"
                )
            )
        file = str(self.names[row])
        size = tuple(self.sizes[row]) if self.sizes[row] else None
        number = re.search(r"(\d+)$", Path(file).stem)
        image_id = whole(number[1] if number else row, "filenames")
        extras = {"split": self.split} | ({LABELLED: self.labels.get(file)} if self.labels else {})
        return ImageAnnotation(row, image_id, [file], size, list(boxes.values()), links, extras, key=file)

    @staticmethod
    def _box(boxes: dict[Any, BoxAnnotation], label: str, value: Any, fault: str = "") -> Any:
        xyxy = corners(value)
        boxes.setdefault((label, xyxy), BoxAnnotation((label, xyxy), xyxy, label, fault=fault))
        return (label, xyxy)


def write(samples: Sequence[Sample], folder: Path, placer: ImageExporter) -> list[Path]:
    """Split "test" to ``instances_test2015.json``, everything else to ``instances_train2015.json``."""
    hico_det = vocabulary("hico-det")
    objects = {label: n for n, label in enumerate(sorted(hico_det.objects))}
    verbs = {verb: n for n, verb in enumerate(hico_det.predicates)}
    triplets = {triplet: n for n, triplet in enumerate(hico_det.triplets)}
    made: dict[str, list[tuple[dict[str, Any], str, list[int]]]] = {}
    for split, members in by_split(samples).items():
        part = "test2015" if split == "test" else "train2015"
        for sample in members:
            row: dict[str, list[Any]] = {name: [] for name in ("boxes_h", "boxes_o", "hoi", "object", "verb")}
            for relation in sample.relations:
                subject, other = sample.regions[relation.subject], sample.regions[relation.object]
                triplet = (subject.label, relation.predicate, other.label)
                if triplet not in triplets:
                    raise DataError(f"sample '{sample.uid}': {' '.join(triplet)} is not one of the 600 triplets")
                row["boxes_h"].append(list(subject.box))
                row["boxes_o"].append(list(other.box))
                row["hoi"].append(triplets[triplet])
                row["object"].append(label_id(objects, other.label, "object", sample))
                row["verb"].append(verbs[relation.predicate])
            placed = placer.put(sample, sample.uid, f"hico_20160224_det/images/{part}")
            made.setdefault(part, []).append((row, placed.name, [placed.width, placed.height]))
    fixed = {
        "objects": [label.replace(" ", "_") for label in objects],
        "verbs": [verb.replace(" ", "_") for verb in verbs],
        "correspondence": [[n, objects[label], verbs[verb]] for (_, verb, label), n in triplets.items()],
        "rare": list(hico_det.rare),
        "non_rare": sorted(set(range(len(triplets))) - set(hico_det.rare)),
    }
    paths = []
    for part, rows in made.items():
        value = {
            "annotation": [row for row, _, _ in rows],
            "filenames": [file for _, file, _ in rows],
            "size": [size for _, _, size in rows],
            "empty": [n for n, (row, _, _) in enumerate(rows) if not row["hoi"]],
        }
        paths.append(folder / f"instances_{part}.json")
        write_atomic(paths[-1], json.dumps(value | fixed))
    return paths
