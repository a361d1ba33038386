"""Image preprocessing for detectors: whole images, resized as in training, in one padded batch.  Letters: B batch, C channel, H W
pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.core.scene_graph import SceneGraph
from diptych.data.graphs.transforms import fitting, resized, sharply_fitted
from diptych.data.media.transforms import IMAGENET_MEAN, IMAGENET_STD, Pixels, Preprocess, Triple


@dataclass(frozen=True)
class DetectionPreprocess:
    """uint8 RGB images of any size to image_BCHW, normalised, and pixel_BHW, which is True at real pixels.

    size     pixels of the short side (published: 800), or of both sides when `square`
    longest  the long side is at most this many pixels (published: 1333); 0: no limit
    square   both sides to `size`, regardless of the shape: no image is padded, and boxes in shares of the image stay what they are
    stride   padded sides are multiples of it
    smooth   False resizes as OpenMMLab does: by OpenCV, without smoothing, both sides rounded

    >>> image_BCHW, pixel_BHW = DetectionPreprocess(64, longest=96)([np.zeros((10, 30, 3), np.uint8), np.zeros((1, 1, 3), np.uint8)])
    >>> list(image_BCHW.shape), pixel_BHW.flatten(1).sum(1).tolist()
    ([2, 3, 64, 96], [3072, 4096])
    """

    size: int = 800
    longest: int = 1333
    square: bool = False
    stride: int = 32
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    smooth: bool = True

    def __post_init__(self) -> None:
        if self.size < 1 or self.stride < 1 or 0 < self.longest < self.size:
            raise ConfigError(
                f"DetectionPreprocess(size={self.size}, longest={self.longest}, stride={self.stride}) "
                "(expected sizes of 1 pixel or more and longest = 0 or at least size)"
            )

    def __call__(self, images: Sequence[Pixels]) -> tuple[Tensor, Tensor | None]:
        """`pixel_BHW` is None when no image is padded."""
        if not images:
            raise ShapeError("no images (expected one or more)")
        fitted = [self.resize(image_HWC) for image_HWC in images]
        multiple = 1 if self.square else self.stride
        height, width = (-(-max(image_HWC.shape[axis] for image_HWC in fitted) // multiple) * multiple for axis in (0, 1))
        image_BHWC = np.zeros((len(fitted), height, width, 3), np.uint8)
        pixel_BHW = torch.zeros(len(fitted), height, width, dtype=torch.bool)
        for row, image_HWC in enumerate(fitted):
            high, wide = image_HWC.shape[:2]
            image_BHWC[row, :high, :wide] = image_HWC
            pixel_BHW[row, :high, :wide] = True
        image_BCHW = Preprocess(1, self.mean, self.std).normalise(image_BHWC).mul_(pixel_BHW[:, None])
        return image_BCHW, None if bool(pixel_BHW.all()) else pixel_BHW

    def resize(self, image_HWC: Pixels) -> Pixels:
        """One image at its size in the batch, uint8."""
        if image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or image_HWC.dtype != np.uint8:
            raise ShapeError(f"an image must be uint8 [H, W, 3], got {image_HWC.dtype} {list(image_HWC.shape)}")
        picture = (image_HWC, SceneGraph())
        if not self.smooth and not self.square:
            return sharply_fitted(picture, self.size, self.longest or None)[0]
        sides = (self.size, self.size) if self.square else fitting(picture, self.size, self.longest or None)
        return resized(picture, *(max(1, side) for side in sides), smooth=self.smooth)[0]
