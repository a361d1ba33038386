"""An image and its label map as one training step sees them: scaled, cropped, mirrored, its colours shaken.

Letters: H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from diptych.core.errors import ConfigError, ShapeError
from diptych.data.label_maps import IGNORE, Labels

Pixels = npt.NDArray[np.uint8]
TRIES = 10


@dataclass(frozen=True, slots=True)
class SegmentationView:
    """Random square crops of `size` pixels (mmsegmentation's pipeline, as DenseCLIP 2112.01518 trains).

    scale      the short side becomes size times a factor drawn from this range; (1, 1) leaves its middle
    most       at most this share of a crop's labelled pixels may be of one class, if ten draws allow it; 1 takes any crop
    flip       half are mirrored
    shake      brightness, contrast, saturation and hue change
    fill       grey value of what the image does not reach; its labels are ignored
    """

    size: int
    scale: tuple[float, float] = (0.5, 2.0)
    most: float = 0.75
    flip: bool = True
    shake: bool = True
    fill: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] or not 0 < self.most <= 1 or self.size < 1:
            raise ConfigError(
                f"scale {self.scale}, most {self.most}, size {self.size} (expected a range above 0, a share, pixels)"
            )

    def __call__(self, image_HWC: Pixels, label_HW: Labels, rng: np.random.Generator) -> tuple[Pixels, Labels]:
        if image_HWC.shape[:2] != label_HW.shape:
            came = f"{list(image_HWC.shape[:2])} and {list(label_HW.shape)}"
            raise ShapeError(f"an image and its label map are {came} (expected one size)")
        factor = self.size / min(label_HW.shape) * rng.uniform(*self.scale)
        image_HWC, label_HW = resized(image_HWC, label_HW, factor)
        image_HWC, label_HW = self._cropped(image_HWC, label_HW, rng)
        if self.flip and rng.random() < 0.5:
            image_HWC, label_HW = image_HWC[:, ::-1], label_HW[:, ::-1]
        if self.shake:
            image_HWC = shaken(image_HWC, rng)
        return self._padded(image_HWC, label_HW)

    def _cropped(self, image_HWC: Pixels, label_HW: Labels, rng: np.random.Generator) -> tuple[Pixels, Labels]:
        for _ in range(TRIES):
            top, left = (int(rng.integers(max(side - self.size, 0) + 1)) for side in label_HW.shape)
            part = slice(top, top + self.size), slice(left, left + self.size)
            _, counts = np.unique(label_HW[part][label_HW[part] != IGNORE], return_counts=True)
            if self.most >= 1 or (len(counts) > 1 and counts.max() < self.most * counts.sum()):
                break
        return image_HWC[part], label_HW[part]

    def _padded(self, image_HWC: Pixels, label_HW: Labels) -> tuple[Pixels, Labels]:
        below, right = (self.size - side for side in label_HW.shape)
        if below or right:
            image_HWC = np.pad(image_HWC, ((0, below), (0, right), (0, 0)), constant_values=self.fill)
            label_HW = np.pad(label_HW, ((0, below), (0, right)), constant_values=IGNORE)
        return np.ascontiguousarray(image_HWC), np.ascontiguousarray(label_HW)


def resized(image_HWC: Pixels, label_HW: Labels, factor: float) -> tuple[Pixels, Labels]:
    """The image bilinearly, its labels by the nearest pixel."""
    height, width = (max(1, round(side * factor)) for side in label_HW.shape)
    if (height, width) == label_HW.shape:
        return image_HWC, label_HW
    image = Image.fromarray(image_HWC).resize((width, height), Image.Resampling.BILINEAR)
    label = Image.fromarray(label_HW).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(image), np.asarray(label)


def shaken(image_HWC: Pixels, rng: np.random.Generator) -> Pixels:
    """Each with chance one half: brightness +-32, contrast 0.5..1.5 (before or after the next two), saturation 0.5..1.5, hue +-36
    degrees."""
    contrast_first = bool(rng.integers(2))
    if rng.integers(2):
        image_HWC = _linear(image_HWC, 1.0, rng.uniform(-32, 32))
    if contrast_first and rng.integers(2):
        image_HWC = _linear(image_HWC, rng.uniform(0.5, 1.5), 0.0)
    hsv_HWC = np.array(Image.fromarray(image_HWC).convert("HSV"))
    if rng.integers(2):
        hsv_HWC[..., 1] = np.clip(hsv_HWC[..., 1] * rng.uniform(0.5, 1.5), 0, 255)
    if rng.integers(2):
        hsv_HWC[..., 0] = (hsv_HWC[..., 0].astype(np.int64) + round(rng.uniform(-18, 18) / 180 * 256)) % 256
    image_HWC = np.asarray(Image.fromarray(hsv_HWC, "HSV").convert("RGB"))
    if not contrast_first and rng.integers(2):
        image_HWC = _linear(image_HWC, rng.uniform(0.5, 1.5), 0.0)
    return image_HWC


def _linear(image_HWC: Pixels, factor: float, more: float) -> Pixels:
    changed_HWC: Pixels = np.clip(image_HWC * factor + more, 0, 255).astype(np.uint8)
    return changed_HWC
