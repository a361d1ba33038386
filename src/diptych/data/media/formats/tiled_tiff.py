"""A slide as a file: tiles of a TIFF at several levels, which OpenSlide, tiffslide and QuPath open.

Letters: H W pixels.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ShapeError

TILE = 256
SHORT, LONG, RATIONAL = 3, 4, 5
"""Types of TIFF 6.0."""
CENTIMETRE = 3
"""The unit of resolution in the file: pixels a centimetre."""


def pyramid(pixels_HWC: npt.NDArray[np.uint8], levels: int) -> list[npt.NDArray[np.uint8]]:
    """The picture and this many - 1 smaller ones, each by the mean of 2 x 2 pixels of the one before; an odd last row or column is left
    out."""
    levels_HWC = [pixels_HWC]
    while len(levels_HWC) < levels:
        large = levels_HWC[-1]
        height, width = large.shape[0] // 2 * 2, large.shape[1] // 2 * 2
        if not height or not width:
            raise ShapeError(
                f"{levels} levels of a picture of {list(pixels_HWC.shape)} (expected as many as it can be halved, plus one)"
            )
        four = large[:height, :width].reshape(height // 2, 2, width // 2, 2, -1).mean((1, 3))
        levels_HWC.append(four.round().astype(np.uint8))
    return levels_HWC


def tiled_tiff(levels: Sequence[npt.NDArray[np.uint8]], *, spacing: float | None = None) -> bytes:
    """The bytes of a tiled RGB TIFF, deflated, with a directory a level, the largest first.

    levels   uint8 [H, W, 3] each
    spacing  micrometres per pixel of the first, written as its resolution; None writes none
    """
    out = bytearray(b"II*\0\0\0\0\0")
    link = 4  # where the place of the next directory is written
    for number, pixels_HWC in enumerate(levels):
        if pixels_HWC.dtype != np.uint8 or pixels_HWC.ndim != 3 or pixels_HWC.shape[2] != 3:
            raise ShapeError(f"level {number} is {pixels_HWC.dtype} {list(pixels_HWC.shape)} (expected uint8 [H, W, 3])")
        tiles = _tiles(pixels_HWC)
        offsets = []
        for data in tiles:
            offsets.append(len(out))
            out += data + b"\0" * (len(data) % 2)
        height, width = pixels_HWC.shape[:2]
        tags: dict[int, tuple[int, list[Any]]] = {
            254: (LONG, [int(number > 0)]),  # 1: a reduced version of another one
            256: (LONG, [width]),
            257: (LONG, [height]),
            258: (SHORT, [8, 8, 8]),
            259: (SHORT, [8]),  # deflate
            262: (SHORT, [2]),  # RGB
            277: (SHORT, [3]),
            284: (SHORT, [1]),  # samples of a pixel lie together
            322: (SHORT, [TILE]),
            323: (SHORT, [TILE]),
            324: (LONG, offsets),
            325: (LONG, [len(data) for data in tiles]),
        }
        if spacing is not None:
            scale = levels[0].shape[1] / width
            per_cm = Fraction(1e4 / (spacing * scale)).limit_denominator(1 << 16)
            tags |= {282: (RATIONAL, [per_cm]), 283: (RATIONAL, [per_cm]), 296: (SHORT, [CENTIMETRE])}
        struct.pack_into("<I", out, link, len(out))
        link = _directory(out, tags)
    return bytes(out)


def _tiles(pixels_HWC: npt.NDArray[np.uint8]) -> list[bytes]:
    """Deflated, row by row; the last ones are filled up with white."""
    height, width, _ = pixels_HWC.shape
    padded = np.full((-(-height // TILE) * TILE, -(-width // TILE) * TILE, 3), 255, np.uint8)
    padded[:height, :width] = pixels_HWC
    starts = [(y, x) for y in range(0, len(padded), TILE) for x in range(0, padded.shape[1], TILE)]
    return [zlib.compress(padded[y : y + TILE, x : x + TILE].tobytes(), 1) for y, x in starts]


def _directory(out: bytearray, tags: dict[int, tuple[int, list[Any]]]) -> int:
    """Appends a directory of tags, and after it what does not fit into four bytes; returns where the next one's place is written."""
    start = len(out)
    behind = start + 2 + 12 * len(tags) + 4
    rows, extra = bytearray(struct.pack("<H", len(tags))), bytearray()
    for tag, (kind, values) in sorted(tags.items()):
        data = b"".join(_pack_value(kind, value) for value in values)
        rows += struct.pack("<HHI", tag, kind, len(values))
        if len(data) <= 4:
            rows += data.ljust(4, b"\0")
        else:
            rows += struct.pack("<I", behind + len(extra))
            extra += data + b"\0" * (len(data) % 2)
    out += rows + b"\0\0\0\0" + extra
    return behind - 4


def _pack_value(kind: int, value: Any) -> bytes:
    if kind == RATIONAL:
        return struct.pack("<II", value.numerator, value.denominator)
    return struct.pack("<H" if kind == SHORT else "<I", value)
