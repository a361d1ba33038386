"""Engine on a Qdrant server, through `qdrant-client` (extra `[server]`). The key, where the server requires one, is read from the
environment variable QDRANT_API_KEY and written nowhere.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from diptych.core.errors import MissingExtra, RunError
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
from diptych.index.filters import RANGES, InRange, Kind, OneOf, clauses, json_path

NUMBERS = 200_000  # of vectors in one request: some megabytes of JSON, below the server's limit of 32 MB
UNNAMED = "embedding"  # what a server calls the space that has no name here


class ServerStore:
    """Made by `create` or `load`."""

    def __init__(self, url: str, client: Any, models: Any, collection: str) -> None:
        self._url, self._client, self._models, self._collection = url, client, models, collection

    @classmethod
    def create(cls, url: str, collection: str, spaces: Sequence[Space]) -> ServerStore:
        """A new collection. A collection of that name is replaced: names are made for one build."""
        client, models = connect(url)
        dense = {_space_name(space.name): _dense(models, space) for space in spaces if isinstance(space, DenseSpace)}
        sparse = {
            _space_name(space.name): models.SparseVectorParams(modifier=models.Modifier.IDF if space.idf else None)
            for space in spaces
            if not isinstance(space, DenseSpace)
        }
        store = cls(url, client, models, collection)
        with store._answering():
            if client.collection_exists(collection):
                client.delete_collection(collection)
            client.create_collection(collection, vectors_config=dense, sparse_vectors_config=sparse or None)
        return store

    @classmethod
    def load(cls, url: str, collection: str) -> ServerStore:
        client, models = connect(url)
        store = cls(url, client, models, collection)
        with store._answering():
            there = client.collection_exists(collection)
        if not there:
            raise RunError(f"the server at {url} has no collection '{collection}': build the index again")
        return store

    def drop(self) -> None:
        """Delete the collection."""
        with self._answering():
            self._client.delete_collection(self._collection)
        self._client.close()

    def close(self) -> None:
        self._client.close()

    def count(self) -> int:
        with self._answering():
            return int(self._client.count(self._collection, exact=True).count)

    def bytes(self) -> int:
        return 0

    def upsert(self, items: Sequence[IndexItem]) -> None:
        for portion in batched(items):
            points = [
                self._models.PointStruct(
                    id=str(item.id),
                    vector={_space_name(name): self._to_engine(vector) for name, vector in item.vectors.items()},
                    payload=item.payload,
                )
                for item in portion
            ]
            with self._answering():
                self._client.upsert(self._collection, points, wait=True)

    def delete(self, choice: ItemFilter) -> None:
        selector = self._models.FilterSelector(filter=self._filter(choice))
        with self._answering():
            self._client.delete(self._collection, selector, wait=True)

    def declare(self, column: str, kind: Kind) -> None:
        schema = self._models.PayloadSchemaType
        types = {"integer": schema.INTEGER, "boolean": schema.INTEGER, "number": schema.FLOAT}
        with self._answering():
            self._client.create_payload_index(self._collection, json_path(column), types.get(kind, schema.KEYWORD), wait=True)

    def query(self, ask: EngineQuery, choice: ItemFilter, *, vectors: Sequence[str] = ()) -> list[ScoredItem]:
        condition = self._filter(choice)
        with self._answering():
            answer = self._client.query_points(
                self._collection,
                query=self._to_engine(ask.vector),
                using=_space_name(ask.space),
                prefetch=self._first(ask.first, condition) if ask.first else None,
                query_filter=condition,
                search_params=self._params(ask),
                limit=ask.limit,
                with_payload=True,
                with_vectors=[_space_name(name) for name in vectors] if vectors else False,
            )
        return [
            ScoredItem(uuid.UUID(str(p.id)), float(p.score), dict(p.payload or {}), _from_engine(p.vector, vectors))
            for p in answer.points
        ]

    def scroll(
        self, choice: ItemFilter | None = None, *, vectors: Sequence[str] = (), uid_only: bool = False
    ) -> Iterator[IndexItem]:
        condition, offset = self._filter(choice or ItemFilter()), None
        while True:
            with self._answering():
                records, offset = self._client.scroll(
                    self._collection,
                    scroll_filter=condition,
                    limit=PAGE,
                    offset=offset,
                    with_payload=["uid"] if uid_only else True,
                    with_vectors=[_space_name(name) for name in vectors] if vectors else False,
                )
            for record in records:
                yield IndexItem(uuid.UUID(str(record.id)), _from_engine(record.vector, vectors), dict(record.payload or {}))
            if offset is None:
                return

    def settle(self) -> None:
        """No-op: a server builds its graphs by itself, and has stored what it has acknowledged."""

    # ------------------------------------------------------------ inside

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Turn errors of the connection or the server into one line."""
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        try:
            yield
        except (ResponseHandlingException, UnexpectedResponse) as error:
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            raise RunError(f"the server at {self._url} failed: {first_line}") from error

    def _to_engine(self, vector: Vector) -> Any:
        if isinstance(vector, SparseVector):
            return self._models.SparseVector(indices=vector.indices.tolist(), values=vector.values.tolist())
        return vector.tolist()

    def _params(self, ask: EngineQuery) -> Any:
        return self._models.SearchParams(hnsw_ef=max(ask.effort, ask.limit), exact=ask.exact)

    def _first(self, ask: EngineQuery, condition: Any) -> Any:
        return self._models.Prefetch(
            query=self._to_engine(ask.vector),
            using=_space_name(ask.space),
            limit=ask.limit,
            params=self._params(ask),
            filter=condition,
            prefetch=self._first(ask.first, condition) if ask.first else None,
        )

    def _filter(self, choice: ItemFilter) -> Any:
        models = self._models
        must: list[Any] = [self._clause(clause) for clause in clauses(choice.where, choice.columns)]
        if choice.uids is not None:
            must.append(models.FieldCondition(key="uid", match=models.MatchAny(any=list(choice.uids))))
        if choice.ids is not None:
            must.append(models.HasIdCondition(has_id=[str(one) for one in choice.ids]))
        without = [models.HasIdCondition(has_id=[str(one) for one in choice.without])] if choice.without else None
        return models.Filter(must=must or None, must_not=without) if must or without else None

    def _clause(self, clause: OneOf | InRange) -> Any:
        models, key = self._models, json_path(clause.column)
        if isinstance(clause, OneOf):
            return models.FieldCondition(key=key, match=models.MatchAny(any=list(clause.values)))
        ranges = [
            models.FieldCondition(key=key, range=models.Range(**{RANGES[sign]: edge for sign, edge in one.items()}))
            for one in clause.ranges
        ]
        return ranges[0] if len(ranges) == 1 else models.Filter(should=ranges)


def connect(url: str) -> tuple[Any, Any]:
    """Client of the server, and the module of its request types. Raises MissingExtra without the package."""
    try:
        from qdrant_client import QdrantClient, models
    except ImportError as error:
        raise MissingExtra("qdrant-client", "server", needed_for="an index on a Qdrant server (--url)") from error
    return QdrantClient(url=url, api_key=os.environ.get("QDRANT_API_KEY") or None), models


def batched(items: Sequence[IndexItem]) -> Iterator[list[IndexItem]]:
    """Batches small enough for a request; the items of one sample stay together, so that a sample is complete or absent."""
    portion: list[IndexItem] = []
    numbers = 0
    for item in items:
        size = sum(v.values.size if isinstance(v, SparseVector) else v.size for v in item.vectors.values())
        if portion and numbers + size > NUMBERS and item.payload["uid"] != portion[-1].payload["uid"]:
            yield portion
            portion, numbers = [], 0
        portion.append(item)
        numbers += size
    if portion:
        yield portion


def _space_name(space: str) -> str:
    return space or UNNAMED


def _dense(models: Any, space: DenseSpace) -> Any:
    """m=0 builds no graph."""
    return models.VectorParams(
        size=space.dim,
        distance=models.Distance.DOT,
        hnsw_config=None if space.graph else models.HnswConfigDiff(m=0),
        on_disk=True if space.cold else None,
        multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM) if space.many else None,
    )


def _from_engine(vectors: Any, names: Sequence[str]) -> Vectors:
    if not names or vectors is None:
        return {}
    return {name: vector_of(vectors[_space_name(name)]) for name in names if _space_name(name) in vectors}
