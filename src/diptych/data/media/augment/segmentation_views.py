"""Joint augmentation of an image and its label map: scaling, cropping, mirroring, colour jitter.

Letters: H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from diptych.core.errors import ConfigError, ShapeError
from diptych.data.label_maps import IGNORE, Labels
from diptych.data.media.opencv import bilinear, fitting_sides, from_hsv, hsv, nearest

Pixels = npt.NDArray[np.uint8]
TRIES = 10


@dataclass(frozen=True, slots=True)
class SegmentationView:
    """Random square crops of at most `size` pixels per side (mmsegmentation's pipeline, as DenseCLIP 2112.01518 trains).

    scale      the short side becomes size times a factor drawn from this range; (1, 1) leaves its middle
    longest    the long side becomes this many pixels times the factor at most
    most       at most this share of a crop's labelled pixels may be of one class; where ten draws do not allow it, the next is taken as
               it is; 1 takes any crop
    flip       half are mirrored
    shake      brightness, contrast, saturation and hue change
    smooth     shrunk pictures are smoothed (PIL); False resizes as OpenCV does, with which the release reads them

    What a small picture does not fill is left out of the crop: `filled` lays it into its square once it is normalised.
    """

    size: int
    scale: tuple[float, float] = (0.5, 2.0)
    most: float = 0.75
    flip: bool = True
    shake: bool = True
    smooth: bool = False
    longest: int = 2048

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] or not 0 < self.most <= 1 or self.size < 1 or self.longest < 1:
            raise ConfigError(
                f"scale {self.scale}, most {self.most}, size {self.size}, longest {self.longest} "
                "(expected a range above 0, a share, pixels)"
            )

    def __call__(self, image_HWC: Pixels, label_HW: Labels, rng: np.random.Generator) -> tuple[Pixels, Labels]:
        if image_HWC.shape[:2] != label_HW.shape:
            came = f"{list(image_HWC.shape[:2])} and {list(label_HW.shape)}"
            raise ShapeError(f"an image and its label map are {came} (expected one size)")
        (height, width), factor = label_HW.shape, rng.uniform(*self.scale)
        high, wide = fitting_sides(height, width, max(1, int(self.size * factor)), max(1, int(self.longest * factor)))
        image_HWC, label_HW = resized(image_HWC, label_HW, max(1, high), max(1, wide), smooth=self.smooth)
        image_HWC, label_HW = self._cropped(image_HWC, label_HW, rng)
        if self.flip and rng.random() < 0.5:
            image_HWC, label_HW = image_HWC[:, ::-1], label_HW[:, ::-1]
        if self.shake:
            image_HWC = shaken(image_HWC, rng)
        return np.ascontiguousarray(image_HWC), np.ascontiguousarray(label_HW)

    def _cropped(self, image_HWC: Pixels, label_HW: Labels, rng: np.random.Generator) -> tuple[Pixels, Labels]:
        for left_over in range(TRIES, -1, -1):
            top, left = (int(rng.integers(max(side - self.size, 0) + 1)) for side in label_HW.shape)
            part = slice(top, top + self.size), slice(left, left + self.size)
            if self.most >= 1 or not left_over:
                break
            _, counts = np.unique(label_HW[part][label_HW[part] != IGNORE], return_counts=True)
            if len(counts) > 1 and counts.max() < self.most * counts.sum():
                break
        return image_HWC[part], label_HW[part]


def filled(image_CHW: Tensor, label_HW: Labels, size: int) -> tuple[Tensor, Labels]:
    """A normalised crop in the upper left of a square: what it does not fill is 0, the mean colour, and its labels are ignored."""
    below, right = (size - side for side in label_HW.shape)
    return pad(image_CHW, (0, right, 0, below)), np.pad(label_HW, ((0, below), (0, right)), constant_values=IGNORE)


def resized(image_HWC: Pixels, label_HW: Labels, height: int, width: int, *, smooth: bool = False) -> tuple[Pixels, Labels]:
    """The image bilinearly, its labels by the nearest pixel."""
    if (height, width) == label_HW.shape:
        return image_HWC, label_HW
    if not smooth:
        return bilinear(image_HWC, height, width), nearest(label_HW, height, width)
    image = Image.fromarray(image_HWC).resize((width, height), Image.Resampling.BILINEAR)
    label = Image.fromarray(label_HW).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(image), np.asarray(label)


def shaken(image_HWC: Pixels, rng: np.random.Generator) -> Pixels:
    """Each with chance one half: brightness +-32, contrast 0.5..1.5 (before or after the next two), saturation 0.5..1.5, hue from 36
    degrees back to 34 on, in steps of 2. The last two go through HSV of eight bits and back, each by itself."""
    if rng.integers(2):
        image_HWC = _linear(image_HWC, 1.0, rng.uniform(-32, 32))
    contrast_first = bool(rng.integers(2))
    if contrast_first and rng.integers(2):
        image_HWC = _linear(image_HWC, rng.uniform(0.5, 1.5), 0.0)
    if rng.integers(2):
        hsv_HWC = hsv(image_HWC)
        hsv_HWC[..., 1] = _linear(hsv_HWC[..., 1], rng.uniform(0.5, 1.5), 0.0)
        image_HWC = from_hsv(hsv_HWC)
    if rng.integers(2):
        hsv_HWC = hsv(image_HWC)
        hsv_HWC[..., 0] = (hsv_HWC[..., 0].astype(np.int64) + int(rng.integers(-18, 18))) % 180
        image_HWC = from_hsv(hsv_HWC)
    if not contrast_first and rng.integers(2):
        image_HWC = _linear(image_HWC, rng.uniform(0.5, 1.5), 0.0)
    return image_HWC


def _linear(level: Pixels, factor: float, more: float) -> Pixels:
    changed: Pixels = np.clip(level.astype(np.float32) * np.float32(factor) + np.float32(more), 0, 255).astype(np.uint8)
    return changed
