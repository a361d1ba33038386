"""Pictures whole and in their own shape, as ViLT reads them: short side to a size, both sides multiples of the patch, padded in a batch.

Letters: B batch, C channel, H W pixels, K patches that are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diptych.core.config import from_plain, to_plain
from diptych.core.errors import ConfigError, ShapeError
from diptych.data.media.transforms import FILTERS, HALF, Pixels, Preprocess, Triple

RATIO = 1333 / 800
"""Of the longest to the shortest side, of ViLT and of the detectors before it."""


@dataclass(frozen=True)
class WholePictures:
    """uint8 RGB images of any size to image_BCHW, padded with zeros at the right and below, and grid_B2, rows and columns of real patches.

    The short side becomes `size`, or less where the long one would pass `longest`; both are rounded, and then cut down to multiples of
    `stride`, so that the shape changes a little (ViLT, 2102.03334). A picture that is so long that nothing would be left of its short side
    keeps one patch.

    size     pixels of the short side
    longest  pixels of the long side at most; 0 takes 1333/800 of the short one, cut to a whole number: 639 for 384
    stride   pixels per side of a patch

    >>> image_BCHW, grid_B2 = WholePictures(64, stride=16)([np.zeros((10, 30, 3), np.uint8), np.zeros((9, 9, 3), np.uint8)])
    >>> list(image_BCHW.shape), grid_B2.tolist()
    ([2, 3, 64, 96], [[2, 6], [4, 4]])
    """

    resize: ClassVar[str] = "whole"

    size: int = 384
    longest: int = 0
    stride: int = 32
    mean: Triple = HALF[0]
    std: Triple = HALF[1]
    interpolation: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"

    def __post_init__(self) -> None:
        if self.stride < 1 or self.size < self.stride or 0 < self.longest < self.size:
            raise ConfigError(
                f"pictures have size {self.size}, longest {self.longest}, stride {self.stride} "
                "(expected a size of one patch or more, and longest 0 or at least the size)"
            )
        if self.interpolation not in FILTERS:
            raise ConfigError(f"interpolation is {self.interpolation!r} (expected {' | '.join(FILTERS)})")

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a picture as it is read."""
        longest = self.longest or int(RATIO * self.size)
        scale = self.size / min(height, width)
        high, wide = (self.size, scale * width) if height < width else (scale * height, self.size)
        if max(high, wide) > longest:
            scale = longest / max(high, wide)
            high, wide = high * scale, wide * scale
        first, second = (max(self.stride, int(side + 0.5) // self.stride * self.stride) for side in (high, wide))
        return first, second

    def fitted(self, image_HWC: Pixels) -> Pixels:
        """One picture at its size in a batch."""
        if image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or image_HWC.dtype != np.uint8:
            raise ShapeError(f"an image must be uint8 [H, W, 3], got {image_HWC.dtype} {list(image_HWC.shape)}")
        height, width = self.sides(*image_HWC.shape[:2])
        if image_HWC.shape[:2] == (height, width):
            return image_HWC
        image = Image.fromarray(np.ascontiguousarray(image_HWC))
        return np.asarray(image.resize((width, height), FILTERS[self.interpolation]))

    def __call__(self, images: Sequence[Pixels]) -> tuple[Tensor, Tensor]:
        """image_BCHW float32, 0 outside of a picture, and grid_B2 int64."""
        if not images:
            raise ShapeError("no images (expected one or more)")
        fitted = [self.fitted(image_HWC) for image_HWC in images]
        height, width = (max(image_HWC.shape[axis] for image_HWC in fitted) for axis in (0, 1))
        normal = Preprocess(1, self.mean, self.std)
        image_BCHW = torch.zeros(len(fitted), 3, height, width)
        for row, image_HWC in enumerate(fitted):
            high, wide = image_HWC.shape[:2]
            image_BCHW[row, :, :high, :wide] = normal.normalise(image_HWC[None])[0]
        return image_BCHW, torch.tensor([[side // self.stride for side in image_HWC.shape[:2]] for image_HWC in fitted])

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = to_plain(self)
        return {"resize": self.resize, **plain}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        return from_plain(cls, {name: value for name, value in plain.items() if name != "resize"})


def drawn_patches(
    grid_B2: Tensor, columns: int, rngs: Sequence[np.random.Generator], *, most: int, times: int
) -> tuple[list[Tensor], Tensor]:
    """Indices of the patches that a model reads, in `times` random draws, and the mask of real ones.

    Each draw is place_BK int64, indices into the padded grid, row by row; there_BK is False at padding. K is the
    largest number of real patches, or `most` where that is less and not 0. A picture with more than that gives a random part, another in
    each draw; one with fewer gives all, in order, and index 0 for the rest.

    columns  of the padded grid
    """
    count_B = grid_B2.prod(1).tolist()
    width = max(count_B) if most == 0 else min(max(count_B), most)
    there_BK = torch.arange(width) < torch.tensor(count_B)[:, None]
    drawn = [torch.zeros(len(count_B), width, dtype=torch.int64) for _ in range(times)]
    for row, (rng, count, (_, wide)) in enumerate(zip(rngs, count_B, grid_B2.tolist(), strict=True)):
        for place_BK in drawn:
            chosen = np.sort(rng.permutation(count)[:width]) if count > width else np.arange(count)
            place_BK[row, : len(chosen)] = torch.from_numpy(chosen // wide * columns + chosen % wide)
    return drawn, there_BK
