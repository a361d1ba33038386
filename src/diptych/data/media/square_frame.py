"""Boxes and masks of a picture in the square that a model is shown, and back; regions that a user gives.

Letters: N boxes, H W pixels of the picture, S of the square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from diptych.core.errors import ConfigError, DataError
from diptych.data.masks import Mask, pixels_of

RADIUS = 10.0
"""Pixels around a point that count as its region, as REF-VLM's release has it."""


@dataclass(frozen=True, slots=True)
class SquareFrame:
    """A picture of `height` by `width` pixels in a square: "squash" stretches it, "square" pads its short side alike on both ends."""

    height: int
    width: int
    resize: Literal["squash", "square"]

    def __post_init__(self) -> None:
        if self.resize not in ("squash", "square"):
            raise ConfigError(f"resize is {self.resize!r}: a part of the targets would be cut off (expected squash | square)")

    def _sides(self) -> tuple[float, float, float, float]:
        """Left and top margin, and the sides of the square, in pixels of the picture."""
        if self.resize == "squash":
            return 0.0, 0.0, float(self.width), float(self.height)
        side = max(self.height, self.width)
        return float((side - self.width) // 2), float((side - self.height) // 2), float(side), float(side)

    def to_square(self, box_N4: Any) -> npt.NDArray[np.float32]:
        """[N, 4] shares of the square from xyxy pixels; what lies outside the picture is cut."""
        left, top, wide, high = self._sides()
        box = np.asarray(box_N4, np.float32).reshape(-1, 4) + np.array([left, top, left, top], np.float32)
        return (box / np.array([wide, high, wide, high], np.float32)).clip(0, 1)

    def to_pixels(self, box_N4: Any) -> npt.NDArray[np.float32]:
        """[N, 4] xyxy pixels from shares of the square, cut to the picture."""
        left, top, wide, high = self._sides()
        box = np.asarray(box_N4, np.float32).reshape(-1, 4) * np.array([wide, high, wide, high], np.float32)
        box -= np.array([left, top, left, top], np.float32)
        return box.clip(0, np.array([self.width, self.height, self.width, self.height], np.float32))

    def mask_to_square(self, mask_HW: Mask, size: int) -> Mask:
        """bool [size, size] of a mask of the picture."""
        left, top, wide, high = (int(side) for side in self._sides())
        whole = np.zeros((high, wide), np.uint8)
        whole[top : top + self.height, left : left + self.width] = mask_HW * np.uint8(255)
        return np.asarray(Image.fromarray(whole).resize((size, size), Image.Resampling.BILINEAR)) > 127

    def mask_to_pixels(self, score_SS: npt.NDArray[np.float32], threshold: float = 0.5) -> Mask:
        """bool [H, W]: pixels of the picture at which a map of the square lies above the threshold."""
        left, top, wide, high = (int(side) for side in self._sides())
        whole = np.asarray(Image.fromarray(score_SS.astype(np.float32)).resize((wide, high), Image.Resampling.BILINEAR))
        return whole[top : top + self.height, left : left + self.width] > threshold

    def region_to_square(self, region: Any, size: int) -> Mask:
        """bool [size, size] of an annotated region's mask; of one without a mask its box, in xyxy pixels of the picture."""
        if region.mask is not None:
            return self.mask_to_square(pixels_of(region.mask, self.height, self.width), size)
        x0, y0, x1, y1 = region.box
        y_H1, x_1W = np.ogrid[: self.height, : self.width]
        return self.mask_to_square((x_1W >= int(x0)) & (x_1W < x1) & (y_H1 >= int(y0)) & (y_H1 < y1), size)

    def shown(self, size: int) -> Mask:
        """bool [size, size]: True on the picture, False on what pads it."""
        return self.mask_to_square(np.ones((self.height, self.width), bool), size)


def region_mask(region: Sequence[float] | Mask, height: int, width: int) -> Mask:
    """bool [H, W] of a region that a user gives: a point (x, y), a box (x0, y0, x1, y1) in pixels, or a mask such as a scribble.

    Raises DataError for a region that lies outside the picture, wholly or with its point or box in part, and for an empty mask.
    """
    array = np.asarray(region)
    expected = f"a point, a box or a mask within {width} x {height} pixels"
    if array.ndim == 2:
        if array.shape != (height, width) or not array.any():
            raise DataError(
                f"a mask of {array.shape[1]} x {array.shape[0]} pixels, {int(array.sum())} of them set", expected=expected
            )
        return array.astype(bool)
    values = [float(value) for value in array.ravel()]
    inside = all(0 <= value <= (height if index % 2 else width) for index, value in enumerate(values))
    if len(values) not in (2, 4) or not np.isfinite(values).all() or not inside:
        raise DataError(f"region {values} lies outside the picture", field="regions", expected=expected)
    y_H1, x_1W = np.ogrid[:height, :width]
    if len(values) == 2:
        x, y = (int(value) for value in values)
        return np.asarray((x_1W - x) ** 2 + (y_H1 - y) ** 2 <= RADIUS**2)
    x0, y0, x1, y1 = (int(value) for value in values)
    mask: Mask = (x_1W >= x0) & (x_1W < x1) & (y_H1 >= y0) & (y_H1 < y1)
    if not mask.any():
        raise DataError(f"box {values} contains no pixel", field="regions", expected="x0 < x1 and y0 < y1")
    return mask
