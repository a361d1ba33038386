"""Preprocessing of pixels for a tower: square, normalised float32; deterministic for evaluation, random crops for training.

Letters: B batch, C channel, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from diptych.core.config import from_plain, to_plain
from diptych.core.errors import ConfigError, ShapeError
from diptych.data.media import opencv

Pixels = npt.NDArray[np.uint8]
Triple = tuple[float, float, float]

Share = tuple[float, float, float, float]
"""Part of a picture as shares of its sides: x0, y0, x1, y1; below 0 or above 1 it is padding."""

OPENAI_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD: Triple = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
HALF: tuple[Triple, Triple] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and deviation that take pixels to [-1, 1]."""
LUMA: Triple = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the luma of ITU-R 601."""

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}


@dataclass(frozen=True, slots=True, eq=False)
class ByteImages:
    """uint8 pictures that a batch holds in the place of image_BCHW on its way to the device; `to` gives the normalised tensor.

    Values equal those of `Preprocess.normalise` up to rounding: a GPU divides by a constant as it multiplies by its inverse.
    """

    pixel_BHWC: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.pixel_BHWC)

    def pin_memory(self) -> Self:
        """Page-locked, so that `to` a GPU does not block."""
        return replace(self, pixel_BHWC=self.pixel_BHWC.pin_memory())

    def to(self, device: torch.device | str) -> Tensor:
        """image_BCHW on the device, float32: (value / 255 - mean) / std, in this order of operations."""
        moved_BHWC = self.pixel_BHWC.to(device, non_blocking=True)
        image_BCHW = moved_BHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):  # numbers: a tensor of them would be a copy
            image_BCHW[:, channel].sub_(mean).div_(std)
        return image_BCHW


@dataclass(frozen=True)
class Preprocess:
    """uint8 RGB images of any size to one normalised batch, with PIL's antialiased filters: the pixels that published models
    were evaluated with. Where they were made with OpenCV, `interpolation` "area".

    resize   "crop": short side to `size`, then the centre square (CLIP); "squash": both sides to `size`, regardless of the shape
             (SigLIP); "pad": long side to `size`, centred on `fill`; "native": the middle as it is, on `fill` where the image is
             smaller
    interpolation  "bicubic", "bilinear" or "lanczos" of PIL; or "area", OpenCV's INTER_AREA, for "pad" and "squash": the short side of a
             padded image is cut down to a whole pixel, and what has to be enlarged is so between its nearest pixels
    fill     grey value 0..255 around a padded image
    margin   pixels per side that are cut off again: the image is resized to `size + margin` first, and its middle taken (ALIGN)
    rounding  of a margin of an odd number of pixels: "even", half to even, as torchvision, timm and open_clip do, or "down", as
             transformers does
    levels   "as_is", or "stretched": each image from its least to its greatest value, rounded down, then grey, before it is resized, as
             BioViL reads radiographs
    height   of the input where it is no square: `size` wide and this high, for "squash" (persons, 256 x 128); 0 is as high as wide

    >>> import numpy as np
    >>> list(Preprocess(32)([np.zeros((40, 60, 3), np.uint8)]).shape)
    [1, 3, 32, 32]
    """

    size: int
    mean: Triple = OPENAI_MEAN
    std: Triple = OPENAI_STD
    resize: Literal["crop", "squash", "pad", "native", "square"] = "crop"
    interpolation: Literal["bicubic", "bilinear", "lanczos", "area"] = "bicubic"
    fill: int = 0
    margin: int = 0
    height: int = 0
    rounding: Literal["even", "down"] = "even"
    levels: Literal["as_is", "stretched"] = "as_is"

    def __post_init__(self) -> None:
        if self.size < 1 or self.margin < 0:
            raise ConfigError(
                f"Preprocess.size is {self.size} and margin {self.margin} (expected 1 pixel or more, and 0 or more)"
            )
        if self.resize not in ("crop", "squash", "pad", "native", "square"):
            raise ConfigError(f"Preprocess.resize is {self.resize!r} (expected crop | squash | pad | native | square)")
        if self.height and (self.resize != "squash" or self.margin or self.height < 1):
            raise ConfigError(
                f"Preprocess.height is {self.height}, resize {self.resize!r}, margin {self.margin} (expected 'squash' without margin)"
            )
        if self.levels not in ("as_is", "stretched"):
            raise ConfigError(f"Preprocess.levels is {self.levels!r} (expected as_is | stretched)")
        if self.rounding not in ("even", "down"):
            raise ConfigError(f"Preprocess.rounding is {self.rounding!r} (expected even | down)")
        if self.interpolation not in (*FILTERS, "area"):
            raise ConfigError(f"Preprocess.interpolation is {self.interpolation!r} (expected {' | '.join(FILTERS)} | area)")
        if self.interpolation == "area" and self.resize not in ("pad", "squash"):
            raise ConfigError(f"Preprocess.resize is {self.resize!r} with interpolation 'area' (expected pad | squash)")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError("Preprocess.mean and .std must be three numbers, std above 0")

    def __call__(self, images: Sequence[Pixels]) -> Tensor:
        """image_BCHW, float32."""
        if not images:
            return torch.zeros(0, 3, self.height or self.size, self.size)
        return self.normalise(np.stack([self.square(image_HWC) for image_HWC in images]))

    def batched(self, images: Sequence[Pixels], uint8: bool) -> Tensor:
        """image_BCHW of a batch, or with `uint8` the `ByteImages` that become it once the batch moves to its device."""
        if not uint8 or not images:
            return self(images)
        pixel_BHWC = torch.from_numpy(np.stack([self.square(image_HWC) for image_HWC in images]))
        return cast("Tensor", ByteImages(pixel_BHWC, self.mean, self.std))

    def square(self, image_HWC: Pixels) -> Pixels:
        """One image as uint8 [size, size, 3], or [height, size, 3]."""
        if image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or image_HWC.dtype != np.uint8:
            raise ShapeError(f"an image must be uint8 [H, W, 3], got {image_HWC.dtype} {list(image_HWC.shape)}")
        if self.levels == "stretched":
            return replace(self, levels="as_is").square(self.levelled(image_HWC))
        if self.margin and self.resize != "crop":
            left = self._half(self.margin)
            whole_HWC = replace(self, size=self.size + self.margin, margin=0).square(image_HWC)
            return whole_HWC[left : left + self.size, left : left + self.size]
        height, width = image_HWC.shape[:2]
        size = self.size
        if (height, width) == (self.height or size, size) and not self.margin:
            return image_HWC
        if self.interpolation == "area":
            return self._by_area(image_HWC)
        image = Image.fromarray(image_HWC)
        filter = FILTERS[self.interpolation]
        if self.resize == "square" and height != width:
            side = max(height, width)
            whole = Image.new("RGB", (side, side), tuple(int(value * 255) for value in self.mean))
            whole.paste(image, ((side - width) // 2, (side - height) // 2))
            return np.asarray(whole.resize((size, size), filter))
        if self.resize in ("squash", "square"):
            return np.asarray(image.resize((size, self.height or size), filter))
        if self.resize == "crop":
            # The long side is cut down to a whole pixel, and both margins are cut off at once, as torchvision does.
            short, target = min(height, width), size + self.margin
            wide, high = (target if side == short else int(target * side / short) for side in (width, height))
            left, top = self._half(wide - size), self._half(high - size)
            return np.asarray(image.resize((wide, high), filter))[top : top + size, left : left + size]
        if self.resize == "native":
            left, top = (size - width) // 2, (size - height) // 2  # below 0 where it is cut, as Pillow's `expand` counts
            whole = Image.new("RGB", (size, size), (self.fill,) * 3)
            whole.paste(image, (left, top))
            return np.asarray(whole)
        scale = size / max(height, width)
        wide, high = max(1, round(width * scale)), max(1, round(height * scale))
        return self._padded(np.asarray(image.resize((wide, high), filter)))

    def _by_area(self, image_HWC: Pixels) -> Pixels:
        """As `square`, by OpenCV's means of areas."""
        height, width = image_HWC.shape[:2]
        high, wide = self.height or self.size, self.size
        if self.resize == "pad":
            scale = self.size / max(height, width)
            high, wide = (self.size if side == max(height, width) else max(1, int(side * scale)) for side in (height, width))
        shrinks = high <= height and wide <= width
        shown_HWC = opencv.area(image_HWC, high, wide) if shrinks else opencv.bilinear(image_HWC, high, wide)
        return self._padded(shown_HWC) if self.resize == "pad" else shown_HWC

    def _padded(self, image_HWC: Pixels) -> Pixels:
        """The image in the middle of a square of `fill`."""
        size, (high, wide) = self.size, image_HWC.shape[:2]
        padded_HWC = np.full((size, size, 3), self.fill, np.uint8)
        left, top = (size - wide) // 2, (size - high) // 2
        padded_HWC[top : top + high, left : left + wide] = image_HWC
        return padded_HWC

    def levelled(self, image_HWC: Pixels) -> Pixels:
        """uint8 [H, W, 3] with the grey levels that `levels` asks for."""
        return _stretched_grey(image_HWC) if self.levels == "stretched" else image_HWC

    def _half(self, margin: int) -> int:
        """Pixels of a margin that are on the left or on top."""
        return margin // 2 if self.rounding == "down" else round(margin / 2.0)

    def normalise(self, image_BHWC: Pixels) -> Tensor:
        """uint8 [B, H, W, 3] to image_BCHW: (value / 255 - mean) / std, in this order of operations."""
        image_BCHW = torch.from_numpy(np.ascontiguousarray(image_BHWC.transpose(0, 3, 1, 2))).float()
        mean_C11, std_C11 = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return image_BCHW.div_(255).sub_(mean_C11).div_(std_C11)

    def greyed(self, image_BCHW: Tensor) -> Tensor:
        """Normalised images without their colours: the luma of ITU-R 601, normalised as they are, in all three channels."""
        mean_C11, std_C11, share_C11 = (image_BCHW.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std, LUMA))
        luma_B1HW = ((image_BCHW * std_C11 + mean_C11) * share_C11).sum(1, keepdim=True)
        return (luma_B1HW - mean_C11) / std_C11

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = to_plain(self)
        unusual = {"margin": 0, "height": 0, "rounding": "even", "levels": "as_is"}  # older versions do not know them
        return {name: value for name, value in plain.items() if name not in unusual or value != unusual[name]}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        return from_plain(cls, plain)


def _stretched_grey(image_HWC: Pixels) -> Pixels:
    least, most = int(image_HWC.min()), int(image_HWC.max())
    whole_HWC = ((image_HWC.astype(np.float64) - least) / max(most - least, 1) * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(whole_HWC).convert("L").convert("RGB"))


@dataclass(frozen=True, slots=True)
class CropForm:
    """Of random crops.

    aspect   least and most width / height. draws: how many may not fit. interpolation: how the part is resized
    window   above 0: instead of all that the whole picture is squashed to a square of this many pixels per side, and any square
             of the wanted size is cut out of it, each as likely (ALIGN: 289 of 346)
    """

    aspect: tuple[float, float] = (0.75, 4 / 3)
    draws: int = 10
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    window: int = 0


TORCHVISION = CropForm()
"""As torchvision crops, and with it nearly all published code."""


def random_crop(
    image_HWC: Pixels,
    size: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.9, 1.0),
    form: CropForm = TORCHVISION,
) -> Pixels:
    """A random part of the image, resized to uint8 [size, size, 3].

    The part covers a share of the area drawn from `scale`, and its width / height is drawn log-uniformly within the form's; after ten
    draws that do not fit, the largest centred part within them. `rng` decides everything.
    """
    if form.window:
        square_HWC = (
            image_HWC if image_HWC.shape[:2] == (form.window,) * 2 else resized(image_HWC, form.window, form.interpolation)
        )
        top, left = (int(rng.integers(form.window - size + 1)) for _ in range(2))
        return square_HWC[top : top + size, left : left + size]
    top, left, height, width = crop_box(image_HWC.shape[0], image_HWC.shape[1], rng, scale, form.aspect, draws=form.draws)
    part_HWC = image_HWC[top : top + height, left : left + width]
    if part_HWC.shape[:2] == (size, size):
        return part_HWC
    return resized(part_HWC, size, form.interpolation)


def crop_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    *,
    draws: int = 10,
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random part, in pixels."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(draws):
        area = height * width * rng.uniform(*scale)
        shape = math.exp(rng.uniform(low, high))
        wide, tall = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < wide <= width and 0 < tall <= height:
            return int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide
    wide = min(width, max(1, round(height * ratio[1])))
    tall = min(height, max(1, round(width / ratio[0])))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def resized(image_HWC: Pixels, size: int, mode: Literal["bicubic", "bilinear"] = "bicubic") -> Pixels:
    """Antialiased, to [size, size, 3]. torch's uint8 kernel: within two levels of PIL and several times faster
    (`benchmarks/decoding.py`), which is why training uses it and evaluation does not."""
    if not image_HWC.flags.writeable or min(image_HWC.strides) < 0:
        image_HWC = image_HWC.copy()  # torch can alias neither
    image_1CHW = torch.from_numpy(image_HWC).permute(2, 0, 1)[None]
    small_1CHW = functional.interpolate(image_1CHW, size=(size, size), mode=mode, antialias=True)
    small_HWC: Pixels = small_1CHW[0].permute(1, 2, 0).numpy()
    return small_HWC


def flipped(image_HWC: Pixels, rng: np.random.Generator) -> Pixels:
    """Mirrored left to right half of the time. Not for data whose texts contain left or right."""
    return image_HWC[:, ::-1] if rng.random() < 0.5 else image_HWC


def visible_share(preprocess: Any, width: int, height: int) -> Share:
    """The part of a picture that a model's square input shows, as shares of its sides.

    >>> class Crop: resize = "crop"
    >>> visible_share(Crop, 200, 100)
    (0.25, 0.0, 0.75, 1.0)
    """
    how = getattr(preprocess, "resize", "squash")
    margin = getattr(preprocess, "margin", 0)
    kept = preprocess.size / (preprocess.size + margin) if margin else 1.0
    if how == "squash":
        return (1 - kept) / 2, (1 - kept) / 2, (1 + kept) / 2, (1 + kept) / 2
    side = preprocess.size if how == "native" else min(width, height) if how == "crop" else max(width, height)
    x, y = kept * side / width / 2, kept * side / height / 2
    return 0.5 - x, 0.5 - y, 0.5 + x, 0.5 + y
