"""Columns of a pool with one value per sample, and the selected rows. Selecting copies only row indices."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.errors import DataError, UnknownName
from diptych.core.sample import Sample
from diptych.data.columns import column_of, refuse_duplicates

Ints = npt.NDArray[np.int64]

IDENTITY = ("uid", "group", "licence", "source")
STORED = ("shard", "image_offset", "image_size", "image_format", "width", "height", "sha256", "status")
"""Columns that `build` fills in. They are read with `column`, and are not among the extras of a sample."""
HIDDEN = frozenset((*IDENTITY, *STORED))
JSON = {b"diptych": b"json"}
"""Metadata of a column whose strings are JSON."""


class WholeRows:
    """All of `count` rows in order, without an array of them: what `np.arange(count)` is to who asks for a row or for several."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int | np.integer):
            return range(self.count)[int(index)]  # IndexError past the end, as a sequence should
        return np.arange(self.count)[index] if isinstance(index, slice) else np.asarray(index)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))

    def __array__(self, dtype: Any = None, copy: Any = None) -> Ints:
        return np.arange(self.count, dtype=dtype or np.int64)

    def tolist(self) -> list[int]:
        return list(range(self.count))


class RowStrings(Sequence[str]):
    """Strings of one column in the order of rows, made one by one. With `otherwise`, a row without is that column's."""

    def __init__(self, metadata: Metadata, name: str, otherwise: str = "") -> None:
        self.metadata, self.name, self.otherwise = metadata, name, otherwise

    def __len__(self) -> int:
        return len(self.metadata)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[str]: ...

    def __getitem__(self, row: int | slice) -> str | Sequence[str]:
        if isinstance(row, slice):
            return tuple(self[number] for number in range(len(self))[row])
        base = int(self.metadata.rows[row])
        return self.metadata.string(self.name, base) or (self.metadata.string(self.otherwise, base) if self.otherwise else "")

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))


@dataclass(frozen=True)
class Metadata:
    """Columns and their selected rows.

    columns  Arrow arrays of one length, "uid" among them
    objects  values that Arrow cannot hold, as many in each
    json     the columns whose strings are JSON
    rows     which values, in which order
    """

    columns: Mapping[str, pa.Array]
    objects: Mapping[str, Sequence[Any]]
    json: frozenset[str]
    rows: Ints | WholeRows

    @classmethod
    def whole(cls, columns: Mapping[str, pa.Array], objects: Mapping[str, Sequence[Any]], json: Collection[str]) -> Metadata:
        """All rows. Raises DataError for a duplicate uid."""
        refuse_duplicates(columns["uid"])
        return cls(dict(columns), dict(objects), frozenset(json), np.arange(len(columns["uid"])))

    @classmethod
    def of_samples(cls, samples: Sequence[Sample]) -> Metadata:
        """Identity columns and extras of samples in memory."""
        columns = {field: pa.array([getattr(s, field) for s in samples], pa.string()) for field in IDENTITY}
        objects: dict[str, list[Any]] = {}
        for key in dict.fromkeys(key for s in samples for key in s.extras):
            if key in IDENTITY or key in STORED:
                taken = ", ".join(IDENTITY + STORED)
                raise DataError(f"{key!r} cannot be an extra", field=key, expected=f"a name other than {taken}")
            values = [s.extras.get(key) for s in samples]
            column = column_of(values)
            if column is None:
                objects[key] = values
            else:
                columns[key] = column
        return cls.whole(columns, objects, ())

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def row_array(self) -> Ints:
        """The selected rows as an array."""
        return np.asarray(self.rows)

    # ------------------------------------------------------------ one row

    def string(self, name: str, base: int) -> str:
        """Value of an identity column, "" if missing. `base` counts the rows of the columns."""
        column = self.columns.get(name)
        return "" if column is None else column[base].as_py() or ""

    def extras(self, base: int) -> dict[str, Any]:
        """Extra columns of a sample: all that are not part of its identity."""
        extras = {}
        for key in self.columns:
            if key in HIDDEN:
                continue
            value = self.columns[key][base].as_py()
            if value is not None and not (key == "split" and value == ""):
                extras[key] = json.loads(value) if key in self.json else value
        for key, values in self.objects.items():
            if values[base] is not None:
                extras[key] = values[base]
        return extras

    # ------------------------------------------------------------ columns

    @property
    def names(self) -> list[str]:
        return [*self.columns, *self.objects]

    @property
    def extra_names(self) -> list[str]:
        return [name for name in self.names if name not in HIDDEN]

    def column(self, name: str) -> list[Any]:
        """Values in the order of rows; None, or "" in identity columns and splits, if there is a gap."""
        if name in self.objects:
            return [self.objects[name][base] for base in self.rows]
        values: list[Any] = self.arrow(name).to_pylist()
        if name in self.json:
            return [None if value is None else json.loads(value) for value in values]
        return ["" if value is None else value for value in values] if name in (*IDENTITY, "split") else values

    def arrow(self, name: str) -> pa.Array:
        """The same as an Arrow array (JSON columns as their strings)."""
        if name not in self.columns:
            if name in (*IDENTITY, "split"):
                return pa.array([""] * len(self), pa.string())
            raise UnknownName("column", name, self.names, hint="known: " + ", ".join(self.names))
        column = self.columns[name]
        return column if self.is_whole else column.take(pa.array(self.row_array))

    @property
    def is_whole(self) -> bool:
        """True if all rows are there, in order."""
        if isinstance(self.rows, WholeRows):
            return True
        return len(self.rows) == len(self.columns["uid"]) and bool(np.all(self.rows == np.arange(len(self.rows))))

    def place(self) -> Ints:
        """Position of each row of the columns among the selected rows; -1 if not selected."""
        position = np.full(len(self.columns["uid"]), -1, np.int64)
        position[self.row_array] = np.arange(len(self))
        return position

    # ------------------------------------------------------------ changed

    def chosen(self, rows: Sequence[int] | npt.NDArray[Any], pool: str) -> Metadata:
        """Selection of these rows, in this order. `pool` is for messages."""
        chosen = np.asarray(rows)
        chosen = chosen.astype(np.int64) if chosen.size == 0 else chosen
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
            raise DataError(f"rows are {chosen.dtype} of shape {list(chosen.shape)}", expected="a flat list of whole numbers")
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            wrong = chosen.min() if chosen.min() < 0 else chosen.max()
            raise DataError(f"row {wrong} is not in '{pool}'", expected=f"0..{len(self) - 1}")
        return replace(self, rows=self.rows[chosen])

    def copied(self) -> Metadata:
        """Selected rows as columns of their own."""
        columns = {name: self.arrow(name) for name in self.columns}
        return Metadata(columns, {name: self.column(name) for name in self.objects}, self.json, np.arange(len(self)))

    def with_columns(self, columns: Mapping[str, Sequence[Any]]) -> Metadata:
        """Columns with one value per row, added or replaced."""
        arrays, objects = {}, {}
        for name, values in columns.items():
            if len(values) != len(self):
                raise DataError(f"{len(values)} values for {len(self)} rows", field=name, expected="one value a row")
            array = column_of(list(values))
            if array is None:
                objects[name] = list(values)
            else:
                arrays[name] = array
        return self._joined(arrays, objects, self.place(), ())

    def with_table(self, table: pa.Table) -> Metadata:
        """The columns of a table with one row a uid. Unknown uids are ignored; a uid without row gets a gap."""
        refuse_duplicates(table["uid"])
        uids = self.columns["uid"]
        position_N = pc.index_in(uids, value_set=table["uid"].cast(pa.string())).fill_null(-1).to_numpy(zero_copy_only=False)
        arrays, json_columns = {}, set()
        for field in table.schema:
            if field.name == "uid":
                continue
            if field.name in STORED:
                raise DataError(f"a table cannot replace '{field.name}'", field=field.name, expected="another name")
            arrays[field.name] = table[field.name].combine_chunks()
            if (field.metadata or {}).get(b"diptych") == b"json":
                json_columns.add(field.name)
        return self._joined(arrays, {}, position_N.astype(np.int64), json_columns)

    def _joined(
        self, arrays: Mapping[str, pa.Array], objects: Mapping[str, list[Any]], position_N: Ints, json_columns: Collection[str]
    ) -> Metadata:
        """`place[base row]` is the position in the new columns, or -1."""
        take = pa.array(position_N, mask=position_N < 0)
        new = {name: array.take(take) for name, array in arrays.items()}
        spread = {name: [values[p] if p >= 0 else None for p in position_N.tolist()] for name, values in objects.items()}
        names = {*new, *spread}
        return replace(
            self,
            columns={**{k: v for k, v in self.columns.items() if k not in names}, **new},
            objects={**{k: v for k, v in self.objects.items() if k not in names}, **spread},
            json=(self.json - names) | set(json_columns),
        )
