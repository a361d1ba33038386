"""Tile sizes of the score matrix: rows per tile for one matrix product, and rows per strip for element-wise passes between
products.

Both affect only time, memory and rounding. They follow the CPU caches: the strip should stay in the second-level cache across
passes, and a tile should stay in the last-level cache until the next product reads it.
"""

from __future__ import annotations

from functools import cache

from diptych.core.machine import cache_bytes

TILE, STRIP = 512, 128
"""Default if the cache sizes are unknown or the device is not a CPU."""


def tile_rows(columns: int, item_bytes: int, *, cpu: bool) -> int:
    """Rows per tile for this number of columns: at most half of the last-level cache, 64 to 1,024."""
    size = _caches()[1]
    return min(1024, max(64, size // 2 // (columns * item_bytes))) if cpu and size else TILE


def strip_rows(columns: int, item_bytes: int, *, lowest: int = 16) -> int:
    """Rows per strip for this number of columns: scores and one copy fill at most half of the second-level cache, `lowest` to
    512."""
    size = _caches()[0]
    return min(512, max(lowest, size // 2 // (2 * columns * item_bytes))) if size else STRIP


@cache
def _caches() -> tuple[int, int]:
    """Bytes of the second-level and the last-level cache; 0 if unknown."""
    return cache_bytes(2), cache_bytes(3)
