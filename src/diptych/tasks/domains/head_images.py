"""Image loading for encoder fine-tuning: preprocessing for evaluation, augmentation for training (BenchX, 2410.21969).

Letters: B batch, C channel, H W pixels, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.data.media.decode import decode
from diptych.data.media.transforms import CropForm, Pixels, Preprocess, flipped, random_crop
from diptych.models.towers.outputs import Tower

Augmentation = Literal["none", "crop", "released"]
"""Random views of training images, of the tower's side S:

none      none: every image is preprocessed once
crop      as BenchX's paper says: the short side is resized to 8/7 of S (256 of 224), and any square of S is cut out of it
released  as BenchX's code does for every data set: a part of .08 to 1 of the area, mirrored half of the time, then grey and normalised by
          mean .4978 and deviation .2449; evaluation images are normalised so, too. Mirroring is wrong where labels name a side
"""
AUGMENTATIONS = ("none", "crop", "released")
RELEASED_AREA, RELEASED_MEAN, RELEASED_STD = (0.08, 1.0), 0.4978, 0.2449
HELD = 4 << 30
"""Size of the image cache in bytes; images beyond it are decoded again in each epoch."""


class HeadImages:
    """Images preprocessed for the tower of an embedder, or the embedder's vectors if it has no trainable tower.

    Preprocessed images are cached in memory as far as they fit. `augment` is an `Augmentation`.
    Raises ConfigError for an unknown augmentation.
    """

    def __init__(self, model: Any, images: Sequence[ImageSource], augment: Augmentation = "none") -> None:
        if augment not in AUGMENTATIONS:
            raise ConfigError(f"augment is {augment!r} (expected {' | '.join(AUGMENTATIONS)})")
        self.model, self.images, self.augment = model, images, augment
        self.tower = trainable_tower(model)
        self._vectors_ND: Tensor | None = None
        self._pixels: dict[int, Pixels] = {}
        self._preprocessed: dict[int, Tensor] = {}
        self._bytes = 0
        if self.tower is None:
            self._vectors_ND = torch.from_numpy(np.asarray(model.embed_images(list(images)), np.float32))

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Sequence[int]) -> Tensor:
        """image_BCHW preprocessed for evaluation, or vectors [B, D]."""
        if self._vectors_ND is not None:
            return self._vectors_ND[list(rows)]
        made = []
        for row in rows:
            tensor = self._preprocessed.get(row)
            if tensor is None:
                tensor = self._evaluated(decode(self.images[row], exact=True))
                if self._holds(tensor.numel() * 4):
                    self._preprocessed[row] = tensor
            made.append(tensor)
        return torch.stack(made)

    def training_batch(self, rows: Sequence[int], rng: np.random.Generator) -> Tensor:
        """image_BCHW with augmentation; same as `batch` without augmentation, or vectors [B, D]."""
        if self._vectors_ND is not None or self.augment == "none":
            return self.batch(rows)
        views = []
        for row in rows:
            image_HWC = self._pixels.get(row)
            if image_HWC is None:
                image_HWC = decode(self.images[row])
                if self.augment == "crop":
                    image_HWC = self.model.preprocess.levelled(image_HWC)
                if self._holds(image_HWC.nbytes):
                    self._pixels[row] = image_HWC
            views.append(random_view(image_HWC, self.model.preprocess.size, self.augment, rng))
        return self._normaliser.normalise(np.stack(views))

    @property
    def _normaliser(self) -> Preprocess:
        preprocess: Preprocess = self.model.preprocess
        return released_preprocess(preprocess.size) if self.augment == "released" else preprocess

    def _evaluated(self, image_HWC: Pixels) -> Tensor:
        if self.augment != "released":
            evaluated: Tensor = self.model.preprocess([image_HWC])[0]
            return evaluated
        preprocess = self._normaliser
        return preprocess.normalise(grey(preprocess.square(image_HWC))[None])[0]

    def _holds(self, size: int) -> bool:
        fits = self._bytes + size <= HELD
        self._bytes += size if fits else 0
        return fits


def random_view(image_HWC: Pixels, size: int, augment: Augmentation, rng: np.random.Generator) -> Pixels:
    """uint8 [size, size, 3]: a random view by "crop" or "released" of `Augmentation`."""
    if augment == "released":
        part_HWC = random_crop(image_HWC, size, rng, RELEASED_AREA, CropForm(interpolation="bilinear"))
        return grey(flipped(part_HWC, rng))
    height, width = image_HWC.shape[:2]
    short = size * 8 // 7
    high, wide = (short * side // min(height, width) for side in (height, width))
    whole_HWC = np.asarray(Image.fromarray(image_HWC).resize((wide, high), Image.Resampling.BILINEAR))
    top, left = int(rng.integers(high - size + 1)), int(rng.integers(wide - size + 1))
    return whole_HWC[top : top + size, left : left + size]


def grey(image_HWC: Pixels) -> Pixels:
    """uint8 [H, W, 3] with the luma of ITU-R 601 in each channel."""
    levels: npt.NDArray[np.uint8] = np.asarray(Image.fromarray(np.ascontiguousarray(image_HWC)).convert("L").convert("RGB"))
    return levels


def released_preprocess(size: int) -> Preprocess:
    """Preprocessing of BenchX's code: resize the short side to `size`, centre crop, normalise with its statistics."""
    return Preprocess(size, (RELEASED_MEAN,) * 3, (RELEASED_STD,) * 3, interpolation="bilinear")


def trainable_tower(model: Any) -> Tower | None:
    """The image tower of one of our embedders, or None for an external one, which only returns vectors."""
    tower = getattr(getattr(model, "model", None), "image_tower", None)
    return tower if isinstance(tower, Tower) else None
