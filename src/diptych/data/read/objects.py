"""Data that are in memory already: DataFrames, Arrow tables, lists of pairs or of rows, data sets of torch.

What holds paths or bytes is read as a table on disk would be. Pictures that are objects (PIL, arrays) stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from diptych.core.errors import DataError, DiptychError
from diptych.core.image import DisplayMixin, ImageSource
from diptych.core.inputs import image_of
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.media.images import ImageObjects
from diptych.data.read.assemble import SourceRows, assemble
from diptych.data.read.read_options import IMAGE_NAMES, ReadOptions

A_PAIR = "pairs (image, text), rows {name: value}, or Sample"


def read_object(source: Any, options: ReadOptions, *, name: str, root: Path | None) -> Pool | None:
    """The pool of a pandas or polars DataFrame, an Arrow table, a list of pairs or of rows, or a data set of torch; None for
    anything else of these. `root`: the folder that image paths are relative to; without, the working directory."""
    module = type(source).__module__.partition(".")[0]
    if module == "pandas" and hasattr(source, "columns"):
        return _columns({str(column): source[column].tolist() for column in source.columns}, options, name or "table", root)
    if module == "polars" and hasattr(source, "to_arrow"):
        source = source.to_arrow()
    if isinstance(source, pa.RecordBatch):
        source = pa.Table.from_batches([source])
    if isinstance(source, pa.Table):
        return _table(source, options, name or "table", root)
    if isinstance(source, list | tuple):
        return _read_list(source, options, name, root)
    if not isinstance(source, Mapping | str | bytes) and hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _lazily(source, name or type(source).__name__)
    return None


def _read_list(rows: Sequence[Any], options: ReadOptions, name: str, root: Path | None) -> Pool:
    if not rows:
        raise DataError("the list is empty", expected=A_PAIR)
    if all(isinstance(row, Sample) for row in rows):
        return Pool.from_samples(rows, name=name or "samples")
    if all(isinstance(row, Mapping) for row in rows):
        names = list(dict.fromkeys(str(key) for row in rows for key in row))
        return _columns({key: [row.get(key) for row in rows] for key in names}, options, name or "rows", root)
    return Pool.from_samples((_pair(row, at, root) for at, row in enumerate(rows)), name=name or "pairs")


def _pair(row: Any, at: int, root: Path | None) -> Sample:
    if isinstance(row, Sample) or not isinstance(row, list | tuple) or len(row) != 2:
        what = f"{len(row)} values" if isinstance(row, list | tuple) else f"a {type(row).__name__}"
        raise DataError(f"is {what}", row=at, expected=A_PAIR)
    image, texts = row
    if isinstance(image, str | Path) and root is not None:
        image = root / image
    try:
        return Sample(f"{at:07d}", image_of(image), _texts(texts, at))
    except DiptychError as error:
        raise DataError(str(error), row=at, expected=A_PAIR) from error


def _texts(given: Any, at: int) -> tuple[Text, ...]:
    several = given if isinstance(given, list | tuple) else [given]
    if wrong := next((one for one in several if not isinstance(one, str | Text)), None):
        raise DataError(f"its text is a {type(wrong).__name__}", row=at, expected="a string, or a list of them")
    return tuple(one if isinstance(one, Text) else Text(str(one)) for one in several)


# ---------------------------------------------------------------- columns


def _columns(columns: Mapping[str, Sequence[Any]], options: ReadOptions, name: str, root: Path | None) -> Pool:
    """Columns of Python values: those that hold pictures as objects are kept aside, the others become a table."""
    count = len(next(iter(columns.values()), ()))
    if not count:
        raise DataError("contains no rows", file=name, expected="at least one")
    objects = {key: values for key, values in columns.items() if any(_is_picture(value) for value in values[:100])}
    rest = {key: values for key, values in columns.items() if key not in objects}
    try:
        table = pa.table({key: pa.array(values, from_pandas=True) for key, values in rest.items()})
    except pa.ArrowException as error:
        raise DataError(f"has a column of mixed types: {error}", file=name) from error
    if not objects:
        return _table(table, options, name, root)
    usual = [key for key in objects if key.lower() in IMAGE_NAMES[0]]
    column = options.image or (next(iter(objects)) if len(objects) == 1 else usual[0] if len(usual) == 1 else None)
    if column not in objects:
        raise DataError(f"columns {', '.join(objects)} hold pictures", file=name, expected="image=COLUMN")
    pictures = tuple(None if value is None else image_of(value, row=row) for row, value in enumerate(objects[column]))
    table = table if table.num_columns else pa.table({"": pa.nulls(count)})
    return assemble(SourceRows(name, table, name, images=ImageObjects(pictures)), replace(options, image=None))


def _is_picture(value: Any) -> bool:
    return hasattr(value, "getbands") or isinstance(value, np.ndarray | ImageSource)


def _table(table: pa.Table, options: ReadOptions, name: str, root: Path | None) -> Pool:
    top = str(root or Path.cwd())
    return assemble(SourceRows(name, table.replace_schema_metadata(None), name, root=top, within=None), options)


# ---------------------------------------------------------------- data sets of torch


@dataclass(frozen=True, slots=True, eq=False)
class ItemImage(DisplayMixin):
    """Picture of one item, fetched again on each read."""

    items: Any
    row: int
    name: str

    def read(self) -> bytes:
        return image_of(_parts(self.items[self.row], self.row)[0], row=self.row).read()


def _lazily(items: Any, name: str) -> Pool:
    """Every item is looked at once for its text; pictures are asked for again when they are used. A number as text is a class: its
    name, where the data set has `classes`."""
    classes = getattr(items, "classes", None)

    def samples() -> Iterator[Sample]:
        for row in range(len(items)):
            _, second = _parts(items[row], row)
            if isinstance(second, int | np.integer) or getattr(second, "ndim", None) == 0:
                label = int(second)
                texts: tuple[Text, ...] = (Text(str(classes[label]) if classes is not None else str(label), origin="label"),)
            else:
                texts = _texts(second, row)
            yield Sample(f"{row:07d}", ItemImage(items, row, f"{name}[{row}]"), texts)

    return Pool.from_samples(samples(), name=name)


def _parts(item: Any, row: int) -> tuple[Any, Any]:
    """Picture and text of an item: a pair, or a dict with the usual names."""
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    if isinstance(item, Mapping):
        image = next((item[key] for key in IMAGE_NAMES[0] if key in item), None)
        text = next((item[key] for key in ("caption", "captions", "text", "texts", "label", "class") if key in item), None)
        if image is not None and text is not None:
            return image, text
    raise DataError(
        f"an item is a {type(item).__name__}", row=row, expected="pairs (image, text), or dicts with 'image' and 'caption'"
    )
