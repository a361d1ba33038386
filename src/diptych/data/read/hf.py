"""Hugging Face `datasets` objects, read in place, image by image, without decoding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from diptych.core.errors import DataError, DecodeError
from diptych.core.image import BytesImage, DisplayMixin, FileImage, ImageSource
from diptych.data.dataset import Pool
from diptych.data.read.assemble import SourceRows, assemble
from diptych.data.read.read_options import IMAGE_NAMES, ReadOptions


@dataclass(frozen=True, slots=True)
class HubImage(DisplayMixin):
    """Image of one row; the row is fetched when its bytes are read."""

    rows: Any
    row: int
    name: str

    def read(self) -> bytes:
        return _source(self.rows[self.row], self.name).read()


@dataclass(frozen=True, slots=True)
class HubImages:
    """`rows` is a dataset with the image column alone, undecoded; rows without image are null in `present`."""

    rows: Any
    column: str
    name: str
    present: np.ndarray[Any, np.dtype[np.bool_]]

    def source(self, row: int) -> ImageSource | None:
        return HubImage(_Column(self.rows, self.column), row, f"{self.name}:{row}") if self.present[row] else None

    def identity(self, row: int) -> str:
        return f"{self.rows._fingerprint} {row}" if self.present[row] else ""


@dataclass(frozen=True, slots=True)
class _Column:
    rows: Any
    column: str

    def __getitem__(self, row: int) -> Any:
        return self.rows[row][self.column]


def is_hub(source: object) -> bool:
    """True if this is a `datasets` object; the package is not imported."""
    return type(source).__module__.partition(".")[0] == "datasets" or (
        isinstance(source, Mapping) and bool(source) and all(is_hub(value) for value in source.values())
    )


def read_hub(source: Any, options: ReadOptions, *, name: str) -> Pool:
    """A `Dataset`, or a `DatasetDict` whose keys become the splits."""
    from datasets import Dataset, Image, concatenate_datasets

    if isinstance(source, Mapping):
        parts = [
            part.add_column("split", [key] * len(part)) if "split" not in part.column_names else part
            for key, part in source.items()
        ]
        source = concatenate_datasets(parts)
    if not isinstance(source, Dataset):
        raise DataError(
            f"a {type(source).__name__} has no rows to choose from", expected="a datasets.Dataset; load it without streaming"
        )
    if not len(source):
        raise DataError("the data set is empty", file=name, expected="at least one row")
    image_columns = [column for column, feature in source.features.items() if isinstance(feature, Image)]
    column = options.image or (image_columns[0] if len(image_columns) == 1 else None)
    if column is None and len(image_columns) > 1:
        usual = [column for column in image_columns if column in IMAGE_NAMES[0]]
        if len(usual) != 1:
            raise DataError(f"columns {', '.join(image_columns)} all hold images", file=name, expected="image=COLUMN")
        column = usual[0]
    if column not in image_columns:
        return assemble(SourceRows(name, _arrow(source), name), options)
    images = source.select_columns([column]).cast_column(column, Image(decode=False))
    present = ~images.with_format("arrow")[:][column].is_null().combine_chunks().to_numpy(zero_copy_only=False)
    rest = source.remove_columns(image_columns)
    table = _arrow(rest) if rest.column_names else pa.table({"": pa.nulls(len(source))})
    options = replace(options, image=None)
    return assemble(SourceRows(name, table, name, images=HubImages(images, str(column), name, present)), options)


def _arrow(source: Any) -> pa.Table:
    """The rows as plain Arrow; class labels become their names."""
    from datasets import ClassLabel

    table = source.with_format("arrow")[:]
    for name, feature in source.features.items():
        if isinstance(feature, ClassLabel):
            names = pa.array([None if value is None or value < 0 else feature.names[value] for value in table[name].to_pylist()])
            table = table.set_column(table.schema.get_field_index(name), name, names)
    return table.replace_schema_metadata(None)


def _source(value: Any, name: str) -> ImageSource:
    if value.get("bytes"):
        return BytesImage(value["bytes"], name)
    if not value.get("path"):
        raise DecodeError("has neither bytes nor a path", file=name)
    return FileImage(Path(value["path"]))
