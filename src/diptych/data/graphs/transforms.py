"""Joint transforms of pictures and their graphs: resize, crop, mirror, colour. Boxes follow the pixels, relations follow the boxes.

Two recipes of views are here: `SquareResize`, one square size for small models, and `DetrTransform`, the multi-scale resize and crop that
DETR and all its relatives train with. `ResizeShortSide` is what those are evaluated with.

What implementations get wrong: mirrored pictures under relations that still say "left"; relations kept to boxes that a crop
cut away; a long side that the limit pushes off the aspect ratio of the short one; masks and boxes that no longer agree (here
masks follow every move, as `MovedMask`, and are drawn when somebody asks).

Letters: H W pixels, C channels. Boxes are xyxy pixels of the picture as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance
from torch.nn import functional

from diptych.core.errors import ConfigError
from diptych.core.scene_graph import Box, Region, Relation, SceneGraph
from diptych.data.graphs.moved_mask import MovedMask
from diptych.data.media.opencv import bilinear, fitting_sides

Pixels = npt.NDArray[np.uint8]
Picture = tuple[Pixels, SceneGraph]
Sides = Literal["swap", "skip", "keep"]

SIDED = re.compile(r"\b(left|right)(?=(most|ward|wards|side|hand)?\b)", re.IGNORECASE)


class DetectionTransform(Protocol):
    """Image transforms of a picture with its graph: `draw` is random, for training; `whole` is fixed, for evaluation."""

    def draw(self, picture: Picture, rng: np.random.Generator) -> Picture: ...

    def whole(self, picture: Picture) -> Picture: ...


@dataclass(frozen=True, kw_only=True)
class RandomHorizontalFlip:
    """Turn left and right around in a share of the pictures.

    sides  what happens to names that say left or right: "swap" exchanges the words, "skip" leaves such pictures as they are,
           "keep" mirrors and leaves the names (as released; wrong for spatial relations)

    Swapping makes names out of others: leave it off where a name must not be seen in training.
    """

    share: float = 0.5
    sides: Sides = "skip"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"Mirror.share is {self.share} (expected a share of the pictures, 0 to 1)")
        if self.sides not in ("swap", "skip", "keep"):
            raise ConfigError(f"Mirror.sides is {self.sides!r} (expected swap | skip | keep)")

    def __call__(self, picture: Picture, rng: np.random.Generator) -> Picture:
        if rng.random() >= self.share or (self.sides == "skip" and mentions_side(picture[1])):
            return picture
        return mirrored(picture, swap=self.sides == "swap")


@dataclass(frozen=True, kw_only=True)
class SquareResize:
    """Every picture at size x size, regardless of its shape was, mirrored in a share of cases. The plain way, for small models."""

    size: int = 64
    mirror: RandomHorizontalFlip = RandomHorizontalFlip(share=0.0)
    smooth: bool = True

    def draw(self, picture: Picture, rng: np.random.Generator) -> Picture:
        return self.whole(self.mirror(picture, rng))

    def whole(self, picture: Picture) -> Picture:
        return resized(picture, self.size, self.size, smooth=self.smooth)


@dataclass(frozen=True, kw_only=True)
class ResizeShortSide:
    """The short side at `short` pixels, the long one at `longest` at most, the shape kept. DETR's evaluation."""

    short: int = 800
    longest: int = 1333

    def draw(self, picture: Picture, rng: np.random.Generator) -> Picture:
        return self.whole(picture)

    def whole(self, picture: Picture) -> Picture:
        return resized(picture, *fitting(picture, self.short, self.longest))


@dataclass(frozen=True, kw_only=True)
class RandomShortSideResize:
    """The short side at one of `shorts`, each as likely, the long one at `longest` at most, mirrored in a share of cases; shown whole as
    `ResizeShortSide` shows it, at the largest. GLIP's augmentation.

    smooth  False resizes as OpenMMLab does, before pictures are mirrored: by OpenCV, without smoothing, both sides rounded
    """

    shorts: tuple[int, ...] = (480, 560, 640, 720, 800)
    longest: int = 1333
    mirror: RandomHorizontalFlip = RandomHorizontalFlip()
    smooth: bool = True

    def __post_init__(self) -> None:
        if not self.shorts or min(*self.shorts, self.longest) < 1:
            raise ConfigError(
                f"ShortSides has {self.shorts} and {self.longest} (expected one size or more, of one pixel or more)"
            )

    def draw(self, picture: Picture, rng: np.random.Generator) -> Picture:
        if not self.smooth:
            return self.mirror(sharply_fitted(picture, int(rng.choice(self.shorts)), self.longest), rng)
        picture = self.mirror(picture, rng)
        return resized(picture, *fitting(picture, int(rng.choice(self.shorts)), self.longest))

    def whole(self, picture: Picture) -> Picture:
        if not self.smooth:
            return sharply_fitted(picture, max(self.shorts), self.longest)
        return resized(picture, *fitting(picture, max(self.shorts), self.longest))


@dataclass(frozen=True, kw_only=True)
class DetrTransform:
    """DETR's augmentation as QPIC and RLIP use it: mirror, colour, then one of two with equal chance: resize to one of the short
    sides; or resize to one of `before_crop`, cut a window of `crop` pixels per side, and resize that.

    shorts        short sides in pixels, each as likely
    longest       limit of the long side; the intermediate size before a crop has none
    before_crop   short sides before the crop
    crop          least and most pixels of either side of the window
    jitter        brightness, contrast and saturation change by a factor from [1 - jitter, 1 + jitter], in random order
    visible       share of a box that must be left by a crop for its region to stay; 0 keeps every sliver (published)
    """

    shorts: tuple[int, ...] = tuple(range(480, 801, 32))
    longest: int = 1333
    before_crop: tuple[int, ...] = (400, 500, 600)
    crop: tuple[int, int] = (384, 600)
    jitter: float = 0.4
    visible: float = 0.0
    mirror: RandomHorizontalFlip = RandomHorizontalFlip()

    def __post_init__(self) -> None:
        if not self.shorts or not self.before_crop or min(*self.shorts, *self.before_crop, self.longest, self.crop[0]) < 1:
            raise ConfigError("DetectorViews needs sizes of one pixel or more in shorts, before_crop, crop and longest")
        if self.crop[0] > self.crop[1] or not 0 <= self.jitter < 1 or not 0 <= self.visible <= 1:
            raise ConfigError(
                f"DetectorViews has crop {self.crop}, jitter {self.jitter}, visible {self.visible} (expected crop as (least, most), "
                "jitter in [0, 1), visible in [0, 1])"
            )

    def draw(self, picture: Picture, rng: np.random.Generator) -> Picture:
        picture = self.mirror(picture, rng)
        picture = jittered(picture[0], self.jitter, rng), picture[1]
        if rng.random() < 0.5:
            picture = resized(picture, *fitting(picture, int(rng.choice(self.before_crop))))
            height, width = picture[0].shape[:2]
            tall, wide = (int(rng.integers(min(self.crop[0], side), min(self.crop[1], side) + 1)) for side in (height, width))
            top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
            picture = cropped(picture, top, left, tall, wide, visible=self.visible)
        return resized(picture, *fitting(picture, int(rng.choice(self.shorts)), self.longest))

    def whole(self, picture: Picture) -> Picture:
        return ResizeShortSide(short=max(self.shorts), longest=self.longest).whole(picture)


# ---------------------------------------------------------------- the moves


def sharply_fitted(picture: Picture, short: int, longest: int | None = None) -> Picture:
    """The whole picture with a short side of `short` pixels, as OpenMMLab has it: both sides rounded, resized by OpenCV."""
    height, width = picture[0].shape[:2]
    high, wide = fitting_sides(height, width, short, longest or float("inf"))
    return resized(picture, max(1, high), max(1, wide), smooth=False)


def resized(picture: Picture, height: int, width: int, *, smooth: bool = True) -> Picture:
    """The whole picture at another size, bilinearly: antialiased, or by OpenCV without smoothing."""
    image_HWC, graph = picture
    old_height, old_width = image_HWC.shape[:2]
    if (old_height, old_width) == (height, width):
        return picture
    x, y = width / old_width, height / old_height
    masks = _masks(picture, lambda mask: mask.resized(height, width))
    moved = _moved(graph, lambda b: (b[0] * x, b[1] * y, b[2] * x, b[3] * y), masks)
    if not smooth:
        return bilinear(image_HWC, height, width), moved
    image_1CHW = _torch(image_HWC)[None]
    small_1CHW = functional.interpolate(image_1CHW, size=(height, width), mode="bilinear", antialias=True)
    return small_1CHW[0].permute(1, 2, 0).numpy(), moved


def cropped(picture: Picture, top: int, left: int, height: int, width: int, *, visible: float = 0.0) -> Picture:
    """A window of the picture. Boxes are cut to it; regions of which nothing, or less than `visible` of the area, is left go, and
    their relations with them."""
    image_HWC, graph = picture
    boxes: dict[int, Box] = {}
    for number, region in enumerate(graph.regions):
        x0, y0, x1, y1 = region.box
        box = (max(x0 - left, 0.0), max(y0 - top, 0.0), min(x1 - left, float(width)), min(y1 - top, float(height)))
        wide, tall = box[2] - box[0], box[3] - box[1]
        if wide > 0 and tall > 0 and wide * tall >= visible * (x1 - x0) * (y1 - y0):
            boxes[number] = box
    at = {number: new for new, number in enumerate(boxes)}
    masks = _masks(picture, lambda mask: mask.cropped(top, left, height, width))
    regions = tuple(replace(graph.regions[number], box=box, mask=masks[number]) for number, box in boxes.items())
    relations = tuple(
        replace(r, subject=at[r.subject], object=at[r.object]) for r in graph.relations if r.subject in at and r.object in at
    )
    return image_HWC[top : top + height, left : left + width], SceneGraph(regions, relations, graph.extras)


def mirrored(picture: Picture, *, swap: bool = True) -> Picture:
    """Left becomes right; with `swap` also in labels, attributes and predicates."""
    image_HWC, graph = picture
    width = image_HWC.shape[1]
    masks = _masks(picture, lambda mask: mask.mirrored())
    turned = _moved(graph, lambda b: (width - b[2], b[1], width - b[0], b[3]), masks)
    if swap:
        regions = tuple(_renamed(region) for region in turned.regions)
        turned = SceneGraph(regions, tuple(replace(r, predicate=swapped(r.predicate)) for r in turned.relations), turned.extras)
    return image_HWC[:, ::-1], turned


def jittered(image_HWC: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Brightness, contrast and saturation, each times a factor from [1 - strength, 1 + strength], in random order."""
    if strength == 0:
        return image_HWC
    image = Image.fromarray(image_HWC)
    for change in rng.permutation(np.array([ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color])):
        image = change(image).enhance(float(rng.uniform(1 - strength, 1 + strength)))
    return np.array(image)


def fitting(picture: Picture, short: int, longest: int | None = None) -> tuple[int, int]:
    """(height, width) with the short side at `short` pixels, or, where the long side would pass `longest`, at what that leaves of it.

    As the released code of DETR, RLIP, GLIP and PE-Net has it: the short side is rounded and the long one is what follows from it, cut
    to whole pixels, so that it may miss `longest` by a pixel or two. An image whose short side is already right stays as it is.
    Shapes that would pass the limit by more than a fiftieth (a strip of a few pixels) are held to it.

    >>> fitting((np.zeros((480, 640, 3), np.uint8), SceneGraph()), 800, 1333)
    (800, 1066)
    >>> fitting((np.zeros((640, 1200, 3), np.uint8), SceneGraph()), 600, 1000)
    (533, 999)
    """
    height, width = picture[0].shape[:2]
    low, high = min(height, width), max(height, width)
    if longest is not None and high / low * short > longest:
        short = max(1, round(longest * low / high))
    long = high if short == low else int(short * high / low)
    if longest is not None and long > 1.02 * longest:
        long = longest
    return (long, short) if width < height else (short, long)


def swapped(name: str) -> str:
    """Left for right and right for left, as words.

    >>> swapped("far left of"), swapped("on the right-hand side"), swapped("bright")
    ('far right of', 'on the left-hand side', 'bright')
    """
    return SIDED.sub(lambda match: _like(match[1], "right" if match[1].lower() == "left" else "left"), name)


def mentions_side(graph: SceneGraph) -> bool:
    """True if a label, an attribute or a predicate contains left or right."""
    names = [name for region in graph.regions for name in (region.label, *region.attributes)]
    return any(SIDED.search(name) for name in (*names, *(relation.predicate for relation in graph.relations)))


def _like(old: str, new: str) -> str:
    return new.upper() if old.isupper() else new.capitalize() if old[0].isupper() else new


def _renamed(region: Region) -> Region:
    return replace(region, label=swapped(region.label), attributes=tuple(map(swapped, region.attributes)))


def _masks(picture: Picture, move: Callable[[MovedMask], MovedMask]) -> list[MovedMask | None]:
    """The moved mask of each region; None if there is none."""
    height, width = picture[0].shape[:2]
    masks = [region.mask for region in picture[1].regions]
    return [None if mask is None else move(MovedMask.of(mask, height, width)) for mask in masks]


def _moved(graph: SceneGraph, move: Callable[[Box], Box], masks: Sequence[MovedMask | None]) -> SceneGraph:
    regions = tuple(replace(region, box=move(region.box), mask=mask) for region, mask in zip(graph.regions, masks, strict=True))
    relations: tuple[Relation, ...] = graph.relations
    return SceneGraph(regions, relations, graph.extras)


def _torch(image_HWC: Pixels) -> torch.Tensor:
    """uint8 [C, H, W]; torch can alias neither read-only arrays nor mirrored ones."""
    if not image_HWC.flags.writeable or min(image_HWC.strides) < 0:
        image_HWC = image_HWC.copy()
    return torch.from_numpy(image_HWC).permute(2, 0, 1)
