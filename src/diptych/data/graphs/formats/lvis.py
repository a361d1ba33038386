"""LVIS: boxes of some 1,200 classes, of which only some were looked for in each image (Gupta et al., 2019, 1908.03195).

    lvis_v1_val.json   images: [{"id", "coco_url" or "file_name", "width", "height", "neg_category_ids", "not_exhaustive_category_ids"}]
                       annotations: [{"id", "image_id", "category_id", "bbox": [x, y, width, height], "segmentation"}]
                       categories: [{"id", "name", "synonyms", "synset", "def", "frequency": "r" | "c" | "f"}]

Version 1 says where an image lies by its address in COCO ("http://.../val2017/000000397133.jpg"): it is looked for as val2017/..., then by
its name alone. Labels are the names as they stand ("bow_(weapon)"), the keys of published knowledge files. Beside each sample lie

    absent     names that were looked for and are not there;  partial  names of which not every box is drawn
    frequency  {name: "r" | "c" | "f"} of the names that it has

as `open_detection` reads them. Definitions of the classes become a knowledge file with `diptych curate noun_knowledge`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.core.errors import DataError
from diptych.data.dataset import Pool
from diptych.data.graphs.collect import Collector
from diptych.data.graphs.entries import ImageAnnotation
from diptych.data.graphs.fields import ident, listed, need, split_of
from diptych.data.graphs.find import files_of, load_json
from diptych.data.graphs.formats.coco import Instances

PATTERNS = ("lvis*.json", "annotations/lvis*.json")
FREQUENCIES = ("r", "c", "f")


def read(source: Path, *, name: str, root: Path | None = None) -> Pool:
    """One file, or a folder with one for each split."""
    files = files_of(source, PATTERNS, "JSON")
    collect = Collector(source, files[0], root=root)
    for file in files:
        collect.open(file)
        value = load_json(file)
        try:
            names = [_names(image) for image in need(value, "images", list)]
            for image, called in zip(value["images"], names, strict=True):
                image["file_name"] = called[0]
            frequency = {ident(c, "id"): _frequency(c) for c in need(value, "categories", list)}
        except DataError as error:
            raise DataError(error.problem, file=file, field=error.field, expected=error.expected) from None
        coco = Instances(file, value)
        for row, reason in coco.lost:
            collect.bad(row, reason)
        split = split_of(file)

        def entry_of(
            row: int, image: Any, coco: Instances = coco, names: Any = names, frequency: Any = frequency, split: str = split
        ) -> ImageAnnotation:
            made = coco.entry(row, ident(image, "id"))
            made.names = names[row]
            there = {box.label for box in made.boxes if not box.fault}
            made.extras = {"split": split} if split else {}
            made.extras |= {
                "absent": _category_names(image, "neg_category_ids", coco),
                "partial": _category_names(image, "not_exhaustive_category_ids", coco),
                "frequency": {label: frequency[key] for key, label in coco.labels.items() if label in there},
            }
            return made

        collect.each(enumerate(coco.images), entry_of)
    return collect.pool(name)


def _names(image: Any) -> list[str]:
    """Candidate file names of an image, the one with its folder first."""
    if isinstance(image, dict) and isinstance(image.get("file_name"), str):
        return [image["file_name"]]
    parts = str(need(image, "coco_url", str)).rsplit("/", 2)
    return ["/".join(parts[-2:]), parts[-1]]


def _frequency(category: Any) -> str:
    kind = need(category, "frequency", str)
    if kind not in FREQUENCIES:
        raise DataError(f"{kind!r} is not a frequency", field="frequency", expected=" | ".join(FREQUENCIES))
    return str(kind)


def _category_names(image: dict[str, Any], field: str, coco: Instances) -> list[str]:
    """The names of category ids."""
    ids = listed(image, field)
    unknown = [one for one in ids if one not in coco.labels]
    if unknown:
        raise DataError(f"{unknown[0]} is not among the categories", field=field, expected="ids of categories")
    return [coco.labels[one] for one in ids]
