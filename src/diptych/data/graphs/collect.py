"""Builds a `Pool` with regions and relations from the entries of an annotation file, with the checks that all formats share.

What cannot be used costs itself and no more, and is named in the quarantine with file and row: a box outside its image or without
area, a label or predicate that the file does not explain, a relation to a box that is not there, an image that comes twice or has
no file. A box that sticks out is cut to the image; one pixel over the edge is rounding and is cut without a word.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from diptych.core.disk.paths import is_utf8
from diptych.core.errors import DataError
from diptych.data.dataset import Pool
from diptych.data.graphs.entries import BoxAnnotation, ImageAnnotation, PhraseAnnotation
from diptych.data.graphs.fields import split_of
from diptych.data.graphs.find import ImageFinder, load_list, size_of
from diptych.data.media.images import LooseFiles
from diptych.data.quarantine import QuarantineEntry
from diptych.data.ragged import Ragged
from diptych.data.read.naming import uids_of
from diptych.data.read.rows import Rows, is_json
from diptych.data.regions import REGION_SCHEMA, RELATION_SCHEMA
from diptych.data.text.captions.phrases import FIELD as GROUNDING
from diptych.data.texts import Texts

ROUNDING = 1.0  # pixels
PATIENCE = 50  # images that are missing at the start before the folder is taken to be the wrong one
PIECE = 50_000
LARGEST = 2**31


def gather(
    source: Path, files: Sequence[Path], parse: Callable[[int, Any, str], ImageAnnotation | None], *, name: str, root: Path | None
) -> Pool:
    """The pool of files that hold a list of images each. `parse` gets row, value and the split that the file's name gives."""
    collect = Collector(source, files[0], root=root)
    for file in files:
        collect.open(file)
        split = split_of(file)
        collect.each(enumerate(load_list(file)), lambda row, value, split=split: parse(row, value, split))  # type: ignore[misc]
    return collect.pool(name)


class Collector:
    """Takes entries and gives the pool. `source` is what the user gave; `file` is what messages name, and `open` changes it."""

    def __init__(self, source: Path, file: Path, *, root: Path | None = None) -> None:
        self._source, self._file, self._root = source, file, root
        self._finder = ImageFinder(file, source, root)
        self._bad: list[QuarantineEntry] = []
        self._rows, self._paths = Rows(), list[str]()
        self._regions, self._relations = _Pieces(REGION_SCHEMA), _Pieces(RELATION_SCHEMA)
        self._first: dict[Any, tuple[Path, int]] = {}
        self._missing = ""
        self._missed = 0

    def open(self, file: Path) -> None:
        """From here on entries come from `file`."""
        self._file, self._finder = file, ImageFinder(file, self._source, self._root)

    def bad(self, row: int | None, reason: str) -> None:
        """Something that is left out; its image stays, so no uid stands in the line."""
        where = str(self._file) if row is None else f"{self._file}, row {row}"
        self._bad.append(QuarantineEntry("", "read", _line(reason)[:500], where))

    def each(self, rows: Iterable[tuple[int, Any]], parse: Callable[[int, Any], ImageAnnotation | None]) -> None:
        """Add the result of `parse` for every row. A row that raises `DataError` is skipped; None is a row without content."""
        for row, value in rows:
            try:
                if (entry := parse(row, value)) is not None:
                    self.add(entry)
            except DataError as error:
                self.bad(row, str(DataError(error.problem, field=error.field, expected=error.expected)))
            except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError, OSError) as error:
                # a list where a number should be, a number that no float holds, and their like
                self.bad(row, f"is malformed: {error}")

    def add(self, entry: ImageAnnotation) -> None:
        """Check one image and keep what of it can be used. Whatever is raised, either all of it is kept or nothing."""
        key = entry.image_id if entry.key is None else entry.key
        path = self._finder.find(entry.names)
        for image_key in ((self._file, key), path):
            if image_key in self._first:
                file, row = self._first[image_key]
                raise DataError(f"image {key} is a duplicate; the first is in {file}, row {row}")
        if path is None:
            self._no_image(entry)
            return
        width, height = self._size(entry, path)
        if entry.relative:
            for box in entry.boxes:
                x0, y0, x1, y1 = box.xyxy
                box.xyxy = (x0 * width, y0 * height, x1 * width, y1 * height)
        before = len(self._bad)
        try:
            at, kept, regions = self._keep_boxes(entry, width, height)
            relations = self._keep_links(entry, at)
            columns = {name: [values[n] for n in kept] for name, values in entry.per_region.items()}
            _writable([*regions, *relations], str(path))
        except Exception:
            del self._bad[before:]
            raise
        number = len(self._paths)
        self._regions.extend(number, regions)
        self._relations.extend(number, relations)
        self._paths.append(str(path))
        if entry.sentences:
            columns[GROUNDING] = [_sentence(text, phrases, at) for text, phrases in entry.sentences]
        self._rows.add({"image_id": entry.image_id, "width": width, "height": height, **entry.extras, **columns})
        self._first[self._file, key] = self._first[path] = (self._file, entry.row)

    def pool(self, name: str) -> Pool:
        """Everything that was added. No image at all is an error: either the folder is wrong or the file is."""
        if not self._paths:
            if self._missing:
                raise self._nowhere()
            reason = f": {self._bad[0].reason}" if self._bad else ""
            raise DataError(f"does not name an image that can be used{reason}", file=self._file, expected="at least one image")
        table = self._rows.table()
        uids = uids_of([Path(path).stem for path in self._paths], self._paths)
        columns = {"uid": pa.array(uids, pa.string())}
        columns |= {part.name: table[part.name].combine_chunks() for part in table.schema}
        return Pool(
            name,
            columns,
            Texts.from_lists([()] * len(self._paths)),
            LooseFiles("", pa.array(self._paths, pa.string())),
            regions=self._regions.ragged(len(self._paths)),
            relations=self._relations.ragged(len(self._paths)),
            json_columns=[part.name for part in table.schema if is_json(part)],
            quarantine=self._bad,
            notes=[f"{len(self._bad):,} parts of {name} were left out or cut; the quarantine says why"] if self._bad else (),
        )

    # ------------------------------------------------------------ checks

    def _no_image(self, entry: ImageAnnotation) -> None:
        self._missing, self._missed = self._missing or entry.names[0], self._missed + 1
        self.bad(entry.row, f"image {entry.names[0]} does not exist")
        if self._missed >= PATIENCE and not self._paths:
            raise self._nowhere()

    def _nowhere(self) -> DataError:
        location = f"below {self._root}" if self._root is not None else "near"
        return DataError(
            f"image {_line(self._missing)} was found nowhere {location}",
            file=self._file,
            expected="root=FOLDER of the images",
        )

    def _size(self, entry: ImageAnnotation, path: Path) -> tuple[int, int]:
        if entry.size is None:
            try:
                return size_of(path)
            except DataError as error:
                raise DataError(f"image {path} cannot be read: {error.problem}") from None
        width, height = entry.size
        if not (isinstance(width, int) and isinstance(height, int) and 0 < width < LARGEST and 0 < height < LARGEST):
            raise DataError(f"the image is {width!r} x {height!r} pixels", expected="whole numbers above 0")
        return width, height

    def _keep_boxes(
        self, entry: ImageAnnotation, width: int, height: int
    ) -> tuple[dict[Any, int], list[int], list[dict[str, Any]]]:
        """Where each key went, which boxes were kept, and their columns."""
        at: dict[Any, int] = {}
        kept: list[int] = []
        records = []
        for number, box in enumerate(entry.boxes):
            box_name = box.where or f"box {number}"
            box_name += f" ('{box.label}')" if box.label else ""
            box.fault = box.fault or _fault(box, width, height)
            if not box.fault and box.key in at:
                box.fault = f"its id {box.key} was taken before"
            if box.fault:
                self.bad(entry.row, f"{box_name} was left out: {box.fault}")
                continue
            cut, over = _cut(box.xyxy, width, height)
            if over > ROUNDING:
                self.bad(entry.row, f"{box_name} {_plain(box.xyxy)} was cut to the image of {width} x {height} pixels")
            at[box.key] = len(kept)
            kept.append(number)
            records.append(_record(box, cut))
        return at, kept, records

    def _keep_links(self, entry: ImageAnnotation, at: dict[Any, int]) -> list[dict[str, Any]]:
        """The columns of the relations whose boxes were kept."""
        there = {box.key for box in entry.boxes}
        records = []
        for number, link in enumerate(entry.links):
            fault = link.fault or ("" if link.predicate else "it has no predicate")
            for key in (link.subject, link.object):
                if not fault and key not in at:
                    fault = f"box {key} was left out" if key in there else f"there is no box {key}"
            if fault:
                what = f"relation {number} ('{link.predicate}')" if link.predicate else f"relation {number}"
                self.bad(entry.row, f"{what} was left out: {fault}")
                continue
            ends = {"subject": at[link.subject], "object": at[link.object]}
            records.append({"predicate": link.predicate, "confidence": link.confidence, **ends})
        return records


def _sentence(text: str, phrases: Sequence[PhraseAnnotation], at: dict[Any, int]) -> dict[str, Any]:
    """Sentence record of a sample; each phrase keeps those of its boxes that were kept."""
    return {
        "text": text,
        "phrases": [
            {"spans": phrase.spans, "regions": [at[key] for key in phrase.boxes if key in at], "kind": phrase.kind}
            for phrase in phrases
        ],
    }


def _writable(records: Iterable[dict[str, Any]], path: str) -> None:
    """Raise DataError for a string that no table can hold: half a surrogate pair, spelled out in JSON or in a file's name."""
    for value in (path, *(value for record in records for value in record.values())):
        for string in value if isinstance(value, list) else [value]:
            if isinstance(string, str) and not is_utf8(string):
                raise DataError(f"{ascii(string)[:60]} holds half a surrogate pair", expected="characters")


def _fault(box: BoxAnnotation, width: int, height: int) -> str:
    """Reason that a box cannot be used at all, or ""."""
    x0, y0, x1, y1 = box.xyxy
    if not all(math.isfinite(value) for value in box.xyxy):
        return f"{_plain(box.xyxy)} is not a box"
    if not (x1 > x0 and y1 > y0):
        return f"{_plain(box.xyxy)} has no area"
    if min(x1, width) <= max(x0, 0) or min(y1, height) <= max(y0, 0):
        return f"{_plain(box.xyxy)} lies outside the image of {width} x {height} pixels"
    return "" if box.label else "it has no label"


def _cut(xyxy: tuple[float, float, float, float], width: int, height: int) -> tuple[tuple[float, float, float, float], float]:
    """The part inside the image, and how far the box stuck out."""
    x0, y0, x1, y1 = xyxy
    cut = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    return cut, max(abs(a - b) for a, b in zip(xyxy, cut, strict=True))


def _record(box: BoxAnnotation, xyxy: tuple[float, float, float, float]) -> dict[str, Any]:
    """A region's columns."""
    mask = None if box.mask is None else json.dumps(box.mask, ensure_ascii=False)
    rest = {"label": box.label, "attributes": list(box.attributes), "score": box.score, "mask": mask}
    return dict(zip(("x0", "y0", "x1", "y1"), xyxy, strict=True)) | rest


def _line(text: str) -> str:
    """Text of a file in a message: what would break the line is escaped."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _plain(xyxy: Iterable[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in xyxy)})"


class _Pieces:
    """Records by row in flat columns, converted to Arrow in chunks so that millions of dicts are never in memory together."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = pa.schema([part for part in schema if part.name != "uid"])
        self._records: list[dict[str, Any]] = []
        self._row: list[int] = []
        self._tables: list[pa.Table] = []

    def extend(self, row: int, records: Sequence[dict[str, Any]]) -> None:
        self._row += [row] * len(records)
        self._records += records
        if len(self._records) >= PIECE:
            self._flush()

    def ragged(self, rows: int) -> Ragged:
        self._flush()
        table = pa.concat_tables(self._tables)
        return Ragged.by_row(table, np.array(self._row, np.int64), rows)

    def _flush(self) -> None:
        self._tables.append(pa.Table.from_pylist(self._records, self._schema))
        self._records = []
