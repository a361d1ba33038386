"""Tissue mask of a slide: pixels more saturated than the glass, by Otsu's threshold.  Letters: H W pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ShapeError

LEAST_SATURATION = 15
"""Of 255: below it nothing is tissue, wherever Otsu's threshold lies. On empty glass that threshold splits noise."""


def saturation(pixels_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Of HSV, 0 to 255: (largest - smallest) / largest of the three colours, rounded down; 0 for black. uint8 [H, W]"""
    if pixels_HWC.ndim != 3 or pixels_HWC.shape[2] != 3:
        raise ShapeError(f"pixels are {list(pixels_HWC.shape)} (expected RGB [H, W, 3])")
    wide = pixels_HWC.astype(np.int32)
    largest, smallest = wide.max(2), wide.min(2)
    saturation_HW: npt.NDArray[np.uint8] = (255 * (largest - smallest) // np.maximum(largest, 1)).astype(np.uint8)
    return saturation_HW


def otsu(values: npt.NDArray[np.uint8]) -> int:
    """The value up to which the lower class goes when the variance between both classes is largest (Otsu, 1979); the lowest such value.
    Of equal values that value itself."""
    count_K = np.bincount(values.ravel(), minlength=256).astype(np.float64)
    value_K = np.arange(256)
    below_K, sum_K = count_K.cumsum(), (count_K * value_K).cumsum()
    above_K = below_K[-1] - below_K
    with np.errstate(divide="ignore", invalid="ignore"):
        apart_K = sum_K / below_K - (sum_K[-1] - sum_K) / above_K
    between_K = np.nan_to_num(below_K * above_K * apart_K**2)
    return int(values.flat[0]) if not between_K.any() else int(between_K.argmax())


def tissue_mask(pixels_HWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """True on tissue. bool [H, W]"""
    saturation_HW = saturation(pixels_HWC)
    mask: npt.NDArray[np.bool_] = saturation_HW > max(otsu(saturation_HW), LEAST_SATURATION)
    return mask
