"""The embedded engine: a Qdrant Edge shard in a folder, its write-ahead log on. One process at a time may have it open."""

from __future__ import annotations

import shutil
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from diptych.core.disk.lock import Lock
from diptych.core.disk.paths import folder_identity
from diptych.core.errors import DiptychError, RunError
from diptych.index.engine.disk import CHUNK, DiskFull, chunk_room, fill_holes, in_memory, need_room, size_of, temporary_copy
from diptych.index.engine.store import (
    PAGE,
    DenseSpace,
    EngineQuery,
    IndexItem,
    ItemFilter,
    ScoredItem,
    Space,
    SparseVector,
    Vector,
    Vectors,
    vector_of,
)
from diptych.index.filters import RANGES, Kind, OneOf, clauses, json_path

SEGMENT = 1 << 30
"""Bytes of the engine's files that are rewritten at a time, at most."""


STATUS = {"vectors": 8, "offsets": 8}
"""Bytes of the engine's files `status.dat` by folder; 16 in all others."""


class IndexBusy(RunError):
    """Another process has the engine open."""


class EdgeStore:
    """Made by `create` or `load`."""

    def __init__(self, folder: Path, shard: Any, lock: Lock, copy: Path | None = None) -> None:
        """copy: temporary folder that the engine has open, where the disk was full; then nothing is changed."""
        self.folder, self._shard, self._lock, self._copy = folder, shard, lock, copy
        self._in_memory = in_memory(folder)
        self._identity = folder_identity(folder)

    @classmethod
    def create(cls, folder: Path, spaces: Sequence[Space]) -> EdgeStore:
        """An empty shard in a folder that is not there yet."""
        import qdrant_edge as engine

        dense_spaces = sum(isinstance(space, DenseSpace) for space in spaces)
        need_room(folder.parent, CHUNK * dense_spaces if in_memory(folder.parent) else 0)
        folder.mkdir(parents=True)
        dense = {space.name: _dense(engine, space) for space in spaces if isinstance(space, DenseSpace)}
        sparse = {
            space.name: engine.EdgeSparseVectorParams(modifier=engine.Modifier.Idf if space.idf else None)
            for space in spaces
            if not isinstance(space, DenseSpace)
        }
        config = engine.EdgeConfig(vectors=dense or None, sparse_vectors=sparse or None, wal_enabled=True)
        with _alone(folder) as lock, _engine(folder):
            return cls(folder, engine.EdgeShard.create(str(folder), config), lock)

    @classmethod
    def load(cls, folder: Path) -> EdgeStore:
        """Raises RunError when another process has it open or the engine cannot read it. On a full disk it can be searched."""
        import qdrant_edge as engine

        _refuse_odd(folder)
        with _alone(folder) as lock:
            if in_memory(folder):
                fill_holes(folder)
            try:
                with _engine(folder):
                    return cls(folder, engine.EdgeShard.load(str(folder)), lock)
            except DiskFull:
                copy = temporary_copy(folder)
                if copy is None:
                    raise
            try:
                with _engine(folder):
                    return cls(folder, engine.EdgeShard.load(str(copy)), lock, copy)
            except BaseException:
                shutil.rmtree(copy, ignore_errors=True)
                raise

    def close(self) -> None:
        try:
            if self._identity == folder_identity(self.folder):
                self._shard.flush()
                self._shard.close()
            else:  # another index took its place: what it held is gone with its files
                with suppress(Exception):
                    self._shard.close()
        finally:
            self._lock.close()
            if self._copy is not None:
                shutil.rmtree(self._copy, ignore_errors=True)

    def _need_room(self, size: int) -> None:
        """Raise DiskFull unless this many bytes fit, or where the disk was full when the engine opened its files."""
        need_room(self.folder, size)
        if self._copy is not None:
            raise DiskFull(f"the disk of {self.folder} was full when the index was opened: open it again to change it")

    def count(self) -> int:
        return int(self._shard.info().points_count)

    def bytes(self) -> int:
        """Blocks in use: files that the engine has reserved and not filled count by what they hold."""
        return sum(512 * file.stat().st_blocks for file in self.folder.rglob("*") if file.is_file())

    def upsert(self, items: Sequence[IndexItem]) -> None:
        import qdrant_edge as engine

        points = [
            engine.Point(item.id, {name: _to_engine(engine, vector) for name, vector in item.vectors.items()}, item.payload)
            for item in items
        ]
        if points:
            self._need_room(size_of(items) + (chunk_room(self.folder) if self._in_memory else 0))
            with _engine(self.folder):
                self._shard.update(engine.UpdateOperation.upsert_points(points))
                if self._in_memory:
                    fill_holes(self.folder)

    def delete(self, choice: ItemFilter) -> None:
        import qdrant_edge as engine

        self._need_room(0)
        with _engine(self.folder):
            self._shard.update(engine.UpdateOperation.delete_points_by_filter(_filter(engine, choice)))
            self._shard.flush()

    def declare(self, column: str, kind: Kind) -> None:
        import qdrant_edge as engine

        schema = engine.PayloadSchemaType
        types = {"integer": schema.Integer, "boolean": schema.Integer, "number": schema.Float}
        kind_of_index = types.get(kind, schema.Keyword)
        self._need_room(min(self.bytes(), SEGMENT))
        with _engine(self.folder):
            self._shard.update(engine.UpdateOperation.create_field_index(json_path(column), kind_of_index))

    def query(self, ask: EngineQuery, choice: ItemFilter, *, vectors: Sequence[str] = ()) -> list[ScoredItem]:
        import qdrant_edge as engine

        condition = _filter(engine, choice)
        request = engine.QueryRequest(
            limit=ask.limit,
            query=_nearest(engine, ask),
            prefetches=[_first(engine, ask.first, condition)] if ask.first else None,
            with_payload=True,
            with_vector=list(vectors) if vectors else False,
            filter=condition,
            params=_params(engine, ask),
        )
        return [
            ScoredItem(_id(point.id), float(point.score), dict(point.payload), _from_engine(point.vector, vectors))
            for point in self._shard.query(request)
        ]

    def scroll(
        self, choice: ItemFilter | None = None, *, vectors: Sequence[str] = (), uid_only: bool = False
    ) -> Iterator[IndexItem]:
        import qdrant_edge as engine

        condition, offset = _filter(engine, choice or ItemFilter()), None
        while True:
            request = engine.ScrollRequest(
                offset=offset,
                limit=PAGE,
                filter=condition,
                with_payload=["uid"] if uid_only else True,
                with_vector=list(vectors) if vectors else False,
            )
            records, offset = self._shard.scroll(request)
            for record in records:
                yield IndexItem(_id(record.id), _from_engine(record.vector, vectors), dict(record.payload))
            if offset is None:
                return

    def settle(self) -> None:
        self._need_room(min(self.bytes(), SEGMENT))  # segments are rewritten, one after the other
        with _engine(self.folder):
            self._shard.optimize()
            self._shard.flush()
            if self._in_memory:
                fill_holes(self.folder)


@contextmanager
def _alone(folder: Path) -> Iterator[Lock]:
    """Lock that is taken before the engine opens its files: it repairs them on loading, and only then finds out that it is not alone.
    Released if the block fails.
    """
    lock = Lock.on_folder(folder)
    if lock is None:
        raise IndexBusy(f"{folder.parent} is open in another process, or twice in this one: close it there first")
    try:
        yield lock
    except BaseException:
        lock.close()
        raise


@contextmanager
def _engine(folder: Path) -> Iterator[None]:
    """Turn errors of the engine into one line: it has no narrower class, and on files damaged beyond its own checks it panics,
    which is no `Exception` to Python.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, DiptychError):
        raise
    except BaseException as error:
        index_folder, first = folder.parent, next(iter(str(error).splitlines()), type(error).__name__)
        if "WouldBlock" in str(error):
            raise IndexBusy(f"{index_folder} is open in another process, or twice in this one: close it there first") from error
        if "No space left" in str(error) or "os error 28" in str(error):
            need_room(folder, 0)
            raise DiskFull(
                f"the disk of {index_folder} is full; what was stored before is kept: make room and run it again"
            ) from error
        raise RunError(f"{index_folder}: its engine cannot go on: {first[:300]}") from error


def _refuse_odd(folder: Path) -> None:
    """Raise RunError for files that the engine would wait for, follow or crash on: no folder, pipes, devices, links."""
    if not folder.is_dir():
        raise RunError(f"{folder.parent} has no folder {folder.name} with the engine's files: build the index again")
    for path in folder.rglob("*"):
        kind = path.lstat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            what = "a link" if stat.S_ISLNK(kind) else "no file"
            raise RunError(f"{path} is {what} (expected the engine's own files): build the index again")
        whole = STATUS.get(path.parent.name, 16)
        if path.name == "status.dat" and path.lstat().st_size < whole:  # at which the engine prints a panic
            raise RunError(f"{path} is cut off: {path.lstat().st_size} of {whole} bytes: build the index again")


def _id(value: Any) -> uuid.UUID:
    return value if isinstance(value, uuid.UUID) else uuid.UUID(str(value))


def _dense(engine: Any, space: DenseSpace) -> Any:
    """m=0 builds no graph."""
    return engine.EdgeVectorParams(
        size=space.dim,
        distance=engine.Distance.Dot,
        hnsw_config=None if space.graph else engine.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000),
        multivector_config=engine.MultiVectorConfig(engine.MultiVectorComparator.MaxSim) if space.many else None,
        memory=engine.Memory.Cold if space.cold else None,
    )


def _to_engine(engine: Any, vector: Vector) -> Any:
    if isinstance(vector, SparseVector):
        return engine.SparseVector(indices=vector.indices.tolist(), values=vector.values.tolist())
    return vector.tolist()


def _from_engine(vectors: Any, names: Sequence[str]) -> Vectors:
    """The engine gives a shard's only dense vector bare, and several by name."""
    if not names or vectors is None:
        return {}
    named = vectors if isinstance(vectors, dict) else {names[0]: vectors}
    return {name: vector_of(value) for name, value in named.items()}


def _nearest(engine: Any, ask: EngineQuery) -> Any:
    return engine.Query.Nearest(_to_engine(engine, ask.vector), using=ask.space)


def _params(engine: Any, ask: EngineQuery) -> Any:
    return engine.SearchParams(hnsw_ef=max(ask.effort, ask.limit), exact=ask.exact)


def _first(engine: Any, ask: EngineQuery, condition: Any) -> Any:
    before = [_first(engine, ask.first, condition)] if ask.first else []
    return engine.Prefetch(
        limit=ask.limit, query=_nearest(engine, ask), params=_params(engine, ask), filter=condition, prefetches=before
    )


def _filter(engine: Any, choice: ItemFilter) -> Any:
    must: list[Any] = [_clause(engine, clause) for clause in clauses(choice.where, choice.columns)]
    if choice.uids is not None:
        must.append(engine.FieldCondition("uid", match=engine.MatchAny(list(choice.uids))))
    if choice.ids is not None:
        must.append(engine.HasIdCondition(set(choice.ids)))
    without = [engine.HasIdCondition(set(choice.without))] if choice.without else None
    return engine.Filter(must=must or None, must_not=without) if must or without else None


def _clause(engine: Any, clause: Any) -> Any:
    key = json_path(clause.column)
    if isinstance(clause, OneOf):
        return engine.FieldCondition(key, match=engine.MatchAny(list(clause.values)))
    ranges = [engine.FieldCondition(key, range=engine.RangeFloat(**{RANGES[s]: v for s, v in r.items()})) for r in clause.ranges]
    return ranges[0] if len(ranges) == 1 else engine.Filter(should=ranges)
