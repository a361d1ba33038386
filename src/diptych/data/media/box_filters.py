"""Box mean and median of 8-bit maps with large windows, as OpenCV gives them, without OpenCV.  Letters: H W pixels."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError

Bytes = npt.NDArray[np.uint8]


def box_mean(value_HW: Bytes, side: int) -> Bytes:
    """Mean over windows of `side` pixels, rounded: `cv2.boxFilter(value_HW, -1, (side, side))`, borders mirrored without their edge.

    A window of even side reaches one pixel further up and left. Maps smaller than half a window are refused.
    """
    _check(value_HW, side)
    if side == 1:
        return value_HW.copy()
    total_HW = _box_sum(value_HW, side, "reflect").astype(np.float32)  # OpenCV scales in this precision
    mean_HW: Bytes = np.rint(total_HW * np.float32(1 / side**2)).astype(np.uint8)
    return mean_HW


def box_median(value_HW: Bytes, side: int) -> Bytes:
    """Median over windows of `side` pixels, an odd number: `cv2.medianBlur(value_HW, side)`, borders repeated.

    Cost: a box sum for each level that occurs, so maps of few levels are fast.
    """
    _check(value_HW, side)
    if side % 2 == 0:
        raise ConfigError(f"the side of a median's window is {side} (expected an odd number)")
    median_HW, open_HW = np.zeros_like(value_HW), np.ones(value_HW.shape, np.bool_)
    for level in np.unique(value_HW):
        reached_HW = open_HW & (_box_sum(value_HW <= level, side, "edge") > side * side // 2)
        median_HW[reached_HW] = level
        open_HW &= ~reached_HW
        if not open_HW.any():
            break
    return median_HW


def _check(value_HW: npt.NDArray[Any], side: int) -> None:
    if value_HW.ndim != 2 or value_HW.dtype != np.uint8 or side < 1:
        raise ConfigError(f"a map of {value_HW.dtype} {list(value_HW.shape)}, window {side} (expected uint8 [H, W], 1 or more)")
    if side // 2 >= min(value_HW.shape):
        raise ConfigError(f"a window of {side} on a map of {list(value_HW.shape)} (expected less than twice its shorter side)")


def _box_sum(value_HW: npt.NDArray[Any], side: int, border: Literal["reflect", "edge"]) -> npt.NDArray[np.int64]:
    before, after = side // 2, side - 1 - side // 2
    padded = np.pad(value_HW.astype(np.int64), ((before, after), (before, after)), border)
    sums = np.pad(padded.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    total_HW: npt.NDArray[np.int64] = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return total_HW
