"""The tiles of a slide at one scale, independent of the scanner's: places in pixels of level 0, pixels at this many micrometres each.

What implementations get wrong: a level taken by its index, which means another scale on every scanner; places stored at one scale
and tiles read at another; background that is embedded, and counted as normal tissue.

Letters: N tiles, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from diptych.core.errors import ConfigError, DataError
from diptych.core.media import Pixels
from diptych.data.media.slide import SlideReader
from diptych.data.slides.tissue_mask import tissue_mask

PIXELS_A_TILE = 8
"""Sides of a tile in the thumbnail that tissue is looked for in, as long as that thumbnail is not larger than `LARGEST`."""
LARGEST = 4096


@dataclass(frozen=True, slots=True)
class Tiling:
    """Settings for cutting slides into tiles.

    size     pixels of a tile's side, as the model sees it
    mpp      micrometres per pixel of it
    overlap  share of a side that two neighbours have in common; 0.5 puts every place under four tiles
    tissue   least share of a tile that is tissue
    spacing  micrometres per pixel of level 0 of slides that do not say so; 0 refuses those
    """

    size: int = 224
    mpp: float = 0.5
    overlap: float = 0.0
    tissue: float = 0.25
    spacing: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 1 or self.mpp <= 0 or self.spacing < 0 or not 0 <= self.overlap < 1 or not 0 <= self.tissue <= 1:
            raise ConfigError(
                f"size {self.size}, mpp {self.mpp:g}, overlap {self.overlap:g}, tissue {self.tissue:g}, spacing {self.spacing:g} "
                "(expected 1 or more, above 0, a share below 1, a share, 0 or more)"
            )

    def plain(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Tiles:
    """Positions of the tiles of one slide.

    place_N2  (x, y) of the upper left corners, pixels of level 0
    extent    side of a tile, pixels of level 0
    stride    between neighbours, pixels of level 0
    level     from which they are read
    shape     (width, height) of the slide, pixels of level 0
    candidates  how many tiles there are with those that show no tissue
    """

    place_N2: npt.NDArray[np.int64]
    extent: int
    stride: int
    level: int
    shape: tuple[int, int]
    candidates: int

    def __len__(self) -> int:
        return len(self.place_N2)


def tiles_of(slide: SlideReader, tiling: Tiling, name: str) -> Tiles:
    """Tiles that show tissue, row by row; only those completely inside the slide.

    Raises DataError, with `name` as its file, for a slide that says no micrometres per pixel, that is scanned more coarsely than
    asked, or that is smaller than a tile.
    """
    spacing = slide.spacing or tiling.spacing
    if not spacing:
        raise DataError("the slide has no micrometres per pixel", file=name, expected="a slide that does, or --spacing")
    factor = tiling.mpp / spacing
    if factor < 0.99:
        raise DataError(
            f"the slide is scanned at {spacing:g} micrometres per pixel, more coarsely than the requested {tiling.mpp:g}",
            file=name,
            expected=f"--mpp {spacing:g} or more",
        )
    width, height = slide.size
    extent = round(tiling.size * factor)
    stride = max(1, round(extent * (1 - tiling.overlap)))
    if extent > min(width, height):
        raise DataError(
            f"the slide has {width} x {height} pixels, a tile {extent}", file=name, expected="a larger slide, or a smaller tile"
        )
    level = max((n for n, down in enumerate(slide.levels) if down <= factor * 1.01), key=lambda n: slide.levels[n])
    x, y = np.meshgrid(np.arange(0, width - extent + 1, stride), np.arange(0, height - extent + 1, stride))
    every_N2 = np.stack([x.ravel(), y.ravel()], 1).astype(np.int64)
    kept_N = (
        _tissue_shares(slide, every_N2, extent) >= max(tiling.tissue, 1e-9) if tiling.tissue else np.ones(len(every_N2), bool)
    )
    return Tiles(every_N2[kept_N], extent, stride, level, (width, height), len(every_N2))


def pixels_of(slide: SlideReader, tiles: Tiles, tiling: Tiling, start: int = 0, stop: int | None = None) -> Iterator[Pixels]:
    """uint8 [size, size, 3] of the tiles start..stop-1, resized where no level has the requested scale."""
    side = max(1, round(tiles.extent / slide.levels[tiles.level]))
    for x, y in tiles.place_N2[start:stop].tolist():
        read_HWC = slide.region(x, y, side, side, level=tiles.level)
        if side != tiling.size:
            read_HWC = np.asarray(Image.fromarray(read_HWC).resize((tiling.size, tiling.size), Image.Resampling.LANCZOS))
        yield read_HWC


def _tissue_shares(slide: SlideReader, place_N2: npt.NDArray[np.int64], extent: int) -> npt.NDArray[np.float64]:
    """Share of tissue in each tile, from a thumbnail of the slide."""
    width, height = slide.size
    mask_HW = tissue_mask(slide.thumbnail(min(LARGEST, -(-max(width, height) * PIXELS_A_TILE // extent))))
    rows, columns = mask_HW.shape
    total = np.zeros((rows + 1, columns + 1))
    total[1:, 1:] = mask_HW.cumsum(0).cumsum(1)
    left, top = (place_N2 * (columns / width, rows / height)).round().astype(int).T
    right, bottom = ((place_N2 + extent) * (columns / width, rows / height)).round().astype(int).T
    right, bottom = np.maximum(right, left + 1).clip(max=columns), np.maximum(bottom, top + 1).clip(max=rows)
    left, top = np.minimum(left, right - 1), np.minimum(top, bottom - 1)
    inside_N = total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
    return np.asarray(inside_N / ((right - left) * (bottom - top)))
