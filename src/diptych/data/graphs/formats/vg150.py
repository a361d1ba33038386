"""VG150, the split of Visual Genome that scene-graph papers report: 150 objects, 50 predicates, in HDF5. Needs h5py.

    VG-SGG-with-attri.h5           boxes_1024, boxes_512 [boxes, 4] (cx, cy, w, h; the longer side of the image is 1024 or 512),
                                   labels, attributes, active_object_mask, relationships [relations, 2], predicates; for each
                                   image img_to_first_box, img_to_last_box, img_to_first_rel, img_to_last_rel, split
    VG-SGG-dicts-with-attri.json   idx_to_label, idx_to_predicate, idx_to_attribute, counted from 1
    image_data.json                Visual Genome's; the images of the h5 are in its order
    VG_100K/

Relations point into the boxes of all images; "last" is inclusive and -1 stands for none. Four images of ``image_data.json`` have
broken files and are passed over, as all published readers do. Split 0 is "train" and 2 is "test"; papers validate on the first
5,000 training images that have relations. Boxes are whole numbers of a 1024th of the longer side, so a box that is written moves
by up to one of these steps. Their corners are whole numbers, too: published readers keep cx - w / 2 in an array of whole numbers, which
cuts the half of an odd side off, and the far corner is w away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.disk.files import write_atomic
from diptych.core.errors import DataError, MissingExtra
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.graphs.collect import Collector
from diptych.data.graphs.entries import BoxAnnotation, ImageAnnotation, RelationAnnotation
from diptych.data.graphs.fields import need
from diptych.data.graphs.find import load_json, load_list, matching_files, names_of
from diptych.data.graphs.image_export import ImageExporter, image_ids, labels_of
from diptych.data.vocabularies import vocabulary

Array = npt.NDArray[Any]

PATTERNS = ("VG-SGG*.h5", "*SGG*.h5", "*.h5")
CORRUPT = (1592, 1722, 4616, 4617)
SPLITS = {0: "train", 1: "val", 2: "test"}
PER_IMAGE = ("img_to_first_box", "img_to_last_box", "img_to_first_rel", "img_to_last_rel", "split")
PER_BOX, PER_RELATION = ("labels",), ("relationships", "predicates")
SCALES = (1024, 512)
ATTRIBUTES = 10  # a box
TYPES = {"active_object_mask": "bool", "attributes": "int64"}


def read(source: Path, *, name: str, root: Path | None = None) -> Pool:
    """The h5, or the folder that holds it with its dictionaries and ``image_data.json``."""
    file = source if source.is_file() else next(iter(matching_files(source, *PATTERNS)), None)
    if file is None:
        raise DataError("contains no VG-SGG*.h5", file=source, expected="VG-SGG-with-attri.h5")
    near = (file.parent, file.parent.parent)
    dicts = next((matches[0] for folder in near if (matches := matching_files(folder, "*SGG-dicts*.json", "*dicts*.json"))), None)
    listed = next((matches[0] for folder in near if (matches := matching_files(folder, "image_data.json"))), None)
    if dicts is None or listed is None:
        missing = "VG-SGG-dicts*.json" if dicts is None else "image_data.json"
        raise DataError(f"has no {missing} beside it", file=file, expected="the dictionaries and image_data.json")
    arrays = _checked(file, load_h5(file))
    images, count = load_list(listed), len(arrays["split"])
    whole = [image for image in images if not isinstance(image, dict) or image.get("image_id") not in CORRUPT]
    images = whole if len(whole) == count else images
    if len(images) != count:
        raise DataError(f"lists {len(images)} images", file=listed, expected=f"the {count} of {file.name}")
    reader = _Vg150Reader(arrays, load_json(dicts), dicts)
    collect = Collector(source, file, root=root)
    collect.each(enumerate(images), reader.entry)
    return collect.pool(name)


class _Vg150Reader:
    def __init__(self, arrays: Mapping[str, Array], dicts: Any, file: Path) -> None:
        self._arrays = arrays
        self._labels, self._predicates, self._attributes = (
            _names(dicts, kind, file) for kind in ("label", "predicate", "attribute")
        )
        self._scale = next(scale for scale in SCALES if f"boxes_{scale}" in arrays)
        boxes_N4 = arrays[f"boxes_{self._scale}"]
        self._corners = (boxes_N4[:, :2] - boxes_N4[:, 2:] / 2).astype(boxes_N4.dtype)

    def entry(self, row: int, image: Any) -> ImageAnnotation:
        image_id, width, height = (need(image, key, int) for key in ("image_id", "width", "height"))
        boxes_N4 = self._arrays[f"boxes_{self._scale}"]
        first, last = self._range("box", row, len(boxes_N4))
        step = max(width, height) / self._scale
        attributes = self._arrays.get("attributes")
        boxes = []
        for n in range(first, last + 1):
            (left, top), (wide, high) = self._corners[n].tolist(), boxes_N4[n, 2:].tolist()
            xyxy = (left * step, top * step, (left + wide) * step, (top + high) * step)
            number = int(self._arrays["labels"][n])
            label = self._labels.get(number, "")
            own = () if attributes is None else tuple(filter(None, (self._attributes.get(a) for a in attributes[n].tolist())))
            boxes.append(BoxAnnotation(n, xyxy, label, own, fault="" if label else f"label {number} is not in the dictionaries"))
        first, last = self._range("rel", row, len(self._arrays["predicates"]))
        links = []
        for n in range(first, last + 1):
            subject, other = self._arrays["relationships"][n].tolist()
            number = int(self._arrays["predicates"][n])
            predicate = self._predicates.get(number, "")
            fault = "" if predicate else f"predicate {number} is not in the dictionaries"
            links.append(RelationAnnotation(subject, predicate, other, fault=fault))
        split = SPLITS.get(int(self._arrays["split"][row]), "")
        return ImageAnnotation(
            row, image_id, names_of(image_id), (width, height), boxes, links, {"split": split} if split else {}
        )

    def _range(self, what: str, row: int, count: int) -> tuple[int, int]:
        """First and last of an image, inclusive; an empty one is (0, -1)."""
        first, last = (int(self._arrays[f"img_to_{end}_{what}"][row]) for end in ("first", "last"))
        if first < 0 or last < 0:
            return 0, -1
        if first > last or last >= count:
            raise DataError(f"img_to_first_{what}, img_to_last_{what} are {first}, {last}, and there are {count} in all")
        return first, last


def load_h5(file: Path) -> dict[str, Array]:
    """Every data set at the top of an HDF5 file."""
    h5py = _h5py()
    try:
        with h5py.File(file, "r") as handle:
            return {name: np.asarray(handle[name][()]) for name in handle if hasattr(handle[name], "shape")}  # no groups
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"cannot be read as HDF5: {str(error).splitlines()[0]}", file=file, expected="the whole file") from error


def _h5py() -> Any:
    try:
        return import_module("h5py")
    except ImportError:
        raise MissingExtra("h5py", "h5", needed_for="VG150's h5") from None


def _checked(file: Path, arrays: dict[str, Array]) -> dict[str, Array]:
    """All that is needed is there, and lengths agree. Columns of width one lose their second axis."""
    scale = next((scale for scale in SCALES if f"boxes_{scale}" in arrays), None)
    missing = [name for name in (*PER_IMAGE, *PER_BOX, *PER_RELATION) if name not in arrays]
    missing += ["boxes_1024"] if scale is None else []
    if missing:
        raise DataError(f"has no {', '.join(missing)}", file=file, expected="the data sets of VG-SGG-with-attri.h5")
    flat = {name: arrays[name].reshape(-1) for name in (*PER_IMAGE, *PER_BOX, "predicates")}
    arrays = {**arrays, **flat}
    boxes = f"boxes_{scale}"
    widths = {boxes: 4, "relationships": 2}
    for name, width in widths.items():
        if arrays[name].ndim != 2 or arrays[name].shape[1] != width:
            raise DataError(f"'{name}' has the shape {list(arrays[name].shape)}", file=file, expected=f"[N, {width}]")
    for names in (PER_IMAGE, (boxes, "labels", *(["attributes"] if "attributes" in arrays else [])), PER_RELATION):
        if len({len(arrays[name]) for name in names}) > 1:
            counts = ", ".join(f"{name} {len(arrays[name])}" for name in names)
            raise DataError(f"lengths differ: {counts}", file=file, expected="the same number of rows in each")
    return arrays


def _names(dicts: Any, kind: str, file: Path) -> dict[int, str]:
    """Number -> name, from either of the two directions in which the dictionaries are given."""
    try:
        if isinstance(mapping := dicts.get(f"idx_to_{kind}"), dict):
            return {int(number): str(name) for number, name in mapping.items()}
        if isinstance(mapping := dicts.get(f"{kind}_to_idx"), dict):
            return {int(number): str(name) for name, number in mapping.items()}
    except (AttributeError, TypeError, ValueError):
        raise DataError("is not a dictionary of names", file=file, field=f"idx_to_{kind}") from None
    if kind == "attribute":
        return {}
    raise DataError(f"has no idx_to_{kind}", file=file, expected=f"idx_to_{kind} or {kind}_to_idx")


def write(samples: Sequence[Sample], folder: Path, placer: ImageExporter) -> list[Path]:
    """The h5, its dictionaries and ``image_data.json``. Labels of VG150 keep its numbers; others are numbered from 1 by name.

    Scores and masks have no place in this format, nor more than ten attributes of a box.
    """
    _h5py()
    vg150, (labels, predicates) = vocabulary("vg150"), labels_of(samples)
    attributes = sorted({attribute for sample in samples for region in sample.regions for attribute in region.attributes})
    if set(labels) <= set(vg150.objects) and set(predicates) <= set(vg150.predicates):
        labels, predicates = list(vg150.objects), list(vg150.predicates)
    number = {
        kind: {name: n for n, name in enumerate(names, 1)}
        for kind, names in (("label", labels), ("predicate", predicates), ("attribute", attributes))
    }
    ids = image_ids(samples)
    images = []
    columns: dict[str, list[Any]] = {name: [] for name in (*PER_IMAGE, *PER_BOX, *PER_RELATION, "attributes")}
    columns |= {f"boxes_{scale}": [] for scale in SCALES} | {"active_object_mask": []}
    of_split = {name: n for n, name in SPLITS.items()} | {"val": 0}
    for sample in samples:
        placed = placer.put(sample, str(ids[sample.uid]), "VG_100K")
        size = {"width": placed.width, "height": placed.height}
        images.append({"image_id": ids[sample.uid], **size, "url": "", "coco_id": None, "flickr_id": None})
        first, first_relation = len(columns["labels"]), len(columns["predicates"])
        used = {end for relation in sample.relations for end in (relation.subject, relation.object)}
        for n, region in enumerate(sample.regions):
            columns["labels"].append([number["label"][region.label]])
            own = [number["attribute"][name] for name in region.attributes[:ATTRIBUTES]]
            columns["attributes"].append(own + [0] * (ATTRIBUTES - len(own)))
            columns["active_object_mask"].append([n in used])
            for scale in SCALES:
                columns[f"boxes_{scale}"].append(_centred(region.box, scale / max(placed.width, placed.height)))
        for relation in sample.relations:
            columns["relationships"].append([first + relation.subject, first + relation.object])
            columns["predicates"].append([number["predicate"][relation.predicate]])
        for what, start, count in (("box", first, len(sample.regions)), ("rel", first_relation, len(sample.relations))):
            columns[f"img_to_first_{what}"].append(start if count else -1)
            columns[f"img_to_last_{what}"].append(start + count - 1 if count else -1)
        columns["split"].append(of_split.get(str(sample.extras.get("split") or "train"), 0))
    widths = {"boxes_1024": 4, "boxes_512": 4, "relationships": 2, "attributes": ATTRIBUTES}
    arrays = {}
    for name, values in columns.items():
        shape = (len(values),) if name in PER_IMAGE else (len(values), widths.get(name, 1))
        arrays[name] = np.array(values, np.dtype(TYPES.get(name, "int32"))).reshape(shape)
    dicts: dict[str, Any] = {}
    for kind, names in number.items():
        dicts |= {f"{kind}_to_idx": names, f"idx_to_{kind}": {str(n): name for name, n in names.items()}}
    paths = [folder / name for name in ("VG-SGG-with-attri.h5", "VG-SGG-dicts-with-attri.json", "image_data.json")]
    save_h5(paths[0], arrays)
    write_atomic(paths[1], json.dumps(dicts))
    write_atomic(paths[2], json.dumps(images))
    return paths


def save_h5(file: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays as the data sets of a new HDF5 file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with _h5py().File(file, "w") as handle:
        for name, values in arrays.items():
            handle.create_dataset(name, data=values)


def _centred(box: Sequence[float], step: float) -> list[int]:
    """xyxy pixels as whole numbers (cx, cy, w, h), of which readers make the corner again; a thin box keeps a width of one."""
    x0, y0, x1, y1 = (value * step for value in box)
    w, h = max(1, round(x1 - x0)), max(1, round(y1 - y0))
    return [round(x0) + (w + 1) // 2, round(y0) + (h + 1) // 2, w, h]
