"""PLY files, vertices only: text, or little-endian binary. Faces and other elements after them are skipped."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DecodeError
from diptych.core.media import MediaItem, MediaLimit
from diptych.data.media.encoded import refuse_elements

TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "<i2",
    "ushort": "<u2",
    "int": "<i4",
    "uint": "<u4",
    "float": "<f4",
    "double": "<f8",
    "int8": "i1",
    "uint8": "u1",
    "int16": "<i2",
    "uint16": "<u2",
    "int32": "<i4",
    "uint32": "<u4",
    "float32": "<f4",
    "float64": "<f8",
}
HEADER = 65_536  # bytes; a longer header is rejected


@dataclass(slots=True)
class _Element:
    name: str
    count: int
    properties: list[tuple[str, str]] = field(default_factory=list)
    lists: bool = False


def read_ply(data: bytes, item: MediaItem, limit: MediaLimit) -> npt.NDArray[np.float64]:
    """[P, 3 + F]: x, y and z, then the other properties of a vertex in the order of the file. Raises `DecodeError`."""
    form, elements, start = _header(data, item)
    vertex = next((element for element in elements if element.name == "vertex"), None)
    if vertex is None:
        raise _wrong("has no vertices", item, "an element 'vertex'")
    for element in elements[: elements.index(vertex)]:
        if element.lists or form == "ascii":
            raise _wrong(f"element '{element.name}' comes before the vertices", item, "vertices first")
        start += element.count * sum(np.dtype(kind).itemsize for _, kind in element.properties)
    refuse_elements(vertex.count, "points", item, limit)
    names = [name for name, _ in vertex.properties]
    if vertex.lists or len(set(names)) < len(names) or not {"x", "y", "z"} <= set(names):
        raise _wrong(f"a vertex has {', '.join(names) or 'nothing'}", item, "x, y, z and other single numbers")
    order = ["x", "y", "z", *(name for name in names if name not in ("x", "y", "z"))]
    if form == "ascii":
        value_PF = _text(data[start:], vertex, item)
        return value_PF[:, [names.index(name) for name in order]]
    record = np.dtype(vertex.properties)
    there, needed = len(data) - start, vertex.count * record.itemsize
    if there < needed:
        raise _wrong(f"{max(there, 0):,} of {needed:,} bytes of vertices are there", item)
    rows = np.frombuffer(data, record, vertex.count, start)
    return np.stack([rows[name].astype(np.float64) for name in order], axis=1)


def _header(data: bytes, item: MediaItem) -> tuple[str, list[_Element], int]:
    """(form, elements, where the content begins)."""
    if not data.startswith(b"ply"):
        raise _wrong(f"{len(data):,} bytes that start with {data[:8].hex(' ')}", item, "a .npy or .ply file")
    end = data.find(b"end_header", 0, HEADER)
    line_end = data.find(b"\n", end) if end >= 0 else -1
    if line_end < 0:
        raise _wrong("its header has no end", item, "a line 'end_header'")
    form, elements = "", []
    for line in data[:end].decode("latin-1").splitlines()[1:]:
        words = line.split()
        try:
            match words:
                case ["format", form, "1.0"]:
                    pass
                case ["element", name, count]:
                    elements.append(_Element(name, int(count)))
                case ["property", "list", *_]:
                    elements[-1].lists = True
                case ["property", kind, name]:
                    elements[-1].properties.append((name, TYPES[kind]))
                case [] | ["comment", *_] | ["obj_info", *_]:
                    pass
                case _:
                    raise ValueError
        except (ValueError, KeyError, IndexError) as error:
            raise _wrong(f"cannot read the header line {line[:60]!r}", item) from error
    if form not in ("ascii", "binary_little_endian"):
        raise _wrong(f"its format is '{form}'", item, "ascii or binary_little_endian")
    if any(element.count < 0 for element in elements):
        raise _wrong("an element with a negative count", item)
    return form, elements, line_end + 1


def _text(body: bytes, vertex: _Element, item: MediaItem) -> npt.NDArray[np.float64]:
    """A line a vertex."""
    lines = io.BytesIO(body)
    rows = []
    for number in range(vertex.count):
        words = lines.readline().split()
        if not words:
            raise _wrong(f"{number:,} of {vertex.count:,} vertices are there", item)
        if len(words) != len(vertex.properties):
            raise _wrong(f"vertex {number:,} has {len(words)} numbers", item, f"{len(vertex.properties)}")
        try:
            rows.append([float(word) for word in words])
        except ValueError as error:
            raise _wrong(f"vertex {number:,} is not a line of numbers: {words[0][:20]!r} ...", item) from error
    return np.array(rows, np.float64).reshape(vertex.count, len(vertex.properties))


def _wrong(problem: str, item: MediaItem, expected: str | None = None) -> DecodeError:
    return DecodeError(problem, file=item.name, medium=item.medium, expected=expected)
