"""What every engine behind an index can do. `edge` is a folder on this machine, `server` a collection on a Qdrant server.

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
class Dense:
    """A space of vectors.

    graph  searched approximately by a graph (HNSW) where there are many; otherwise compared with all, or only re-scored
    cold   stays on disk and is read where a search touches it
    many   several vectors an item, compared by the sum over the query's vectors of the best match (MaxSim)
    """

    name: str
    dim: int
    graph: bool = True
    cold: bool = False
    many: bool = False


@dataclass(frozen=True, slots=True)
class Sparse:
    """A space of weighted terms behind an inverted index. idf: the engine weighs query terms by how rare they are (BM25's idf)."""

    name: str
    idf: bool = False


Space = Dense | Sparse


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """A sparse vector: which terms, by number, and their weights."""

    indices: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]


Vector = Unit | Terms  # Unit: [D], or [T, D] in a space of many
Vectors = Mapping[str, Vector]  # by the name of the space


def vector_of(value: Any) -> Vector:
    """A vector as an engine answers it, sparse where it has indices."""
    if hasattr(value, "indices"):
        return Terms(np.asarray(value.indices, np.int64), np.asarray(value.values, np.float32))
    return np.asarray(value, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One point of an engine. The payload holds the columns and `uid`."""

    id: uuid.UUID
    vectors: Vectors
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """An item that a search found. `vectors` is empty unless they were asked for."""

    id: uuid.UUID
    score: float
    payload: dict[str, Any]
    vectors: Vectors = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """One ranking: the `limit` items nearest to `vector` in `space`; with `first`, only among those that it finds.

    effort  candidates that a walk over the graph keeps
    """

    space: str
    vector: Vector
    limit: int
    exact: bool = False
    effort: int = 128
    first: Ask | None = None


@dataclass(frozen=True, slots=True)
class Choice:
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

    def upsert(self, items: Sequence[Item]) -> None: ...

    def delete(self, choice: Choice) -> None: ...

    def declare(self, column: str, kind: Kind) -> None:
        """Index a column, so that filters on it stay fast."""

    def query(self, ask: Ask, choice: Choice, *, vectors: Sequence[str] = ()) -> list[Scored]:
        """Best first. `vectors` names the spaces whose vectors come along."""

    def scroll(self, choice: Choice | None = None, *, vectors: Sequence[str] = (), uid_only: bool = False) -> Iterator[Item]:
        """Every item once, in no order that means anything."""

    def settle(self) -> None:
        """Let the engine build what it still has to build, and write everything down."""

    def bytes(self) -> int:
        """On this machine's disk."""

    def close(self) -> None: ...
