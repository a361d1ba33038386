"""Fields of a protocol buffer's message, without its schema, for reading SentencePiece models and MindSpore checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def fields(message: bytes | memoryview) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a message: an integer, or a slice of the message. Raises ValueError or IndexError.

    >>> list(fields(bytes([8, 150, 1, 18, 2, 104, 105])))
    [(1, 150), (2, b'hi')]
    """
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        wire = key & 7
        if wire == 0:
            value, at = varint(message, at)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(wire)
        if size is None:
            if wire != 2:
                raise ValueError(f"wire type {wire}")
            size, at = varint(message, at)
        if at + size > len(message):
            raise ValueError("cut short")
        yield key >> 3, message[at : at + size]
        at += size


def varint(message: bytes | memoryview, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, the lowest first, and where it ends. Raises ValueError for one of more than 64 bits."""
    value = shift = 0
    while True:
        if shift > 63:
            raise ValueError("an integer of more than 64 bits")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
