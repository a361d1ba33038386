"""Files in the layout of sentencepiece_model.proto, of which tests write small ones."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path


def varint(value: int) -> bytes:
    out = b""
    while True:
        value, low = value >> 7, value & 0x7F
        out += bytes([low | (0x80 if value else 0)])
        if not value:
            return out


def field(number: int, value: int | float | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def write_sentence_pieces(path: Path, pieces: Sequence[tuple[str, float, int]], kind: int = 1) -> Path:
    """A model of pieces with score and kind (1 normal, 2 unknown, 3 control), by default a unigram model."""
    rows = [field(1, field(1, piece.encode()) + field(2, score) + field(3, which)) for piece, score, which in pieces]
    trainer, normaliser = field(2, field(3, kind)), field(3, field(1, b"identity") + field(3, 1))
    path.write_bytes(b"".join(rows) + trainer + normaliser)
    return path
