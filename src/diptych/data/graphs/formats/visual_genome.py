"""Visual Genome as published: free-form names, one JSON file per kind of annotation.

    objects.json         [{"image_id", "objects": [{"object_id", "x", "y", "w", "h", "names", "synsets", "merged_object_ids"}]}]
    relationships.json   [{"image_id", "relationships": [{"relationship_id", "predicate", "synsets", "subject", "object"}]}]
    attributes.json      [{"image_id", "attributes": [{"object_id", "attributes": ["green"], ...}]}]         may be missing
    image_data.json      [{"image_id", "width", "height", "url", "coco_id", "flickr_id"}]
    object_alias.txt  relationship_alias.txt   one line per group, "tree,trees": the first name stands for all   may be missing
    VG_100K/  VG_100K_2/

Names and predicates are trimmed, lower-cased and replaced by the first of their aliases; of several names the first is taken.
A relation carries its own two boxes: one that objects.json does not have is added. Synsets, often empty, are not kept.
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
from diptych.data.graphs.fields import corners, need
from diptych.data.graphs.find import load_list, names_of, read_text
from diptych.data.graphs.image_export import ImageExporter, image_ids, sides

FILES = ("image_data.json", "objects.json", "relationships.json", "attributes.json")
IMAGES = "VG_100K"


def read(source: Path, *, name: str, root: Path | None = None) -> Pool:
    """The folder, or any of its files. ``image_data.json`` and one of ``objects.json``, ``relationships.json`` must be there."""
    folder = source.parent if source.is_file() else source
    missing = [file for file in FILES if not (folder / file).is_file()]
    if FILES[0] in missing or {FILES[1], FILES[2]} <= set(missing):
        raise DataError(f"contains no {missing[0]}", file=folder, expected="image_data.json, objects.json and relationships.json")
    genome = _Genome(folder, missing)
    collect = Collector(source, folder / FILES[0], root=root)
    for file, row, reason in genome.lost:
        collect.open(file)
        collect.bad(row, reason)
    collect.open(folder / FILES[0])
    collect.each(enumerate(genome.images), genome.entry)
    return collect.pool(name)


class _Genome:
    """All files of the folder by image id."""

    def __init__(self, folder: Path, missing: Sequence[str]) -> None:
        self.lost: list[tuple[Path, int, str]] = []
        self._labels = aliases(folder / "object_alias.txt")
        self._predicates = aliases(folder / "relationship_alias.txt")
        self.images = load_list(folder / FILES[0])
        image_ids = {
            number for image in self.images if isinstance(image, dict) and isinstance(number := image.get("image_id"), int)
        }
        self._of: dict[str, dict[Any, list[Any]]] = {}
        for file in FILES[1:]:
            kind = file.removesuffix(".json")
            self._of[kind] = {} if file in missing else self._by_image(folder / file, kind, image_ids)

    def _by_image(self, file: Path, kind: str, image_ids: set[Any]) -> dict[Any, list[Any]]:
        values_by_image: dict[Any, list[Any]] = {}
        for row, entry in enumerate(load_list(file)):
            image = entry.get("image_id", entry.get("id")) if isinstance(entry, dict) else None
            if not isinstance(image, int) or image not in image_ids:
                self.lost.append((file, row, f"image_id {image} is not in {FILES[0]}"))
            elif image in values_by_image:
                self.lost.append((file, row, f"image_id {image} is a duplicate"))
            elif not isinstance(entry.get(kind), list):
                self.lost.append((file, row, f"has no list '{kind}'"))
            else:
                values_by_image[image] = [value for value in entry[kind] if isinstance(value, dict)]
        return values_by_image

    def entry(self, row: int, image: Any) -> ImageAnnotation:
        image_id = need(image, "image_id", int)
        boxes: dict[Any, BoxAnnotation] = {}
        same: dict[Any, Any] = {}  # ids that were merged into another object
        for value in self._of["objects"].get(image_id, ()):
            self._add(boxes, same, value)
        links = []
        for value in self._of["relationships"].get(image_id, ()):
            ends = [self._add(boxes, same, value.get(end)) for end in ("subject", "object")]
            predicate = plain(value.get("predicate"), self._predicates)
            links.append(RelationAnnotation(ends[0], predicate, ends[1]))
        for value in self._of["attributes"].get(image_id, ()):
            key = value.get("object_id")
            if (key := same.get(key, key)) in boxes:
                boxes[key].attributes = tuple(dict.fromkeys(map(plain, value.get("attributes") or ())))
        size = (image["width"], image["height"]) if image.get("width") and image.get("height") else None
        return ImageAnnotation(row, image_id, names_of(image_id), size, list(boxes.values()), links)

    def _add(self, boxes: dict[Any, BoxAnnotation], same: dict[Any, Any], value: Any) -> Any:
        """Put an object among the boxes unless it is there; returns its key."""
        if not isinstance(value, dict) or "object_id" not in value:
            return None
        key = value["object_id"]
        if (key := same.get(key, key)) not in boxes:
            names = value.get("names") or [value.get("name")]
            xyxy = corners([value.get(part) for part in ("x", "y", "w", "h")], sides=True)
            boxes[key] = BoxAnnotation(key, xyxy, plain(names[0], self._labels), where=f"object {key}")
            same.update(dict.fromkeys(value.get("merged_object_ids") or (), key))
        return key


def aliases(file: Path) -> dict[str, str]:
    """Every name of an alias file -> the first of its line."""
    name_by_alias: dict[str, str] = {}
    if file.is_file():
        for line in read_text(file).splitlines():
            names = [plain(name) for name in line.split(",") if name.strip()]
            for name in names:
                name_by_alias.setdefault(name, names[0])
    return name_by_alias


def plain(name: Any, other: Mapping[str, str] | None = None) -> str:
    """A name without outer white space, in lower case, by its first alias; "" for what is no name."""
    text = " ".join(name.lower().split()) if isinstance(name, str) else ""
    return other.get(text, text) if other else text


def write(samples: Sequence[Sample], folder: Path, placer: ImageExporter) -> list[Path]:
    """The four files; images are called by their number, synsets are empty. The split, scores and masks have no place in this format."""
    ids = image_ids(samples)
    made: dict[str, list[Any]] = {file: [] for file in FILES}
    first = relation_id = 1
    for sample in samples:
        image_id = ids[sample.uid]
        placed = placer.put(sample, str(image_id), IMAGES)
        image = {"image_id": image_id, "width": placed.width, "height": placed.height, "url": "", "coco_id": None}
        made["image_data.json"].append({**image, "flickr_id": None})
        objects = [_object(first + n, region.label, region.box) for n, region in enumerate(sample.regions)]
        described = [
            {**thing, "attributes": list(region.attributes)}
            for thing, region in zip(objects, sample.regions, strict=True)
            if region.attributes
        ]
        relations = [
            {
                "relationship_id": relation_id + n,
                "predicate": relation.predicate,
                "synsets": [],
                "subject": objects[relation.subject],
                "object": objects[relation.object],
            }
            for n, relation in enumerate(sample.relations)
        ]
        for kind, rows in (("objects", objects), ("relationships", relations), ("attributes", described)):
            made[f"{kind}.json"].append({"image_id": image_id, kind: rows})
        first, relation_id = first + len(objects), relation_id + len(relations)
    for file, rows in made.items():
        write_atomic(folder / file, json.dumps(rows))
    return [folder / file for file in FILES]


def _object(number: int, label: str, box: Sequence[float]) -> dict[str, Any]:
    x, y, w, h = sides(box)
    return {"object_id": number, "x": x, "y": y, "w": w, "h": h, "names": [label], "synsets": [], "merged_object_ids": []}
