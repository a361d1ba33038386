"""Open Images V6 relationships as the CSV files that Open Images publishes; see `open_images` for the folder."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from diptych.core.disk.files import write_atomic
from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region
from diptych.data.dataset import Pool
from diptych.data.graphs.collect import Collector
from diptych.data.graphs.entries import BoxAnnotation, ImageAnnotation, RelationAnnotation
from diptych.data.graphs.fields import corners, split_of
from diptych.data.graphs.find import files_of, matching_files, names_of, read_text
from diptych.data.graphs.image_export import ImageExporter, by_split

PATTERNS = ("*annotations-vrd.csv", "annotations/*annotations-vrd.csv")
CLASSES = ("*class-descriptions-boxable*.csv", "*class-descriptions*.csv")
ATTRIBUTES = "*attributes-description*.csv"
SIDES = ("XMin", "YMin", "XMax", "YMax")
RELATION = ("ImageID", "LabelName1", "LabelName2", "XMin1", "XMax1", "YMin1", "YMax1", "XMin2", "XMax2", "YMin2", "YMax2")
BOX = ("ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax")
FLAGS = ("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside")
KIND = "RelationshipLabel"
IS = "is"
DIGITS = 6


def read(source: Path, *, name: str, root: Path | None = None) -> Pool:
    """One ``*-annotations-vrd.csv``, or a folder of them, with the class descriptions beside."""
    files = files_of(source, PATTERNS, "*-annotations-vrd.csv")
    folder = files[0].parent
    described = matching_files(folder, *CLASSES)
    if not described:
        raise DataError("has no class descriptions beside it", file=files[0], expected="class-descriptions-boxable.csv")
    names: dict[str, str] = {}
    for file in [*described, *matching_files(folder, ATTRIBUTES)]:
        names |= _descriptions(file)
    collect = Collector(source, files[0], root=root)
    for file in files:
        collect.open(file)
        reader = _OpenImagesReader(names, split_of(file))
        reader.relations(_rows(file, (*RELATION, KIND)))
        boxes = matching_files(folder, _boxes_file(file), f"*{_part(file)}*annotations-bbox.csv")
        if boxes:
            reader.boxes(_rows(boxes[0], ("ImageID", "LabelName", *SIDES), keep=list(reader.images)))
        collect.each(((row, image) for image, (row, _) in reader.images.items()), reader.entry)
    return collect.pool(name)


class _OpenImagesReader:
    """Relations and boxes by image, in the order of the relations."""

    def __init__(self, names: dict[str, str], split: str) -> None:
        self._names, self._split = names, split
        self.images: dict[str, tuple[int, ImageAnnotation]] = {}

    def relations(self, rows: Iterable[tuple[int, dict[str, str]]]) -> None:
        for row, value in rows:
            image = value["ImageID"]
            split = {"split": self._split} if self._split else {}
            made = ImageAnnotation(row, image, names_of(image), extras=split, relative=True)
            entry = self.images.setdefault(image, (row, made))[1]
            first = self._box(entry, value, "1")
            predicate = value[KIND].replace("_", " ")
            if predicate == IS:
                box = next(box for box in entry.boxes if box.key == first)
                attribute = self._names.get(value["LabelName2"], value["LabelName2"])
                box.attributes = (*box.attributes, attribute) if attribute not in box.attributes else box.attributes
            else:
                entry.links.append(RelationAnnotation(first, predicate, self._box(entry, value, "2")))

    def boxes(self, rows: Iterable[tuple[int, dict[str, str]]]) -> None:
        for _, value in rows:
            self._box(self.images[value["ImageID"]][1], value, "")

    def _box(self, entry: ImageAnnotation, value: dict[str, str], end: str) -> Any:
        label = value[f"LabelName{end}"]
        xyxy = corners([value[f"{side}{end}"] for side in SIDES])
        key = (label, *(round(part, DIGITS) for part in xyxy))
        if all(box.key != key for box in entry.boxes):
            fault = "" if label in self._names else f"LabelName {label} is not in the class descriptions"
            entry.boxes.append(BoxAnnotation(key, xyxy, self._names.get(label, ""), fault=fault))
        return key

    def entry(self, _: int, image: str) -> ImageAnnotation:
        return self.images[image][1]


def _part(file: Path) -> str:
    """The split as Open Images calls it, in a file's name."""
    match = re.search(r"train|validation|test", file.name)
    return match[0] if match else ""


def _boxes_file(file: Path) -> str:
    return file.name.replace("annotations-vrd", "annotations-bbox")


def _descriptions(file: Path) -> dict[str, str]:
    """LabelName -> name; some of the published files have a header, some have none."""
    try:
        rows = [row for row in csv.reader(io.StringIO(read_text(file), newline="")) if row]
    except csv.Error as error:
        raise DataError(f"is not a CSV file: {error}", file=file) from error
    for number, row in enumerate(rows):
        if len(row) < 2:
            raise DataError(f"has {len(row)} field", file=file, row=number, expected="LabelName,DisplayName")
    return {row[0]: row[1] for row in rows if row[0] != "LabelName"}


def _rows(file: Path, names: Sequence[str], keep: Sequence[str] | None = None) -> Iterable[tuple[int, dict[str, str]]]:
    """Rows of a CSV with their numbers, as strings; `keep` chooses images."""
    try:
        options = pa.csv.ConvertOptions(column_types={**dict.fromkeys(names, pa.string()), "RelationLabel": pa.string()})
        table = pa.csv.read_csv(file, convert_options=options)
        _ = table.column_names  # which may not be UTF-8
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"is not a CSV file: {str(error).splitlines()[0]}", file=file) from error
    if KIND in names and KIND not in table.column_names and "RelationLabel" in table.column_names:
        table = table.rename_columns({"RelationLabel": KIND})
    if missing := [name for name in names if name not in table.column_names]:
        there = ", ".join(table.column_names)
        raise DataError(f"has no column {', '.join(missing)}; columns are {there}", file=file)
    table = table.select(list(names))
    number = pa.array(range(len(table)), pa.int64())
    if keep is not None:
        chosen = pc.is_in(table["ImageID"], value_set=pa.array(keep, pa.string()))
        table, number = table.filter(chosen), number.filter(chosen.combine_chunks())
    start = 0
    for batch in table.to_batches(max_chunksize=10_000):
        yield from zip(number[start : start + len(batch)].to_pylist(), batch.to_pylist(), strict=True)
        start += len(batch)


def write(samples: Sequence[Sample], folder: Path, placer: ImageExporter) -> list[Path]:
    """Relations, boxes and descriptions. A label serves as its own LabelName; image ids are uids.

    Boxes to six digits; scores and masks have no place in this format, nor an image without relation or attribute.
    """
    labels = sorted({region.label for sample in samples for region in sample.regions})
    attributes = sorted({name for sample in samples for region in sample.regions for name in region.attributes})
    paths = [folder / "class-descriptions-boxable.csv", folder / "oidv6-attributes-description.csv"]
    for path, names in zip(paths, (labels, attributes), strict=True):
        _write_csv(path, [[name, name] for name in names])
    for split, members in by_split(samples).items():
        part = {"": "train", "val": "validation"}.get(split, split)
        relations: list[list[Any]] = [[*RELATION, KIND]]
        boxes: list[list[Any]] = [[*BOX, *FLAGS]]
        for sample in members:
            placed = placer.put(sample, sample.uid, part)
            size = (placed.width, placed.height)
            for region in sample.regions:
                boxes.append([sample.uid, "xclick", region.label, 1, *_shares(region, size), *([0] * len(FLAGS))])
                for attribute in region.attributes:
                    ends = [*_shares(region, size), *_shares(region, size)]
                    relations.append([sample.uid, region.label, attribute, *ends, IS])
            for relation in sample.relations:
                first, second = sample.regions[relation.subject], sample.regions[relation.object]
                ends = [*_shares(first, size), *_shares(second, size)]
                row = [sample.uid, first.label, second.label, *ends, relation.predicate.replace(" ", "_")]
                relations.append(row)
        for kind, rows in (("vrd", relations), ("bbox", boxes)):
            paths.append(folder / f"oidv6-{part}-annotations-{kind}.csv")
            _write_csv(paths[-1], rows)
    return paths


def _shares(region: Region, size: tuple[int, int]) -> list[str]:
    """XMin, XMax, YMin, YMax as shares of the image."""
    (x0, y0, x1, y1), (width, height) = region.box, size
    return [f"{value:.{DIGITS}f}" for value in (x0 / width, x1 / width, y0 / height, y1 / height)]


def _write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomic(path, text.getvalue())
