"""Engine for column steps over large pools: Daft, on this machine or on a Ray cluster. The same rows in, the same rows out.

A step is a *worker*: built once where it runs (an automaton, a language model), then called with Arrow arrays of some thousand
rows. Results are sorted by uid, so they do not depend on the input files, the number of workers or the engine.

What people get wrong: the engine of a process is chosen once, before the first frame; and Daft's usage statistics are on by
default (they are disabled here: Diptych never accesses the network on its own).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.errors import ConfigError, MissingExtra
from diptych.core.ray_cluster import join_cluster

Engine = Literal["local", "ray"]
BATCH_ROWS = 16_384
"""Rows per worker call: enough to amortise the call, few enough that two cores share a small pool."""


class Worker(Protocol):
    """Deterministic row-wise function from columns to one column. It is pickled to other machines, so it holds plain values."""

    kind: ClassVar[pa.DataType]

    def __call__(self, *columns: pa.Array) -> pa.Array: ...


_CHOSEN: list[Engine] = []
"""The engine of this process, once chosen: Daft's runner cannot be changed afterwards."""


def start(engine: Engine = "local", *, cpus: int | None = None) -> None:
    """Chooses the engine of this process. "ray" joins the cluster at RAY_ADDRESS, or starts a local one with `cpus` cores (None:
    all cores available to this process)."""
    if engine not in ("local", "ray"):
        raise ConfigError(f"engine is {engine!r} (expected local | ray)")
    if _CHOSEN and _CHOSEN[0] != engine:
        raise ConfigError(f"this process runs on {_CHOSEN[0]} already (expected one engine a process)")
    if _CHOSEN:
        return
    daft = _daft()
    if engine == "ray":
        join_cluster("the engine ray", cpus=cpus)
        daft.set_runner_ray(noop_if_initialized=True)
    else:
        daft.set_runner_native()
    _CHOSEN.append(engine)


def current_engine() -> Engine | None:
    """The engine of this process; None if none has been chosen."""
    return _CHOSEN[0] if _CHOSEN else None


def _running() -> Any:
    """Daft, with an engine chosen."""
    if not _CHOSEN:
        start()
    return _daft()


def mapped(table: pa.Table, reads: Sequence[str], worker: Worker, name: str) -> pa.Table:
    """Adds a column `name` with the worker's output for the columns it reads. Rows are returned in order of "row".

    `table` needs a column "row" (unique int64), which restores the order.
    """
    daft = _running()
    frame = daft.from_arrow(table)
    if _CHOSEN[0] == "ray":
        frame = frame.into_partitions(1 + table.num_rows // BATCH_ROWS)
    call = _remote(daft, worker)
    made = frame.select("row", call(*(frame[column] for column in reads)).alias(name)).sort("row").to_arrow()
    order = pc.sort_indices(table["row"])
    return table.take(order).append_column(name, _plain(made[name], worker.kind))


def mapped_where(table: pa.Table, reads: Sequence[str], worker: Worker, name: str) -> pa.Table:
    """Like `mapped`, for work that saturates the machine in a single call, such as running a model: without a cluster the worker
    is called in this process, and Daft is not needed."""
    if _CHOSEN == ["ray"]:
        return mapped(table, reads, worker, name)
    ordered = table.take(pc.sort_indices(table["row"])).combine_chunks()
    return ordered.append_column(name, worker(*(_plain(ordered[column]) for column in reads)))


def count_distinct(table: pa.Table, by: str, of: str) -> pa.Table:
    """Number of distinct values of column `of` for each value of column `by`: columns `by` and "count", unordered.

    On a Ray cluster Daft counts; on this machine Arrow does, and Daft is not needed.
    """
    if _CHOSEN != ["ray"]:
        counts = table.group_by(by).aggregate([(of, "count_distinct")])
        return counts.rename_columns([name if name == by else "count" for name in counts.column_names])
    frame = _running().from_arrow(table.select([by, of])).into_partitions(1 + table.num_rows // BATCH_ROWS)
    return frame.distinct().groupby(by).agg(frame[of].count().alias("count")).to_arrow()


def _remote(daft: Any, worker: Worker) -> Any:
    kind = daft.DataType.from_arrow_type(worker.kind)

    class DaftWorker:
        def __init__(self, inner: Worker) -> None:
            self.inner = inner

        def call(self, *columns: Any) -> Any:
            return self.inner(*(_plain(column.to_arrow()) for column in columns))

    DaftWorker.call = daft.method.batch(return_dtype=kind, batch_size=BATCH_ROWS)(DaftWorker.call)  # type: ignore[method-assign]
    return daft.cls(DaftWorker, use_process=False)(worker).call


def _plain(column: pa.Array | pa.ChunkedArray, kind: pa.DataType | None = None) -> pa.Array:
    """Arrow array with Daft's large strings and lists cast to the regular types."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if kind is None and pa.types.is_large_string(column.type):
        kind = pa.string()
    return column.cast(kind) if kind is not None and column.type != kind else column


@lru_cache(maxsize=1)
def _daft() -> Any:
    for name in ("DAFT_ANALYTICS_ENABLED", "DAFT_PROGRESS_BAR"):
        os.environ.setdefault(name, "0")
    try:
        import daft
    except ImportError:
        raise MissingExtra("daft", "curate", needed_for="a step over text columns") from None
    return daft
