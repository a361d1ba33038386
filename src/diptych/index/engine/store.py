"""Storage interface of an index. `edge` is a folder on this machine, `server` a collection on a Qdrant server.

Letters: T tokens of one item, D width.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import Unit
from diptych.index.filters import Kind, Where

PAGE = 1024  # items read at a time when all are read


@dataclass(frozen=True, slots=True)
class DenseSpace:
    """A space of vectors.

    graph  searched approximately by a graph (HNSW) if there are many; otherwise compared with all, or only re-scored
    cold   stays on disk and is read where a search touches it
    many   several vectors per item, compared by the sum over the query's vectors of the best match (MaxSim)
    """

    name: str
    dim: int
    graph: bool = True
    cold: bool = False
    many: bool = False


@dataclass(frozen=True, slots=True)
class SparseSpace:
    """A space of sparse vectors with an inverted index. idf: the engine weighs query terms by rarity (BM25's idf)."""

    name: str
    idf: bool = False


Space = DenseSpace | SparseSpace


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """A sparse vector: term numbers and their weights."""

    indices: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]


Vector = Unit | SparseVector  # Unit: [D], or [T, D] in a space of many
Vectors = Mapping[str, Vector]  # by the name of the space


def vector_of(value: Any) -> Vector:
    """A vector as an engine answers it, sparse where it has indices."""
    if hasattr(value, "indices"):
        return SparseVector(np.asarray(value.indices, np.int64), np.asarray(value.values, np.float32))
    return np.asarray(value, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class IndexItem:
    """One point of an engine. The payload holds the columns and `uid`."""

    id: uuid.UUID
    vectors: Vectors
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredItem:
    """Search result of an engine. `vectors` is empty unless requested."""

    id: uuid.UUID
    score: float
    payload: dict[str, Any]
    vectors: Vectors = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class EngineQuery:
    """One ranking: the `limit` items nearest to `vector` in `space`; with `first`, only among those that it finds.

    effort  candidates that a walk over the graph keeps
    """

    space: str
    vector: Vector
    limit: int
    exact: bool = False
    effort: int = 128
    first: EngineQuery | None = None


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """Which items an operation concerns: those for which all of this holds.

    where, columns  conditions, and the kinds of the columns they name
    uids            one of these samples; None for any
    ids             one of these items; None for any
    without         none of these items
    """

    where: Where = field(default_factory=dict)
    columns: Mapping[str, Kind] = field(default_factory=dict)
    uids: Sequence[str] | None = None
    ids: Sequence[uuid.UUID] | None = None
    without: Sequence[uuid.UUID] = ()


class Store(Protocol):
    """An engine with one collection open. What `upsert` and `delete` have returned from survives a kill of this process."""

    def count(self) -> int: ...

    def upsert(self, items: Sequence[IndexItem]) -> None: ...

    def delete(self, choice: ItemFilter) -> None: ...

    def declare(self, column: str, kind: Kind) -> None:
        """Index a column, so that filters on it stay fast."""

    def query(self, ask: EngineQuery, choice: ItemFilter, *, vectors: Sequence[str] = ()) -> list[ScoredItem]:
        """Best first. `vectors` names the spaces whose vectors come along."""

    def scroll(
        self, choice: ItemFilter | None = None, *, vectors: Sequence[str] = (), uid_only: bool = False
    ) -> Iterator[IndexItem]:
        """Every item once, in no order that means anything."""

    def settle(self) -> None:
        """Let the engine build what it still has to build, and write everything down."""

    def bytes(self) -> int:
        """On this machine's disk."""

    def close(self) -> None: ...
