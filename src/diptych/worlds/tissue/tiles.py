"""Drawing of tissue tiles: nuclei on stained ground, laid out by family, shaped and coloured by kind.

Letters: N nuclei, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diptych.core.errors import UnknownName
from diptych.worlds.tissue.tree import FAMILIES, LEAVES

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
SIDE = 48
"""Pixels of a tile."""
GROUND, STROMA, LUMEN, GLASS = (226, 178, 204), (214, 150, 180), (246, 240, 244), (243, 243, 245)
BLUE, RED = (78, 62, 150), (138, 54, 116)
NORMAL_NUCLEUS = (120, 96, 158)


@dataclass(frozen=True)
class Nuclei:
    """Positions and half axes of nuclei in pixels, angle in radians."""

    y_N: Floats
    x_N: Floats
    long_N: Floats
    short_N: Floats
    angle_N: Floats


def tile(rng: np.random.Generator, leaf: str = "", *, side: int = SIDE, stain_3: Floats | None = None) -> Pixels:
    """uint8 [side, side, 3] of that kind of tumour, or of normal tissue for "". `stain_3` is drawn where it is not given.

    Raises UnknownName for a kind that is not there."""
    if leaf and leaf not in LEAVES:
        raise UnknownName("kind of tissue", leaf, LEAVES)
    family, kind = divmod(LEAVES.index(leaf), len(LEAVES) // len(FAMILIES)) if leaf else (-1, 0)
    size, colour = (1.5, 2.4)[kind % 2], (BLUE, RED)[kind // 2]
    ground_HW3 = np.empty((side, side, 3))
    ground_HW3[:] = GROUND
    if family == 0:
        nuclei = _glands(rng, side, size, ground_HW3)
    elif family == 1:
        nuclei = _nests(rng, side, size, ground_HW3)
    elif family == 2:
        nuclei = _crowd(rng, side, size, count=round(2.6 * side / size))
    elif family == 3:
        nuclei = _streams(rng, side, size, ground_HW3)
    else:
        nuclei, colour = _crowd(rng, side, 1.6, count=side // 6), NORMAL_NUCLEUS
    _paint(ground_HW3, nuclei, np.asarray(colour) + rng.normal(0, 7, 3), rng)
    stain_3 = stain(rng) if stain_3 is None else stain_3
    pixels_HWC: Pixels = np.clip(ground_HW3 * stain_3 + rng.normal(0, 7, (side, side, 3)), 0, 255).astype(np.uint8)
    return pixels_HWC


def stain(rng: np.random.Generator) -> Floats:
    """Factors of red, green and blue, one each: no two laboratories stain alike."""
    return np.asarray(rng.normal(1.0, 0.04, 3) * rng.normal(1.0, 0.05))


def glass(rng: np.random.Generator, *, side: int = SIDE) -> Pixels:
    """uint8 [side, side, 3] without tissue."""
    pixels_HWC: Pixels = np.clip(GLASS + rng.normal(0, 2, (side, side, 3)), 0, 255).astype(np.uint8)
    return pixels_HWC


def _paint(ground_HW3: Floats, nuclei: Nuclei, colour_3: Floats, rng: np.random.Generator) -> None:
    """Only a window around each nucleus is looked at: K x K pixels."""
    side, reach = len(ground_HW3), int(np.ceil(nuclei.long_N.max(initial=1.0))) + 1
    step_K = np.arange(-reach, reach + 1)
    y_NK = np.floor(nuclei.y_N)[:, None].astype(int) + step_K
    x_NK = np.floor(nuclei.x_N)[:, None].astype(int) + step_K
    dy_NKK, dx_NKK = (y_NK - nuclei.y_N[:, None])[:, :, None], (x_NK - nuclei.x_N[:, None])[:, None, :]
    cos_N, sin_N = np.cos(nuclei.angle_N)[:, None, None], np.sin(nuclei.angle_N)[:, None, None]
    along_NKK = (dx_NKK * cos_N + dy_NKK * sin_N) / nuclei.long_N[:, None, None]
    across_NKK = (dy_NKK * cos_N - dx_NKK * sin_N) / nuclei.short_N[:, None, None]
    inside_HW = np.zeros((side + 2 * reach + 2,) * 2, bool)  # with a margin, which is cut off
    n, k, m = np.nonzero(along_NKK**2 + across_NKK**2 <= 1)
    inside_HW[y_NK[n, k].clip(-reach, side + reach) + reach, x_NK[n, m].clip(-reach, side + reach) + reach] = True
    inside_HW = inside_HW[reach : reach + side, reach : reach + side]
    ground_HW3[inside_HW] = colour_3 + rng.normal(0, 10, (int(inside_HW.sum()), 1))


def _round(y_N: Floats, x_N: Floats, size: float, rng: np.random.Generator) -> Nuclei:
    size_N = size * rng.uniform(0.85, 1.15, len(y_N))
    return Nuclei(y_N, x_N, size_N, size_N * rng.uniform(0.8, 1.0, len(y_N)), rng.uniform(0, np.pi, len(y_N)))


def _crowd(rng: np.random.Generator, side: int, size: float, *, count: int) -> Nuclei:
    """Anywhere, without order."""
    return _round(rng.uniform(0, side, count), rng.uniform(0, side, count), size, rng)


def _glands(rng: np.random.Generator, side: int, size: float, ground_HW3: Floats) -> Nuclei:
    """On rings around an empty lumen."""
    y, x = np.ogrid[:side, :side]
    centres: list[tuple[float, float]] = []
    for _ in range(max(2, side * side // 800)):
        radius, y0, x0 = rng.uniform(6, 10), rng.uniform(4, side - 4), rng.uniform(4, side - 4)
        ground_HW3[(y - y0) ** 2 + (x - x0) ** 2 <= (radius - 1.5) ** 2] = LUMEN
        around_N = np.arange(0, 2 * np.pi, 2.4 * size / radius) + rng.uniform(0, 1)
        centres += zip(y0 + radius * np.sin(around_N), x0 + radius * np.cos(around_N), strict=True)
    place_N2 = np.asarray(centres)
    return _round(place_N2[:, 0], place_N2[:, 1], size, rng)


def _nests(rng: np.random.Generator, side: int, size: float, ground_HW3: Floats) -> Nuclei:
    """In dense islands on stroma."""
    y, x = np.ogrid[:side, :side]
    inside_HW = np.zeros((side, side), bool)
    for _ in range(max(2, side * side // 700)):
        y0, x0, tall, wide = *rng.uniform(0, side, 2), *rng.uniform(5, 11, 2)
        inside_HW |= ((y - y0) / tall) ** 2 + ((x - x0) / wide) ** 2 <= 1
    ground_HW3[~inside_HW] = STROMA
    step = 2.6 * size
    grid_y, grid_x = np.meshgrid(np.arange(0, side, step), np.arange(0, side, step), indexing="ij")
    y_N = np.clip(grid_y.ravel() + rng.normal(0, 0.5, grid_y.size), 0, side - 1)
    x_N = np.clip(grid_x.ravel() + rng.normal(0, 0.5, grid_x.size), 0, side - 1)
    kept_N = inside_HW[y_N.astype(int), x_N.astype(int)]
    kept_N[0] = True  # a tile has one nucleus at least
    return _round(y_N[kept_N], x_N[kept_N], size, rng)


def _streams(rng: np.random.Generator, side: int, size: float, ground_HW3: Floats) -> Nuclei:
    """Long ones, side by side along one direction that bends a little."""
    ground_HW3[:] = STROMA
    count = round(1.3 * side / size)
    y_N, x_N = rng.uniform(0, side, count), rng.uniform(0, side, count)
    angle_N = rng.uniform(0, np.pi) + 0.3 * np.sin(x_N / side * 2 * np.pi) + rng.normal(0, 0.1, count)
    return Nuclei(y_N, x_N, 3.0 * size * rng.uniform(0.85, 1.15, count), 0.6 * size * np.ones(count), angle_N)
