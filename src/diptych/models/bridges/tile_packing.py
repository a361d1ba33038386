"""Tokens of an image and of its tiles as one sequence, with the part of the image that each token shows (LLaVA 1.6).

Letters: T the whole image and its tiles, P patches of a tile, K tokens, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.core.errors import ShapeError


@dataclass(frozen=True, slots=True)
class PackedTiles:
    """token_KD  tokens of the whole image, then of its tiles row by row, each row of tokens with a line end after
    part_K4   what a token shows, as shares of the image's sides x0, y0, x1, y1; a line end shows nothing, -1
    """

    token_KD: Tensor
    part_K4: Tensor


def pack_tiles(
    token_TPD: Tensor,
    *,
    width: int,
    height: int,
    columns: int,
    rows: int,
    newline_D: Tensor | None = None,
    exact: bool = False,
) -> PackedTiles:
    """LLaVA 1.6's sequence: tokens that lie in the padding around the image are left out ("spatial_unpad").

    token_TPD    the whole image, squashed to a square, then `columns` x `rows` tiles, row by row, of the image padded to their grid
    width, height  of the image in pixels
    newline_D    the learned line end; None: none, and padding is kept ("spatial"). One that stands without tiles follows the whole image
    exact        sides of the unpadded image are cut to whole tokens after rounding to seven places, as by transformers; the authors' code
                 cuts the floating-point product, which may lie just below a whole number
    Raises ShapeError for another number of tiles, and for patches that are no square.
    """
    side = math.isqrt(token_TPD.shape[1])
    if len(token_TPD) != columns * rows + 1 or side * side != token_TPD.shape[1]:
        raise ShapeError(
            f"tokens {list(token_TPD.shape)} of {columns} x {rows} tiles (expected {columns * rows + 1} squares of patches)"
        )
    whole_K4 = _parts(side, side, (1.0, 1.0)).flatten(0, 1)
    if len(token_TPD) == 1:
        ends = 0 if newline_D is None else 1
        line_KD = token_TPD.new_empty(0, token_TPD.shape[2]) if newline_D is None else newline_D[None].to(token_TPD.dtype)
        part_K4 = torch.cat([whole_K4, whole_K4.new_full((ends, 4), -1.0)])
        return PackedTiles(torch.cat([token_TPD[0], line_KD]), part_K4.to(token_TPD.device))
    grid_HWD = token_TPD[1:].unflatten(1, (side, side)).unflatten(0, (rows, columns)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    high, wide = grid_HWD.shape[:2]
    scale = min(wide / width, high / height)
    cover = min(1.0, width * scale / wide), min(1.0, height * scale / high)
    part_HW4 = _parts(wide, high, cover)
    if newline_D is not None:
        top, left = _padding(width, height, wide, high, exact=exact)
        grid_HWD, part_HW4 = (part[top : high - top, left : wide - left] for part in (grid_HWD, part_HW4))
        line_HD = newline_D.expand(len(grid_HWD), 1, -1)
        grid_HWD = torch.cat([grid_HWD, line_HD.to(grid_HWD.dtype)], 1)
        part_HW4 = torch.cat([part_HW4, part_HW4.new_full((len(part_HW4), 1, 4), -1.0)], 1)
    token_KD = torch.cat([token_TPD[0], grid_HWD.flatten(0, 1)])
    part_K4 = torch.cat([whole_K4, part_HW4.flatten(0, 1)])
    return PackedTiles(token_KD, part_K4.to(token_TPD.device))


def _padding(width: int, height: int, wide: int, high: int, *, exact: bool) -> tuple[int, int]:
    """Rows above and columns to the left that show no image, as many as below and to the right."""
    if width / height > wide / high:
        return (high - _whole(height * (wide / width), exact)) // 2, 0
    return 0, (wide - _whole(width * (high / height), exact)) // 2


def _whole(value: float, exact: bool) -> int:
    return int(round(value, 7) if exact else value)


def _parts(wide: int, high: int, cover: tuple[float, float]) -> Tensor:
    """[high, wide, 4] parts of an image that covers such shares of a grid, in its middle; below 0 and above 1 is padding."""
    edges = [(torch.arange(n + 1) / n - (1 - share) / 2) / share for n, share in zip((wide, high), cover, strict=True)]
    x, y = edges
    across, down = x.expand(high, -1), y[:, None].expand(-1, wide)
    return torch.stack([across[:, :-1], down[:-1], across[:, 1:], down[1:]], 2)
