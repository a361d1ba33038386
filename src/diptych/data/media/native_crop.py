"""A square crop of a picture at native resolution.  Letters: H W pixels, C channels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def native_crop(image_HWC: npt.NDArray[np.uint8], size: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """`size` x `size` pixels at a random place, not resized: what is seen keeps its micrometres per pixel. uint8 [size, size, C]

    A picture that is too small on a side gets as many black pixels on either end of it as are missing, so that it lies anywhere in the
    square: torchvision's RandomCrop with `pad_if_needed`.
    """
    missing_y, missing_x = (max(0, size - side) for side in image_HWC.shape[:2])
    if missing_y or missing_x:
        image_HWC = np.pad(image_HWC, ((missing_y, missing_y), (missing_x, missing_x), (0, 0)))
    top, left = (int(rng.integers(side - size + 1)) for side in image_HWC.shape[:2])
    return image_HWC[top : top + size, left : left + size]
