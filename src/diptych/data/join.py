"""Concatenation of pools: rows of several data sets as one, with every column, text, medium, region and relation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.errors import DataError
from diptych.core.image import ImageSource
from diptych.core.media import MediaItem
from diptych.data.dataset import Pool
from diptych.data.media.images import identity_of
from diptych.data.ragged import Ragged
from diptych.data.regions import REGION_SCHEMA, RELATION_SCHEMA
from diptych.data.texts import Texts


def concatenate(pools: Sequence[Pool], *, name: str = "") -> Pool:
    """Pool of the rows of all pools, in their order. A column that one of them lacks has gaps there.

    Raises DataError for a uid that two of them hold, and for a column that holds strings in one and numbers in another.
    """
    if not pools:
        raise DataError("there is nothing to concatenate", expected="one data set or more")
    if len(pools) == 1:
        return pools[0].named(name) if name else pools[0]
    _refuse_shared_uids(pools)
    columns = {column: _column(column, pools) for column in dict.fromkeys(n for pool in pools for n in pool.column_names)}
    uids = pa.chunked_array([pool.arrow("uid") for pool in pools]).combine_chunks()
    arrays = {column: values for column, values in columns.items() if isinstance(values, pa.Array)}
    json_columns = [column for column in arrays if any(_is_json(pool, column) for pool in pools)]
    tables = [pool.texts_table() for pool in pools]
    regions = [table for pool in pools if (table := pool.regions_table()) is not None]
    relations = [table for pool in pools if (table := pool.relations_table()) is not None]
    parts = _Parts(tuple(pools))
    return Pool(
        name or " + ".join(pool.name for pool in pools),
        arrays | {"uid": uids},
        Texts.by_uid(pa.concat_tables([table.cast(tables[0].schema) for table in tables]), uids),
        JoinedImages(parts),
        media=JoinedMedia(parts) if any(pool.has_media for pool in pools) else None,
        regions=Ragged.by_uid(_joined(regions, REGION_SCHEMA), uids) if regions else None,
        relations=Ragged.by_uid(_joined(relations, RELATION_SCHEMA), uids) if relations else None,
        objects={column: values for column, values in columns.items() if not isinstance(values, pa.Array)},
        json_columns=json_columns,
        quarantine=[entry for pool in pools for entry in pool.quarantine],
        notes=[note for pool in pools for note in pool.notes],
    )


class _Parts:
    """Pools one after the other, and the position of a row among them."""

    def __init__(self, pools: tuple[Pool, ...]) -> None:
        self.pools = pools
        self._start_N1: npt.NDArray[np.int64] = np.cumsum([0, *map(len, pools)])

    def at(self, row: int) -> tuple[Pool, int]:
        part = int(np.searchsorted(self._start_N1, row, side="right")) - 1
        return self.pools[part], row - int(self._start_N1[part])


@dataclass(frozen=True, slots=True)
class JoinedImages:
    """Images of several pools, one pool after the other."""

    parts: _Parts

    def source(self, row: int) -> ImageSource | None:
        pool, own = self.parts.at(row)
        return pool.own_image(own)

    def identity(self, row: int) -> str:
        source = self.source(row)
        return "" if source is None else identity_of(source)


@dataclass(frozen=True, slots=True)
class JoinedMedia:
    """Media of several pools, one pool after the other."""

    parts: _Parts

    def of(self, row: int) -> dict[str, MediaItem]:
        pool, own = self.parts.at(row)
        return pool.media(own)

    def identity(self, row: int) -> list[Any]:
        pool, own = self.parts.at(row)
        return pool.media_identity(own)


def _refuse_shared_uids(pools: Sequence[Pool]) -> None:
    part_of: dict[str, int] = {}
    for part, pool in enumerate(pools):
        for uid in pool.uids:
            first = part_of.setdefault(uid, part)
            if first != part:
                raise DataError(
                    f"uid '{uid}' is in '{pools[first].name}' and in '{pool.name}'",
                    field="uid",
                    expected="data sets without a uid in common",
                )


def _column(name: str, pools: Sequence[Pool]) -> pa.Array | list[Any]:
    """One column over all pools: an Arrow array, or a list of objects where one of them holds such."""
    if any(name in pool.column_names and not (pool.is_flat(name) or _is_json(pool, name)) for pool in pools):
        return [value for pool in pools for value in (pool.column(name) if name in pool.column_names else [None] * len(pool))]
    there = [pool.arrow(name) for pool in pools if name in pool.column_names]
    kind = _common_type(name, {array.type for array in there}, pools)
    chunks = [pool.arrow(name).cast(kind) if name in pool.column_names else pa.nulls(len(pool), kind) for pool in pools]
    return pa.chunked_array(chunks, kind).combine_chunks()


def _common_type(name: str, kinds: set[pa.DataType], pools: Sequence[Pool]) -> pa.DataType:
    real = {kind for kind in kinds if not pa.types.is_null(kind)}
    if len(real) <= 1:
        return next(iter(real), pa.null())
    if all(pa.types.is_integer(kind) for kind in real):
        return pa.int64()
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in real):
        return pa.float64()
    if all(pa.types.is_string(kind) or pa.types.is_large_string(kind) for kind in real):
        return pa.string()
    names = ", ".join(f"'{pool.name}'" for pool in pools if name in pool.column_names)
    kinds_listed = " and ".join(sorted(map(str, real)))
    raise DataError(f"holds {kinds_listed} in {names}", field=name, expected="one kind of values")


def _is_json(pool: Pool, name: str) -> bool:
    return name in pool.column_names and pool.is_json(name)


def _joined(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """Tables of records in the columns of the schema; what one lacks has gaps."""
    names = [field for field in schema if any(field.name in table.column_names for table in tables)]
    return pa.concat_tables(
        pa.table(
            [
                table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
                for field in names
            ],
            schema=pa.schema(names),
        )
        for table in tables
    )
