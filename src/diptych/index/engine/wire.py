"""Wire format between two processes that share an index: eight bytes of length and a JSON object; vectors are base64 in it."""

from __future__ import annotations

import base64
import json
import socket
import struct
import uuid
from typing import Any

import numpy as np

from diptych.core.errors import RunError
from diptych.index.engine.store import EngineQuery, IndexItem, ItemFilter, ScoredItem, SparseVector, Vector

LARGEST = 1 << 28
"""Bytes of a frame."""


def send(line: socket.socket, value: dict[str, Any]) -> None:
    """One frame: eight bytes with the length, then JSON."""
    data = json.dumps(value).encode()
    line.sendall(struct.pack(">Q", len(data)) + data)


def receive(line: socket.socket) -> dict[str, Any] | None:
    """The next frame; None at the end. Raises RunError for malformed data."""
    head = _exactly(line, 8)
    if head is None:
        return None
    (size,) = struct.unpack(">Q", head)
    data = _exactly(line, size) if size <= LARGEST else None
    value = None if data is None else json.loads(data)
    if not isinstance(value, dict):
        raise RunError("the process that has the index open does not speak as this version does")
    return value


def _exactly(line: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = line.recv(min(1 << 20, size - len(parts)))
        if not part:
            return None
        parts += part
    return bytes(parts)


def vector_out(vector: Vector) -> dict[str, Any]:
    """Dense [D] or [T, D] with its shape, or terms with weights; arrays are base64 of their bytes."""
    if isinstance(vector, SparseVector):
        return {"terms": _array_out(vector.indices.astype(np.int64)), "weights": _array_out(vector.values.astype(np.float32))}
    return {"dense": _array_out(np.asarray(vector, np.float32)), "shape": list(vector.shape)}


def vector_in(plain: dict[str, Any]) -> Vector:
    """The inverse of `vector_out`."""
    if "terms" in plain:
        return SparseVector(_array_in(plain["terms"], np.int64), _array_in(plain["weights"], np.float32))
    dense: Vector = _array_in(plain["dense"], np.float32).reshape(plain["shape"])
    return dense


def item_out(item: IndexItem) -> dict[str, Any]:
    """An item as plain values."""
    vectors = {name: vector_out(vector) for name, vector in item.vectors.items()}
    return {"id": str(item.id), "vectors": vectors, "payload": item.payload}


def item_in(plain: dict[str, Any]) -> IndexItem:
    """The inverse of `item_out`."""
    vectors = {name: vector_in(vector) for name, vector in plain["vectors"].items()}
    return IndexItem(uuid.UUID(plain["id"]), vectors, plain["payload"])


def scored_out(item: ScoredItem) -> dict[str, Any]:
    """A found item with its score as plain values."""
    return {**item_out(IndexItem(item.id, item.vectors, item.payload)), "score": item.score}


def scored_in(plain: dict[str, Any]) -> ScoredItem:
    """The inverse of `scored_out`."""
    item = item_in(plain)
    return ScoredItem(item.id, float(plain["score"]), item.payload, item.vectors)


def choice_out(choice: ItemFilter) -> dict[str, Any]:
    """A choice of items as plain values."""
    return {
        "where": dict(choice.where),
        "columns": dict(choice.columns),
        "uids": None if choice.uids is None else list(choice.uids),
        "ids": None if choice.ids is None else [str(one) for one in choice.ids],
        "without": [str(one) for one in choice.without],
    }


def choice_in(plain: dict[str, Any]) -> ItemFilter:
    """The inverse of `choice_out`."""
    ids = None if plain["ids"] is None else [uuid.UUID(one) for one in plain["ids"]]
    return ItemFilter(plain["where"], plain["columns"], plain["uids"], ids, [uuid.UUID(one) for one in plain["without"]])


def ask_out(ask: EngineQuery) -> dict[str, Any]:
    """A question to the engine as plain values, the one before it included."""
    first = None if ask.first is None else ask_out(ask.first)
    return {
        "space": ask.space,
        "vector": vector_out(ask.vector),
        "limit": ask.limit,
        "exact": ask.exact,
        "effort": ask.effort,
        "first": first,
    }


def ask_in(plain: dict[str, Any]) -> EngineQuery:
    """The inverse of `ask_out`."""
    first = None if plain["first"] is None else ask_in(plain["first"])
    vector = vector_in(plain["vector"])
    return EngineQuery(plain["space"], vector, int(plain["limit"]), bool(plain["exact"]), int(plain["effort"]), first)


def _array_out(array: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _array_in(text: str, kind: type) -> Any:
    return np.frombuffer(base64.b64decode(text), kind)
