"""Reading and writing scene graphs in published annotation formats: `write(pool, "out/", format="hico-det")`, `read("out/")`.

Reading gives a `Pool` whose samples have `regions` and `relations` (`core.scene_graph`): boxes are xyxy in pixels, names are
words. Which file holds what, and what each form cannot say, stands at the top of its module and on the page "Your data".
"""

from __future__ import annotations

import fnmatch
import mmap
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from diptych.core.disk.paths import is_file, open_file
from diptych.core.errors import DataError, UnknownName
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.graphs.image_export import ImageExporter

_FORMATS = {
    "visual-genome": ("visual_genome", "read", "write"),
    "rlipv2": ("rlipv2", "read", "write"),
    "hico-det": ("hico_det", "read", "write"),
    "hico-det-pairs": ("hico_det_pairs", "read", "write"),
    "v-coco": ("v_coco", "read", "write"),
    "v-coco-hoia": ("v_coco", "read_hoia", "write_hoia"),
    "vg150": ("vg150", "read", "write"),
    "coco": ("coco", "read", "write"),
    "psg": ("psg", "read", "write"),
    "open-images": ("open_images", "read", "write"),
    "open-images-csv": ("open_images_csv", "read", "write"),
}
_READ_ONLY = {
    "cvat": "cvat",
    "label-studio": "label_studio",
    "mdetr": "mdetr",
    "flickr30k-entities": "flickr30k_entities",
    "lvis": "lvis",
    "omnilabel": "omnilabel",
    "provision": "provision",
    "refcoco": "refcoco",
}
"""Exports of drawing tools, sentences with phrases that have boxes, boxes of which not all were drawn, and graphs with masks and depth:
read, not written."""
FORMATS = tuple(_FORMATS)
"""Names for `format`, in `read`, `write` and on the command line."""

_BY_NAME = (  # what a folder must hold, the most telling first
    ("vg150", ("*SGG*.h5",)),
    ("visual-genome", ("relationships.json",)),
    ("hico-det", ("*_hico.json", "annotations/*_hico.json")),
    ("hico-det-pairs", ("instances_*2015.json",)),
    ("v-coco", ("vcoco_*.json", "vcoco/vcoco_*.json", "data/vcoco/vcoco_*.json")),
    ("v-coco-hoia", ("*_vcoco.json", "annotations/*_vcoco.json")),
    ("psg", ("psg*.json", "psg/psg*.json")),
    ("open-images", ("vrd-*-anno.json", "annotations/vrd-*-anno.json")),
    ("refcoco", ("refs(*).p",)),
    ("open-images-csv", ("*annotations-vrd.csv", "annotations/*annotations-vrd.csv")),
    ("cvat", ("annotations.xml",)),
)
_BELOW = ("annotations", "vcoco", "data/vcoco", "psg")
_BY_KEYS = (  # keys that a JSON file must have, and one that it must not have
    ("provision", ("data_path", "annotation", "source"), "images"),
    ("mdetr", ("images", "annotations", "tokens_positive"), ""),
    ("omnilabel", ("images", "descriptions", "description_ids"), ""),
    ("label-studio", ("annotations", "result", "from_name", "to_name"), ""),
    ("lvis", ("images", "categories", "neg_category_ids", "not_exhaustive_category_ids"), ""),
    ("hico-det", ("hoi_annotation",), ""),
    ("v-coco", ("action_name", "role_object_id"), ""),
    ("hico-det-pairs", ("boxes_h", "correspondence"), ""),
    ("psg", ("predicate_classes", "thing_classes"), ""),
    ("open-images", ("img_fn", "det_labels"), ""),
    ("coco", ("rel_annotations", "rel_categories"), ""),
    ("rlipv2", ("objects", "relationships"), ""),
    ("visual-genome", ("relationships", "predicate"), "objects"),
    ("coco", ("images", "categories", "annotations", "bbox"), "caption"),
)
_MANY = 20  # JSON files in a folder: more are captions beside their images


@dataclass(frozen=True, slots=True)
class AnnotationFiles:
    """Files that `write` made: folder, format and number of samples."""

    folder: Path
    format: str
    files: tuple[Path, ...]
    samples: int

    def lines(self) -> list[str]:
        names = ", ".join(str(file.relative_to(self.folder)) for file in self.files)
        return [f"{self.samples:,} samples as {self.format} in {self.folder}: {names}"]


def read(
    source: Path | str, *, format: str = "", name: str = "", root: Path | str | None = None, within: str | None = None
) -> Pool:
    """Read a file or folder of annotations; without `format` the form is recognised. Images are found, not decoded.

    root    the folder of the images, where they are neither beside the annotations nor in a folder near them
    within  a folder that links of images may not lead out of
    """
    path = Path(source)
    if not path.exists():
        raise DataError("does not exist", file=path, expected="a file or folder of annotations")
    chosen = format or format_of(path)
    if not chosen:
        raise DataError("is not a known scene-graph format", file=path, expected=f"format={' | '.join((*FORMATS, *_READ_ONLY))}")
    reader = _part(chosen, 1) if chosen not in _READ_ONLY else import_module(f"{__name__}.formats.{_READ_ONLY[chosen]}").read
    pool: Pool = reader(path, name=name or path.resolve().stem, root=None if root is None else Path(root))
    pool = pool if within is None else pool.confined(within)
    pool.notes.append(f"read as {chosen}: {len(pool):,} images")
    return pool


def write(data: Iterable[Sample], folder: Path | str, *, format: str, images: bool = True) -> AnnotationFiles:
    """Write samples with their regions and relations to a new or empty folder, in a form that others read.

    Images are copied byte for byte to where the format has them; `images=False` writes the annotations only. A label that the
    format has no id for is an error. What else a format cannot say is lost; its module names it.
    """
    out = Path(folder)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError("is not empty", file=out, expected="a new or empty folder")
    samples = list(data)
    if not samples:
        raise DataError("no samples to write", expected="at least one")
    files = _part(format, 2)(samples, out, ImageExporter(out, images))
    return AnnotationFiles(out, format, tuple(files), len(samples))


def format_of(path: Path) -> str:
    """The format of a folder, by its file names, or of a file, by its keys; "" if it is not recognised."""
    if path.is_dir():
        if (path / "Sentences").is_dir() and (path / "Annotations").is_dir():
            return "flickr30k-entities"
        names = {below: _annotations(path / below) for below in ("", *_BELOW)}
        fits = (name for name, patterns in _BY_NAME if any(fnmatch.filter(_under(names, p), p) for p in patterns))
        return next(fits, "")
    if path.suffix == ".h5":
        return "vg150"
    if fnmatch.fnmatch(path.name, "refs(*).p"):
        return "refcoco"
    if path.name.endswith("annotations-vrd.csv"):
        return "open-images-csv"
    if path.name.endswith("annotations.xml"):
        return "cvat"
    return _by_keys(path) if path.suffix.lower() == ".json" and is_file(path) and path.stat().st_size else ""


def format_within(folder: Path) -> str:
    """The format of a folder whose files have names of the user's own: that of its JSON files, if they all have one."""
    files = [*folder.glob("*.json"), *folder.glob("annotations/*.json")]
    formats = {format_of(file) for file in files} if 0 < len(files) <= _MANY else {""}
    return formats.pop() if len(formats) == 1 else ""


def _annotations(folder: Path) -> list[str]:
    """Names of possible annotation files in a folder, from one listing, however many images it has."""
    return (
        [entry for entry in os.listdir(folder) if entry.endswith((".json", ".h5", ".csv", ".p", ".xml"))]
        if folder.is_dir()
        else []
    )


def _under(names: Mapping[str, list[str]], pattern: str) -> list[str]:
    below = pattern.rpartition("/")[0]
    return [f"{below}/{name}" for name in names[below]] if below else names[""]


def _by_keys(path: Path) -> str:
    with open_file(path) as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as text:

        def has(key: str) -> bool:
            return re.search(rb'"%s"\s*:' % key.encode(), text) is not None

        if has("hoi_annotation") and "vcoco" in path.name.lower():
            return "v-coco-hoia"
        fits = (name for name, keys, absent in _BY_KEYS if all(map(has, keys)) and not (absent and has(absent)))
        return next(fits, "")


def _part(format: str, which: int) -> Callable[..., Any]:
    if format not in _FORMATS:
        raise UnknownName("format", format, (*FORMATS, *(_READ_ONLY if which == 1 else ())))
    entry = _FORMATS[format]
    part: Callable[..., Any] = getattr(import_module(f"diptych.data.graphs.formats.{entry[0]}"), entry[which])
    return part
