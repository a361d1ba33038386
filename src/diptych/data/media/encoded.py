"""The encoded bytes of a medium, held against its limit before they are read; and arrays as NumPy files, without pickles."""

from __future__ import annotations

import io
import math
import os
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.disk.paths import is_file
from diptych.core.errors import DecodeError
from diptych.core.image import ArrayImage, BytesImage, FileImage, SliceImage
from diptych.core.media import ArraySource, MediaItem, MediaLimit, Source

NUMPY = b"\x93NUMPY"


def read_parts(item: MediaItem, limit: MediaLimit) -> list[bytes]:
    """Bytes of every part. Too many parts, and too many bytes where a source knows its size, are refused before reading."""
    if len(item.parts) > limit.parts:
        raise DecodeError(f"{len(item.parts):,} parts are more than the limit of {limit.parts:,}", **place_of(item))
    _refuse_bytes(sum(map(_size, item.parts)), item, limit)
    parts, total = [], 0
    for part in item.parts:
        data = read_part(part, item.medium)
        total += len(data)
        _refuse_bytes(total, item, limit)
        parts.append(data)
    return parts


def in_memory(item: MediaItem, limit: MediaLimit) -> MediaItem:
    """The same item in memory, read once: arrays stay as they are. The limits of bytes and parts are kept."""
    arrays = (ArrayImage, ArraySource)
    if len(item.parts) > limit.parts:
        raise DecodeError(f"{len(item.parts):,} parts are more than the limit of {limit.parts:,}", **place_of(item))
    encoded = tuple(part for part in item.parts if not isinstance(part, arrays))
    read = iter(read_parts(MediaItem(item.medium, encoded), limit) if encoded else ())
    parts = tuple(part if isinstance(part, arrays) else BytesImage(next(read), part.name) for part in item.parts)
    return MediaItem(item.medium, parts)


def read_part(part: Source, medium: str) -> bytes:
    """The bytes of one source, or a `DecodeError`: an empty file is no medium."""
    try:
        data = part.read()
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror or error}", file=part.name, medium=medium) from error
    if not data:
        raise DecodeError("the file is empty", file=part.name, medium=medium)
    return data


def only_part(item: MediaItem, limit: MediaLimit) -> bytes:
    """Bytes of a medium stored as a single file."""
    if len(item.parts) != 1:
        raise DecodeError(f"{len(item.parts):,} files", expected="one", **place_of(item))
    return read_parts(item, limit)[0]


def refuse_elements(count: int, unit: str, item: MediaItem, limit: MediaLimit) -> None:
    """Raise when more pixels, points or voxels than the limit would be decoded."""
    if count > limit.elements:
        raise DecodeError(f"{count:,} {unit} are more than the limit of {limit.elements:,}", **place_of(item))


def array_of(item: MediaItem) -> npt.NDArray[Any] | None:
    """The array of an item that is already decoded in memory, else None."""
    part = item.parts[0]
    return part.array if len(item.parts) == 1 and isinstance(part, ArraySource) else None


HEADER_LOCK = Lock()
"""NumPy parses a header as Python, and in Python 3.11 two threads that parse at once can fail ("AST constructor recursion depth")."""
if hasattr(os, "register_at_fork"):  # a loader worker must not inherit it from a thread that holds it
    os.register_at_fork(before=HEADER_LOCK.acquire, after_in_parent=HEADER_LOCK.release, after_in_child=HEADER_LOCK.release)


def read_npy(data: bytes, item: MediaItem, limit: MediaLimit, unit: str) -> npt.NDArray[Any]:
    """The array of a .npy file in native byte order, a copy. Python objects are refused by the header; nothing is unpickled."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version[0]}.{version[1]} of the format")
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with HEADER_LOCK:
            shape, fortran, dtype = read_header(file)
    except Exception as error:  # a hostile header can be anything
        reason = " ".join(str(error).split())[:120]
        raise DecodeError(f"is not a NumPy array: {reason}", expected="a .npy file", **place_of(item)) from error
    if dtype.hasobject:
        raise DecodeError("holds Python objects, which are never unpickled", expected="an array of numbers", **place_of(item))
    if dtype.kind not in "biuf":
        raise DecodeError(f"holds {dtype}", expected="whole numbers, floats or bools", **place_of(item))
    if any(isinstance(side, bool) or side < 0 for side in shape):
        raise DecodeError(f"its shape is {list(shape)}", expected="counts", **place_of(item))
    count = math.prod(shape)
    refuse_elements(count, unit, item, limit)
    there, needed = len(data) - file.tell(), count * dtype.itemsize
    if there < needed:
        raise DecodeError(f"{there:,} of {needed:,} bytes are there", **place_of(item))
    flat = np.frombuffer(data, dtype, count, file.tell())
    array = flat.reshape(shape, order="F" if fortran else "C")
    return np.ascontiguousarray(array.astype(dtype.newbyteorder("="), copy=True))


def write_npy(array: npt.NDArray[Any]) -> bytes:
    """An array of numbers as the bytes of a .npy file; the same array gives the same bytes."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def stored_array(part: Source, medium: str, ending: str) -> tuple[bytes, str]:
    """`Medium.encode` of the media that are arrays: an array becomes .npy; bytes stay, with `ending` unless they are .npy."""
    if isinstance(part, ArraySource):
        return write_npy(part.array), "npy"
    data = read_part(part, medium)
    return data, "npy" if data.startswith(NUMPY) else ending


def stretched(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Numbers of any range as 0..255: linear between the 2nd and 98th percentile of the finite ones; others are 0."""
    plain = values.astype(np.float64)
    finite = np.isfinite(plain)
    if not finite.any():
        return np.zeros(values.shape, np.uint8)
    low, high = np.percentile(plain[finite], (2, 98))
    scaled = (plain - low) / (high - low) if high > low else np.where(plain > low, 1.0, np.where(plain < low, 0.0, 0.5))
    return np.where(finite, np.clip(np.nan_to_num(scaled), 0, 1) * 255 + 0.5, 0).astype(np.uint8)


def _refuse_bytes(count: int, item: MediaItem, limit: MediaLimit) -> None:
    if count > limit.bytes:
        raise DecodeError(f"{count:,} bytes are more than the limit of {limit.bytes:,}", **place_of(item))


def _size(part: Source) -> int:
    """Size of a source without reading it; 0 if unknown."""
    if isinstance(part, SliceImage):
        return part.size
    if isinstance(part, BytesImage):
        return len(part.data)
    if isinstance(part, FileImage):
        return part.path.stat().st_size if is_file(part.path) else 0
    return 0


def place_of(item: MediaItem) -> dict[str, Any]:
    """The arguments by which a `DecodeError` names an item."""
    return {"file": item.name, "medium": item.medium}
