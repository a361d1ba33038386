"""Images cut into tiles: the grids of the released codes, and the part of the image that each tile shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.image_processing_utils import select_best_resolution

from diptych.core.errors import ConfigError
from diptych.data.media.tiles import ClosestTiles, closest_grid, fitting_size

RELEASED = [
    (100, 100, 6, 1, 1),
    (448, 448, 6, 1, 1),
    (900, 900, 6, 2, 2),
    (2000, 2000, 12, 3, 3),
    (1000, 400, 6, 3, 1),
    (400, 1000, 6, 1, 3),
    (1200, 900, 12, 4, 3),
    (640, 480, 6, 3, 2),
    (3000, 500, 6, 6, 1),
    (500, 250, 6, 2, 1),
]
"""Width, height, tiles at most, and the columns and rows of `find_closest_aspect_ratio` of Mono-InternVL at 5b17ab4."""


def test_grids_are_those_of_the_release(parity: Any) -> None:
    pairs = [(np.array(closest_grid(w, h, size=448, most=most)), np.array(grid)) for w, h, most, *grid in RELEASED]
    parity("mono_internvl", "grids of tiles", "find_closest_aspect_ratio of Mono-InternVL at 5b17ab4", pairs, tolerance=0)


def test_sizes_are_those_of_llava_1_6(parity: Any) -> None:
    sizes = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]
    pairs = []
    for width in range(50, 1500, 97):
        for height in range(50, 1500, 89):
            down, across = select_best_resolution((height, width), [(h, w) for w, h in sizes])
            pairs.append((np.array(fitting_size(width, height, sizes)), np.array((across, down))))
    parity("llava", "size of the tiles of LLaVA 1.6", "select_best_resolution of transformers", pairs, tolerance=0)
    with pytest.raises(ConfigError, match="no sizes"):
        fitting_size(10, 10, [])


def test_tiles_show_the_parts_that_they_name() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 180, 3), dtype=np.uint8)
    tiles = ClosestTiles(32, most=6)(image)
    assert ClosestTiles(32, most=6).count(180, 90) == len(tiles) == 3
    whole = np.asarray(Image.fromarray(image).resize((64, 32)))
    for tile in tiles[:2]:
        x0, y0, x1, y1 = (round(share * side) for share, side in zip(tile.part, (64, 32, 64, 32), strict=True))
        np.testing.assert_array_equal(tile.pixels_HWC, whole[y0:y1, x0:x1])
    np.testing.assert_array_equal(tiles[2].pixels_HWC, np.asarray(Image.fromarray(image).resize((32, 32))))
    assert tiles[2].part == (0.0, 0.0, 1.0, 1.0)
    assert len(ClosestTiles(32, most=1)(image)) == 1
    with pytest.raises(ConfigError, match="tiles of 32 pixels, 4 to 2"):
        ClosestTiles(32, least=4, most=2)
