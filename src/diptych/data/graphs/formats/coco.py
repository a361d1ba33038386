"""COCO's JSON with relations: ``images``, ``annotations``, ``categories``, and optionally ``rel_categories``, ``rel_annotations``.

    train.json  val.json  test.json   rel_annotations: [{"id", "image_id", "subject_id", "object_id", "predicate_id"}]
    images/                           subject_id and object_id are ids of box annotations

The easiest form for data of your own. Plain COCO detection data are read as graphs without relations. Boxes are (x, y, width,
height); a segmentation becomes the region's mask; a crowd keeps the attribute "crowd".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.core.disk.files import write_atomic
from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.graphs.collect import Collector
from diptych.data.graphs.entries import BoxAnnotation, ImageAnnotation, RelationAnnotation
from diptych.data.graphs.fields import corners, ident, listed, need, real, split_of
from diptych.data.graphs.find import files_of, load_json
from diptych.data.graphs.image_export import ImageExporter, by_split, image_ids, label_id, labels_of, sides

PATTERNS = ("*.json", "annotations/*.json")
CROWD = "crowd"


class Instances:
    """COCO annotations by image, with their row in the file.

    With `named`, messages name the file: for formats whose own rows lie in another one.
    """

    def __init__(self, file: Path, value: Any, *, named: bool = False) -> None:
        self.file, self._named = file, named
        try:
            self.images = need(value, "images", list)
            annotations = need(value, "annotations", list)
            self.labels = {ident(c, "id"): str(need(c, "name")) for c in need(value, "categories", list)}
            self.predicates = {ident(c, "id"): str(need(c, "name")) for c in listed(value, "rel_categories")}
            relations = listed(value, "rel_annotations")
        except DataError as error:
            raise DataError(error.problem, file=file, field=error.field, expected=error.expected) from None
        self.lost: list[tuple[int, str]] = []
        self.row: dict[Any, int] = {}
        for row, image in enumerate(self.images):
            if isinstance(image, dict) and isinstance(image.get("id"), int | str):
                self.row.setdefault(image["id"], row)
        self._boxes = self._by_image(annotations, "annotation")
        self._relations = self._by_image(relations, "relation")

    def _by_image(self, rows: Sequence[Any], what: str) -> dict[Any, list[tuple[int, Any]]]:
        rows_by_image: dict[Any, list[tuple[int, Any]]] = {}
        for number, row in enumerate(rows):
            image = row.get("image_id") if isinstance(row, dict) else None
            if isinstance(image, int | str) and image in self.row:
                rows_by_image.setdefault(image, []).append((number, row))
            else:
                self.lost.append((number, f"{what} {number} is of image_id {image}, which is not among the images"))
        return rows_by_image

    def entry(self, row: int, image_id: Any) -> ImageAnnotation:
        """The entry of one image; an id that the file does not have is a `DataError`."""
        if image_id not in self.row:
            raise DataError(f"image_id {image_id} is not among the images of {self.file}")
        image = self.images[self.row[image_id]]
        size = (image["width"], image["height"]) if image.get("width") and image.get("height") else None
        entry = ImageAnnotation(row, image_id, [need(image, "file_name", str)], size)
        entry.boxes = [self._sound(number, value) for number, value in self._boxes.get(image_id, ())]
        entry.links = [self._link(number, value) for number, value in self._relations.get(image_id, ())]
        return entry

    def _sound(self, number: int, value: Any) -> BoxAnnotation:
        """The box of an annotation; one of the wrong shape has a fault."""
        try:
            box = self._box(number, value)
            hash(box.key)
        except (DataError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
            reason = error.problem if isinstance(error, DataError) else str(error)
            return BoxAnnotation(("row", number), corners(None), "", fault=f"it is malformed: {reason}")
        return box

    def _box(self, number: int, value: dict[str, Any]) -> BoxAnnotation:
        category = value.get("category_id")
        fault = "" if category in self.labels else f"category_id {category} is not among the categories"
        return BoxAnnotation(
            value.get("id", ("row", number)),
            corners(value.get("bbox"), sides=True),
            self.labels.get(category, ""),
            (CROWD,) if value.get("iscrowd") else (),
            real(value.get("score", 1.0), "score"),
            value.get("segmentation") or None,
            fault,
            f"annotation {number}" + (f" of {self.file.name}" if self._named else ""),
        )

    def _link(self, number: int, value: dict[str, Any]) -> RelationAnnotation:
        predicate = value.get("predicate_id")
        fault = "" if predicate in self.predicates else f"predicate_id {predicate} is not among the rel_categories"
        ends = value.get("subject_id"), value.get("object_id")
        return RelationAnnotation(
            ends[0], self.predicates.get(predicate, ""), ends[1], real(value.get("score", 1.0), "score"), fault
        )


def read(source: Path, *, name: str, root: Path | None = None) -> Pool:
    """One file, or a folder with one for each split."""
    files = files_of(source, PATTERNS, "JSON")
    collect = Collector(source, files[0], root=root)
    for file in files:
        collect.open(file)
        coco = Instances(file, load_json(file))
        for row, reason in coco.lost:
            collect.bad(row, reason)
        split = split_of(file)

        def entry(row: int, image: Any, coco: Instances = coco, split: str = split) -> ImageAnnotation:
            made = coco.entry(row, ident(image, "id"))
            made.extras = {"split": split} if split else {}
            return made

        collect.each(enumerate(coco.images), entry)
    return collect.pool(name)


def write(samples: Sequence[Sample], folder: Path, placer: ImageExporter) -> list[Path]:
    """A file for each split ("" becomes train), with ids from 1 for the labels and predicates of all samples."""
    labels, predicates = (({name: n for n, name in enumerate(names, 1)}) for names in labels_of(samples))
    ids = image_ids(samples)
    paths = []
    for split, members in by_split(samples).items():
        images: list[dict[str, Any]] = []
        boxes: list[dict[str, Any]] = []
        relations: list[dict[str, Any]] = []
        for sample in members:
            image_id = ids[sample.uid]
            placed = placer.put(sample, sample.uid, "images")
            images.append({"id": image_id, "file_name": placed.name, "width": placed.width, "height": placed.height})
            first = len(boxes) + 1
            boxes += coco_rows(sample, image_id, first, labels)
            for relation in sample.relations:
                row = {
                    "id": len(relations) + 1,
                    "image_id": image_id,
                    "subject_id": first + relation.subject,
                    "object_id": first + relation.object,
                    "predicate_id": predicates[relation.predicate],
                }
                relations.append(row | ({"score": relation.confidence} if relation.confidence != 1.0 else {}))
        value = {
            "images": images,
            "annotations": boxes,
            "categories": [{"id": n, "name": label} for label, n in labels.items()],
            "rel_categories": [{"id": n, "name": predicate} for predicate, n in predicates.items()],
            "rel_annotations": relations,
        }
        paths.append(folder / f"{split or 'train'}.json")
        write_atomic(paths[-1], json.dumps(value))
    return paths


def coco_rows(sample: Sample, image_id: int, first: int, labels: Mapping[str, int]) -> list[dict[str, Any]]:
    """The regions of a sample as box annotations with ids from `first`."""
    rows = []
    for n, region in enumerate(sample.regions):
        bbox = sides(region.box)
        row = {
            "id": first + n,
            "image_id": image_id,
            "category_id": label_id(labels, region.label, "object", sample),
            "bbox": bbox,
            "area": bbox[2] * bbox[3],
            "iscrowd": int(CROWD in region.attributes),
            "segmentation": region.mask or [],
        }
        rows.append(row | ({"score": region.score} if region.score != 1.0 else {}))
    return rows
