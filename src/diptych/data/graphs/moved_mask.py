"""Region masks under resizing, mirroring and cropping: the source row and column of each pixel.

Nothing is drawn until somebody asks for `pixels`, so that data with masks cost those nothing who train on boxes. Pixels are taken, never
mixed: the n-th of `new` pixels is the one at n * old / new, rounded down, as OpenCV's nearest neighbour has it. A mask is
mirrored after it is resized, regardless of the order in which its picture was (MMDetection's order).

Letters: H W pixels of the picture as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from diptych.data.masks import Mask, pixels_of

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class MovedMask:
    """mask       as the region had it, a code or outlines
    size       height and width of the picture that it belongs to
    row_H, column_W  where the pixels lie in that picture, before it is mirrored
    turned     whether it is mirrored
    """

    mask: Any
    size: tuple[int, int]
    row_H: Places
    column_W: Places
    turned: bool = False

    @classmethod
    def of(cls, mask: Any, height: int, width: int) -> Self:
        """The mask of a picture of that size, not moved yet; one that was moved stays as it is."""
        if isinstance(mask, cls):
            return mask
        return cls(mask, (height, width), np.arange(height), np.arange(width))

    def resized(self, height: int, width: int) -> Self:
        return replace(self, row_H=_nearest(self.row_H, height), column_W=_nearest(self.column_W, width))

    def mirrored(self) -> Self:
        return replace(self, turned=not self.turned)

    def cropped(self, top: int, left: int, height: int, width: int) -> Self:
        first = len(self.column_W) - left - width if self.turned else left
        return replace(self, row_H=self.row_H[top : top + height], column_W=self.column_W[first : first + width])

    def pixels(self) -> Mask:
        """bool [H, W]. Raises DataError if the mask is invalid or of another image size."""
        mask_HW: Mask = pixels_of(self.mask, *self.size)[np.ix_(self.row_H, self.column_W)]
        return mask_HW[:, ::-1] if self.turned else mask_HW


def _nearest(place_N: Places, count: int) -> Places:
    if count == len(place_N):
        return place_N
    from_N = np.floor(np.arange(count) * (1 / (count / len(place_N)))).astype(np.int64)
    taken_N: Places = place_N[from_N.clip(max=len(place_N) - 1)]
    return taken_N
