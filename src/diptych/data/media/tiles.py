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
