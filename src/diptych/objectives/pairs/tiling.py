"""Tile sizes of the score matrix: rows per tile for one matrix product, and rows per strip for what lies between two products.

Both change time and memory, and the last digits; nothing else. They follow the processor's caches: what is done with the scores, pass
after pass, should find them in the second level, and a tile should not leave the last one before the next product reads it.
"""

from __future__ import annotations

from functools import cache

from diptych.core.machine import cache_bytes

TILE, STRIP = 512, 128
"""Where the caches are not known, or the device is no processor."""


def tile_rows(columns: int, item_bytes: int, *, cpu: bool) -> int:
    """Rows of a tile of so many columns: at most half of the last cache, 64 to 1,024."""
    size = _caches()[1]
    return min(1024, max(64, size // 2 // (columns * item_bytes))) if cpu and size else TILE


def strip_rows(columns: int, item_bytes: int, *, lowest: int = 16) -> int:
    """Rows of a strip of so many columns, scores and one copy of them: at most half of the second-level cache, `lowest` to 512."""
    size = _caches()[0]
    return min(512, max(lowest, size // 2 // (2 * columns * item_bytes))) if size else STRIP


@cache
def _caches() -> tuple[int, int]:
    """Bytes of the second and of the last cache; 0 where they are not known."""
    return cache_bytes(2), cache_bytes(3)
