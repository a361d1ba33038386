"""OpenCV-compatible pixel operations, as OpenMMLab's pipelines and img2dataset use them: resizing, and 8-bit HSV.

Published code that reads pictures with mmcv shrinks them by the two nearest pixels of each side, where PIL and torchvision average all that
fall together. `bilinear` and `nearest` are OpenCV's to the bit (its arithmetic of 11 bits, `INTER_LINEAR` and `INTER_NEAREST` of uint8);
`area` (`INTER_AREA`, shrinking) and `lanczos` (`INTER_LANCZOS4`, enlarging), by which img2dataset resizes, are so within one level.

Letters: H W pixels, C channels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]
Shares = npt.NDArray[np.floating[Any]]

STEPS = 2048
"""Steps between two neighbouring pixels."""


def fitting_sides(height: int, width: int, short: float, longest: float = float("inf")) -> tuple[int, int]:
    """Height and width for a short side of `short` pixels, or less where the long one would exceed `longest`; halves are rounded up.

    >>> fitting_sides(100, 161, 50), fitting_sides(100, 400, 50, 100)
    ((50, 81), (25, 100))
    """
    factor = min(longest / max(height, width), short / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def bilinear(image_HWC: Pixels, height: int, width: int) -> Pixels:
    """uint8 [height, width, C], each between the two nearest pixels of either side: shrunk pictures are not smoothed."""
    if image_HWC.shape[:2] == (height, width):
        return image_HWC
    high, wide = image_HWC.shape[:2]
    (left_W, near_W), (top_H, down_H) = _places(wide, width), _places(high, height)
    beyond_W = (left_W < 0) | (left_W >= wide - 1)
    near_W, left_W = np.where(beyond_W, np.float32(0), near_W), left_W.clip(0, wide - 1)
    row_HWC = image_HWC.astype(np.int32)
    across_HWC = row_HWC[:, left_W] * _steps(1 - near_W)[:, None]
    across_HWC += row_HWC[:, (left_W + 1).clip(0, wide - 1)] * _steps(near_W)[:, None]
    across_HWC >>= 4
    above_HWC = across_HWC[top_H.clip(0, high - 1)] * _steps(1 - down_H)[:, None, None] >> 16
    below_HWC = across_HWC[(top_H + 1).clip(0, high - 1)] * _steps(down_H)[:, None, None] >> 16
    resized_HWC: Pixels = ((above_HWC + below_HWC + 2) >> 2).clip(0, 255).astype(np.uint8)
    return resized_HWC


def nearest(label_HW: Pixels, height: int, width: int) -> Pixels:
    """[height, width]: the n-th of `new` pixels is the one at n * old / new, rounded down."""
    high, wide = label_HW.shape
    y_H, x_W = (
        np.floor(np.arange(new) * (1 / (new / old))).astype(np.int64).clip(0, old - 1)
        for old, new in ((high, height), (wide, width))
    )
    resized_HW: Pixels = label_HW[y_H[:, None], x_W]
    return resized_HW


def area(image_HWC: Pixels, height: int, width: int) -> Pixels:
    """uint8 [height, width, C], no larger than before: each pixel the mean of what it covers, parts of pixels counted as parts."""
    high, wide, channels = image_HWC.shape
    flat_HN = image_HWC.reshape(high, wide * channels)
    mean_HN = np.empty((height, wide * channels), np.float32)
    first_H, share_H = _coverage(high, height)
    for row, (first, share_N) in enumerate(zip(first_H, share_H, strict=True)):  # never the whole picture as floats
        np.dot(share_N, flat_HN[first : first + len(share_N)].astype(np.float32), out=mean_HN[row])
    mean_WN = np.ascontiguousarray(mean_HN.reshape(height, wide, channels).transpose(1, 0, 2)).reshape(wide, height * channels)
    shrunk_WN = np.empty((width, height * channels), np.float32)
    first_W, share_W = _coverage(wide, width)
    for column, (first, share_N) in enumerate(zip(first_W, share_W, strict=True)):
        np.dot(share_N, mean_WN[first : first + len(share_N)], out=shrunk_WN[column])
    shrunk_HWC: Pixels = np.rint(shrunk_WN.reshape(width, height, channels).transpose(1, 0, 2)).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(shrunk_HWC)


def lanczos(image_HWC: Pixels, height: int, width: int) -> Pixels:
    """uint8 [height, width, C], no smaller than before: from the eight nearest pixels of either side, those at the edge repeated."""
    made_HWC: npt.NDArray[Any] = image_HWC
    for axis, new in enumerate((height, width)):
        if (old := made_HWC.shape[axis]) == new:
            continue
        before_N, share_N = _places(old, new)
        away_N8 = share_N[:, None].astype(np.float64) + 3 - np.arange(8)
        weight_N8 = np.sinc(away_N8) * np.sinc(away_N8 / 4)
        weight_N8 /= weight_N8.sum(1, keepdims=True)
        place_N8 = (before_N[:, None] + np.arange(-3, 5)).clip(0, old - 1)
        moved = np.moveaxis(made_HWC, axis, 0)
        summed = sum(moved[place_N8[:, tap]] * weight_N8[:, tap, None, None] for tap in range(8))
        made_HWC = np.moveaxis(np.asarray(summed), 0, axis)
    enlarged_HWC: Pixels = np.rint(made_HWC).clip(0, 255).astype(np.uint8)
    return enlarged_HWC


def hsv(image_HWC: Pixels) -> Pixels:
    """Hue in steps of two degrees, 0 to 179, saturation and value up to 255."""
    red_HW, green_HW, blue_HW = np.moveaxis(image_HWC.astype(np.int64), 2, 0)
    value_HW = np.maximum(np.maximum(red_HW, green_HW), blue_HW)
    range_HW = value_HW - np.minimum(np.minimum(red_HW, green_HW), blue_HW)
    turn_HW = np.where(
        value_HW == red_HW,
        green_HW - blue_HW,
        np.where(value_HW == green_HW, blue_HW - red_HW + 2 * range_HW, red_HW - green_HW + 4 * range_HW),
    )
    hue_HW = (turn_HW * _parts(180 / 6)[range_HW] + 2048) >> 12
    saturation_HW = (range_HW * _parts(255)[value_HW] + 2048) >> 12
    return np.stack([np.where(hue_HW < 0, hue_HW + 180, hue_HW), saturation_HW, value_HW], 2).astype(np.uint8)


def from_hsv(image_HWC: Pixels) -> Pixels:
    """RGB of what `hsv` made, cut to whole levels as OpenCV's vector code cuts them; the last few pixels of a row, which that rounds, may
    be a level apart."""
    hue_HW, saturation_HW, value_HW = np.moveaxis(image_HWC, 2, 0).astype(np.float32) * np.array(
        [[[6 / 180]], [[1 / 255]], [[1 / 255]]], np.float32
    )
    sector_HW = np.floor(hue_HW).astype(np.int64)
    rest_HW = (hue_HW - sector_HW).astype(np.float32)
    down_HW, up_HW = saturation_HW * rest_HW, saturation_HW * (1 - rest_HW)
    level_4HW = np.stack([value_HW, value_HW * (1 - saturation_HW), value_HW * (1 - down_HW), value_HW * (1 - up_HW)])
    chosen_HWC = _RED_GREEN_BLUE[sector_HW % 6]
    rgb_CHW = np.take_along_axis(level_4HW, np.moveaxis(chosen_HWC, 2, 0), 0)
    return np.moveaxis((rgb_CHW * np.float32(255)).clip(0, 255).astype(np.uint8), 0, 2)


_RED_GREEN_BLUE = np.array([[0, 3, 1], [2, 0, 1], [1, 0, 3], [1, 2, 0], [3, 1, 0], [0, 1, 2]])
"""By sector of the hue: which of value, least, falling and rising level is red, green and blue."""


@lru_cache(maxsize=256)
def _coverage(old: int, new: int) -> tuple[tuple[int, ...], tuple[npt.NDArray[np.float32], ...]]:
    """For each of `new` equal stretches of an axis the first pixel that it covers, and the share of each covered one in its mean."""
    edges = np.arange(new + 1) * (old / new)
    first = np.minimum(np.floor(edges[:-1]).astype(np.int64), old - 1)
    last = np.maximum(np.minimum(np.ceil(edges[1:] - 1e-9).astype(np.int64), old), first + 1)
    shares = []
    for begin, end, low, high in zip(edges[:-1], edges[1:], first, last, strict=True):
        places = np.arange(low, high)
        covered = np.minimum(places + 1, end) - np.maximum(places, begin)
        shares.append((covered / covered.sum()).astype(np.float32))
    return tuple(int(one) for one in first), tuple(shares)


def _places(old: int, new: int) -> tuple[npt.NDArray[np.int64], Shares]:
    """For each new pixel the index of the old one before it, and the offset from that."""
    place_N = ((np.arange(new) + 0.5) * (1 / (new / old)) - 0.5).astype(np.float32)
    before_N = np.floor(place_N)
    return before_N.astype(np.int64), place_N - before_N


def _steps(share_N: Shares) -> Ints:
    steps_N: Ints = np.rint(share_N * np.float32(STEPS)).astype(np.int32)
    return steps_N


def _parts(whole: float) -> npt.NDArray[np.int64]:
    """whole / n for n up to 255, in 4096ths; 0 for 0."""
    parts_N: npt.NDArray[np.int64] = np.rint(whole * 4096 / np.maximum(np.arange(256), 1)).astype(np.int64)
    parts_N[0] = 0
    return parts_N
