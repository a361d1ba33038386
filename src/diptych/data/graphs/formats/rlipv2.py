"""The JSON that RLIPv2 is pre-trained on: Visual Genome, COCO and Objects365 in one form, with confidences of pseudo-labels.

    [{"image_id": 7, "dataset": "coco2017", "data_split": "train2017",
      "objects": [{"object_id", "x", "y", "w", "h", "names": "cat"}],
      "relationships": [{"relationship_id", "predicate", "subject_id", "object_id", "confidence"}]}]

Without ``dataset`` an image is Visual Genome's (``VG_100K/7.jpg``); else it lies under its split (``train2017/000000000007.jpg``).
The data set becomes the sample's source; the split's year stays with it, and "train", "val" or "test" is what the splits are called.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diptych.core.disk.files import write_atomic
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.graphs.collect import gather
from diptych.data.graphs.entries import BoxAnnotation, ImageAnnotation, RelationAnnotation
from diptych.data.graphs.fields import corners, need, real
from diptych.data.graphs.find import files_of, names_of
from diptych.data.graphs.image_export import ImageExporter, image_ids, sides

PATTERNS = ("*.json",)
DATASET, SPLIT = "dataset", "data_split"


def read(source: Path, *, name: str, root: Path | None = None) -> Pool:
    """One file, or a folder of them."""
    return gather(source, files_of(source, PATTERNS, "scene graphs in RLIPv2's form"), _entry, name=name, root=root)


def _entry(row: int, value: Any, _: str) -> ImageAnnotation:
    image_id = need(value, "image_id", int)
    dataset, split = str(value.get(DATASET) or ""), str(value.get(SPLIT) or "")
    boxes = []
    for thing in need(value, "objects", list):
        label = need(thing, "names", str, list)
        label = label if isinstance(label, str) else next(iter(label), "")
        xyxy = corners([thing.get(part) for part in ("x", "y", "w", "h")], sides=True)
        boxes.append(BoxAnnotation(need(thing, "object_id"), xyxy, label.strip()))
    links = [
        RelationAnnotation(
            need(r, "subject_id"),
            str(need(r, "predicate")).strip(),
            need(r, "object_id"),
            real(r.get("confidence", 1.0), "confidence"),
        )
        for r in need(value, "relationships", list)
    ]
    extras = {"source": dataset, DATASET: dataset, SPLIT: split} if dataset else {}
    if kind := re.match(r"train|val|test", split):
        extras["split"] = kind[0]
    return ImageAnnotation(
        row, image_id, _names(image_id, dataset, split), None, boxes, links, extras, key=f"{dataset} {image_id}".strip()
    )


def _names(image_id: int, dataset: str, split: str) -> list[str]:
    """Candidate file names of an image; COCO pads its numbers with zeros."""
    padded = names_of(f"{image_id:012d}") if "coco" in dataset else []
    names = padded + names_of(image_id)
    return [f"{split}/{name}" for name in names] + names if split else names


def write(samples: Sequence[Sample], folder: Path, placer: ImageExporter) -> list[Path]:
    """``scene_graphs.json`` and ``vocabulary.json`` (names with their counts). Images are called by their number.

    A data set and its split are written where the samples have them; attributes, scores of boxes and masks have no place in this format.
    """
    ids = image_ids(samples)
    rows = []
    count: dict[str, dict[str, int]] = {"relationship": {}, "object": {}}
    first = relation_id = 1
    for sample in samples:
        image_id = ids[sample.uid]
        dataset, split = (str(sample.extras.get(key) or "") for key in (DATASET, SPLIT))
        stem = f"{image_id:012d}" if "coco" in dataset else str(image_id)
        placer.put(sample, stem, split or "VG_100K")
        objects = []
        for n, region in enumerate(sample.regions):
            x, y, w, h = sides(region.box)
            objects.append({"object_id": first + n, "x": x, "y": y, "w": w, "h": h, "names": region.label})
            count["object"][region.label] = count["object"].get(region.label, 0) + 1
        relations = []
        for n, r in enumerate(sample.relations):
            ends = {"subject_id": first + r.subject, "object_id": first + r.object}
            sure = {} if r.confidence == 1.0 else {"confidence": r.confidence}
            relations.append({"relationship_id": relation_id + n, "predicate": r.predicate, **ends, **sure})
            count["relationship"][r.predicate] = count["relationship"].get(r.predicate, 0) + 1
        origin = {DATASET: dataset, SPLIT: split} if dataset else {}
        rows.append({"image_id": image_id, **origin, "objects": objects, "relationships": relations})
        first, relation_id = first + len(objects), relation_id + len(relations)
    words: dict[str, Any] = {}
    for kind, names in count.items():
        order = sorted(names, key=lambda name: (-names[name], name))
        words |= {f"{kind}_names": order, f"{kind}_freq": {name: names[name] for name in order}}
    paths = [folder / "scene_graphs.json", folder / "vocabulary" / "vocabulary.json"]
    for path, value in zip(paths, (rows, words), strict=True):
        write_atomic(path, json.dumps(value))
    return paths
