"""Points of PCD files, version 0.7, of the Point Cloud Library: text or little-endian binary. Compressed ones are refused.

Fields are brought into the order x, y, z, then colours, then the rest; a packed "rgb" or "rgba" becomes three values of 0..255.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DecodeError
from diptych.core.media import MediaItem, MediaLimit
from diptych.data.media.encoded import refuse_elements

HEADER = ("VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA")
KINDS = {"F": "f", "I": "i", "U": "u"}
EXPECTED = "a PCD header of FIELDS, SIZE, TYPE, COUNT, POINTS and DATA"


def is_pcd(data: bytes) -> bool:
    """True for a file that begins as PCD files do."""
    first = data[:256].lstrip()
    return first.startswith((b"# .PCD", b"VERSION")) or b"\nVERSION" in data[:256]


def read_pcd(data: bytes, item: MediaItem, limit: MediaLimit) -> npt.NDArray[np.float64]:
    """[P, 3 + F]. Raises DecodeError for a header that is broken, a body that is shorter than it says, and a compressed body."""
    header, body = _header(data, item)
    try:
        fields = header["FIELDS"]
        sizes, counts = [int(v) for v in header["SIZE"]], [int(v) for v in header.get("COUNT", ["1"] * len(fields))]
        points, form = int(header["POINTS"][0]), header["DATA"][0]
        kinds = [KINDS[kind] for kind in header["TYPE"]]
        dtype = np.dtype(
            [(f"{k}", f"<{kind}{size}", (n,)) for k, (kind, size, n) in enumerate(zip(kinds, sizes, counts, strict=True))]
        )
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise _wrong(f"has a broken header ({error})", item) from error
    if len(fields) != len(sizes) or points < 0 or min(counts) < 1:
        raise _wrong(f"has {len(fields)} fields, {len(sizes)} sizes and {points} points", item)
    refuse_elements(points, "points", item, limit)
    if form == "ascii":
        row_PV = _text(body, points, sum(counts), item)
        columns, at = {}, 0
        for name, count in zip(fields, counts, strict=True):
            columns[name] = row_PV[:, at : at + count]
            at += count
    elif form == "binary":
        if len(body) < points * dtype.itemsize:
            raise _wrong(f"has {len(body):,} bytes of points (expected {points * dtype.itemsize:,})", item)
        rows = np.frombuffer(body, dtype, count=points)
        columns = {name: rows[str(k)] for k, name in enumerate(fields)}
    else:
        raise _wrong(f"is {form}", item, "ascii or binary")
    floating = {name for name, kind in zip(fields, kinds, strict=True) if kind == "f"}
    return _ordered(columns, floating, item)


def _header(data: bytes, item: MediaItem) -> tuple[dict[str, list[str]], bytes]:
    header: dict[str, list[str]] = {}
    stream = io.BytesIO(data)
    while line := stream.readline(4096):
        words = line.decode("ascii", "replace").split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] not in HEADER:
            break
        header[words[0]] = words[1:]
        if words[0] == "DATA":
            return header, data[stream.tell() :]
    raise _wrong("has no header that ends in DATA", item)


def _text(body: bytes, points: int, width: int, item: MediaItem) -> npt.NDArray[np.float64]:
    try:
        values = np.array(body.split(), np.float64)
    except ValueError as error:
        raise _wrong(f"has a value that is not a number ({error})", item) from error
    if len(values) < points * width:
        raise _wrong(f"has {len(values):,} values for {points:,} points of {width}", item)
    return values[: points * width].reshape(points, width)


def _ordered(columns: dict[str, npt.NDArray[Any]], floating: set[str], item: MediaItem) -> npt.NDArray[np.float64]:
    if lost := [name for name in ("x", "y", "z") if name not in columns]:
        raise _wrong(f"has no field {', '.join(lost)}", item, "x, y and z")
    parts = [columns.pop(name).astype(np.float64) for name in ("x", "y", "z")]
    packed = next((name for name in ("rgb", "rgba") if name in columns), "")
    if packed:
        value_P = columns.pop(packed)[:, 0]
        bits_P = value_P.astype(np.float32).view(np.uint32) if packed in floating else value_P.astype(np.uint32)
        parts += [((bits_P >> shift) & 255).astype(np.float64)[:, None] for shift in (16, 8, 0)]
    parts += [column.astype(np.float64) for name, column in columns.items() if name != "_"]
    return np.concatenate(parts, 1)


def _wrong(problem: str, item: MediaItem, expected: str = EXPECTED) -> DecodeError:
    return DecodeError(problem, file=item.name, medium=item.medium, expected=expected)
