"""Checkpoints of MindSpore (.ckpt) without MindSpore: a protocol buffer of named arrays (mindspore/core/proto checkpoint.proto).

A file is a list of values {1: name, 2: {1: sizes, 2: type, 3: bytes}}. A large parameter is stored in pieces of the same name, one after
the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.core.disk.protobuf import fields, varint
from diptych.core.errors import DataError

TYPES = {
    "Float16": np.float16, "Float32": np.float32, "Float64": np.float64, "Int8": np.int8, "Int16": np.int16, "Int32": np.int32,
    "Int64": np.int64, "UInt8": np.uint8, "Bool": np.bool_,
}  # fmt: skip
"""Types of a parameter that are read."""


def is_mindspore(path: Path) -> bool:
    """True if a file begins as a checkpoint of MindSpore does: a value whose first field is a name."""
    with path.open("rb") as file:
        start = memoryview(file.read(512))
    try:
        tag, at = varint(start, 0)
        _, at = varint(start, at)
        inner, at = varint(start, at)
        size, at = varint(start, at)
        name = bytes(start[at : at + size])
    except IndexError:
        return False
    return tag == 10 and inner == 10 and 0 < size <= 255 and name.isascii() and name.decode().isprintable()


def parameter_names(path: Path) -> list[str]:
    """Names of the parameters, each once. Raises DataError."""
    return list(dict.fromkeys(name for name, _, _, _ in _values(path)))


def read_mindspore(path: Path) -> dict[str, Tensor]:
    """Parameters of a checkpoint. Raises DataError for a file that is none, or a parameter of a type that is not known."""
    pieces: dict[str, tuple[list[int], str, list[memoryview]]] = {}
    for name, sizes, kind, data in _values(path):
        pieces.setdefault(name, (sizes, kind, []))[2].append(data)
    out = {}
    for name, (sizes, kind, blocks) in pieces.items():
        if kind not in TYPES:
            raise DataError(f"parameter {name} is of type {kind!r}", file=path, expected=" | ".join(TYPES))
        array: Any = np.frombuffer(b"".join(blocks), TYPES[kind])
        count = int(np.prod(sizes)) if sizes else 1
        if array.size != count:
            raise DataError(f"parameter {name} has {array.size} numbers", file=path, expected=f"{count}, of sizes {sizes}")
        out[name] = torch.from_numpy(array.reshape(sizes).copy())
    return out


def _values(path: Path) -> Iterator[tuple[str, list[int], str, memoryview]]:
    """(name, sizes, type, bytes) of each value."""
    try:
        for number, value in fields(memoryview(path.read_bytes())):
            if number != 1 or isinstance(value, int):
                continue
            name, sizes, kind, data = "", list[int](), "", memoryview(b"")
            for inner, content in fields(value):
                if inner == 1 and not isinstance(content, int):
                    name = bytes(content).decode("utf-8")
                elif inner == 2 and not isinstance(content, int):
                    sizes, kind, data = _tensor(content)
            yield name, sizes, kind, data
    except (IndexError, ValueError) as error:
        raise DataError("not a checkpoint of MindSpore", file=path, expected="a .ckpt of named parameters") from error


def _tensor(message: memoryview) -> tuple[list[int], str, memoryview]:
    sizes, kind, data = list[int](), "", memoryview(b"")
    for number, value in fields(message):
        if number == 1 and isinstance(value, int):
            sizes.append(value)
        elif number == 1 and not isinstance(value, int):  # packed
            at = 0
            while at < len(value):
                size, at = varint(value, at)
                sizes.append(size)
        elif number == 2 and not isinstance(value, int):
            kind = bytes(value).decode("utf-8")
        elif number == 3 and not isinstance(value, int):
            data = value
    return sizes, kind, data
