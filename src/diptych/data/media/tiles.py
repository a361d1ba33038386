"""Images cut into tiles of one size, for models that read large images piece by piece.

Two rules for how many tiles an image has: that of InternVL (2404.16821), the grid of nearest aspect ratio, to which the image is
squashed, and that of LLaVA 1.6, the grid in which most of the image's pixels are kept, in which it is padded. Every tile knows
the part of the image that it shows, so that tokens can be traced back.

Letters: N tiles, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from PIL import Image

from diptych.core.errors import ConfigError
from diptych.core.media import Pixels
from diptych.data.media.transforms import Share


@dataclass(frozen=True, slots=True)
class ImageTile:
    """Pixels uint8 [H, W, 3], and the part of the image that they show, as shares of its sides x0, y0, x1, y1; below 0 or above 1 is
    padding."""

    pixels_HWC: Pixels
    part: Share


def closest_grid(width: int, height: int, *, size: int, least: int = 1, most: int = 6) -> tuple[int, int]:
    """Columns and rows of the grid of `least` to `most` tiles whose aspect ratio is nearest to the image's (InternVL). Of two as near the
    one with more tiles where the image has more than half of their pixels.

    >>> closest_grid(900, 450, size=448), closest_grid(300, 150, size=448)
    ((2, 1), (2, 1))
    """
    grids = sorted(
        ((i, j) for i in range(1, most + 1) for j in range(1, most + 1) if least <= i * j <= most),
        key=lambda grid: (grid[0] * grid[1], grid),
    )
    best, nearest = (1, 1), math.inf
    for columns, rows in grids:
        difference = abs(width / height - columns / rows)
        if difference < nearest:
            best, nearest = (columns, rows), difference
        elif difference == nearest and width * height > 0.5 * size * size * columns * rows:
            best = (columns, rows)
    return best


def fitting_size(width: int, height: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Of these widths and heights the one in which most pixels of the image are kept, and of those the one that wastes least (LLaVA 1.6).

    >>> fitting_size(1000, 400, [(336, 672), (672, 336), (672, 672)])
    (672, 336)
    """
    if not sizes:
        raise ConfigError("no sizes to fit an image in (expected one or more)")

    def kept(one: tuple[int, int]) -> tuple[int, int]:
        scale = min(one[0] / width, one[1] / height)
        pixels = min(int(width * scale) * int(height * scale), width * height)
        return pixels, pixels - one[0] * one[1]

    return max(sizes, key=kept)


@dataclass(frozen=True, slots=True)
class ClosestTiles:
    """Squares of `size` pixels by `closest_grid`, and with `thumbnail` after them, if there are several, the whole image."""

    size: int = 448
    least: int = 1
    most: int = 6
    thumbnail: bool = True

    def __post_init__(self) -> None:
        if self.size < 1 or not 1 <= self.least <= self.most:
            raise ConfigError(f"tiles of {self.size} pixels, {self.least} to {self.most} (expected 1 or more, the least first)")

    def count(self, width: int, height: int) -> int:
        """Number of tiles of an image, the thumbnail among them."""
        columns, rows = closest_grid(width, height, size=self.size, least=self.least, most=self.most)
        return columns * rows + (self.thumbnail and columns * rows > 1)

    def __call__(self, image_HWC: Pixels) -> list[ImageTile]:
        """Tiles row by row. The image is squashed to the grid by a bicubic filter."""
        height, width = image_HWC.shape[:2]
        columns, rows = closest_grid(width, height, size=self.size, least=self.least, most=self.most)
        image = Image.fromarray(image_HWC)
        whole_HWC = np.asarray(image.resize((columns * self.size, rows * self.size)))
        tiles = []
        for row in range(rows):
            for column in range(columns):
                pixels_HWC = whole_HWC[row * self.size : (row + 1) * self.size, column * self.size : (column + 1) * self.size]
                part = (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
                tiles.append(ImageTile(pixels_HWC, part))
        if self.thumbnail and len(tiles) > 1:
            tiles.append(ImageTile(np.asarray(image.resize((self.size, self.size))), (0.0, 0.0, 1.0, 1.0)))
        return tiles

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        return cls(**plain)


@dataclass(frozen=True, slots=True)
class PaddedTiles:
    """The whole image squashed to a square, then the squares of the image padded with black to a grid (LLaVA 1.6).

    size   pixels a side of a square
    sizes  widths and heights of the grids, multiples of `size`; `fitting_size` chooses
    """

    size: int
    sizes: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if self.size < 1 or not self.sizes or any(side < self.size or side % self.size for one in self.sizes for side in one):
            raise ConfigError(f"tiles of {self.size} pixels in {list(self.sizes)} (expected widths and heights that they fill)")

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Columns and rows of an image's tiles."""
        wide, high = fitting_size(width, height, self.sizes)
        return wide // self.size, high // self.size

    def __call__(self, image_HWC: Pixels) -> list[ImageTile]:
        """The whole image, then the tiles row by row. All are resized by a bicubic filter."""
        height, width = image_HWC.shape[:2]
        columns, rows = self.grid(width, height)
        wide, high = columns * self.size, rows * self.size
        across, down = wide / width, high / height
        fitted = (wide, min(math.ceil(height * across), high)) if across < down else (min(math.ceil(width * down), wide), high)
        left, top = (wide - fitted[0]) // 2, (high - fitted[1]) // 2
        image = Image.fromarray(image_HWC)
        padded_HWC = np.zeros((high, wide, 3), np.uint8)
        padded_HWC[top : top + fitted[1], left : left + fitted[0]] = np.asarray(image.resize(fitted))
        tiles = [ImageTile(np.asarray(image.resize((self.size, self.size))), (0.0, 0.0, 1.0, 1.0))]
        for y in range(0, high, self.size):
            for x in range(0, wide, self.size):
                x0, x1 = ((side - left) / fitted[0] for side in (x, x + self.size))
                y0, y1 = ((side - top) / fitted[1] for side in (y, y + self.size))
                tiles.append(ImageTile(padded_HWC[y : y + self.size, x : x + self.size], (x0, y0, x1, y1)))
        return tiles

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        return cls(int(plain["size"]), tuple((int(width), int(height)) for width, height in plain["sizes"]))


def tiles_from_json(plain: dict[str, Any]) -> ClosestTiles | PaddedTiles:
    """The rule of tiles whose fields these are."""
    return PaddedTiles.from_json(plain) if "sizes" in plain else ClosestTiles.from_json(plain)
