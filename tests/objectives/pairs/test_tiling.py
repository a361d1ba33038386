"""Rows of tiles and strips follow the caches, within bounds."""

from __future__ import annotations

import pytest

from diptych.objectives.pairs import tiling

MIB = 2**20


@pytest.mark.parametrize(
    ("second", "last", "columns", "tile", "strip"),
    [
        (1 * MIB, 32 * MIB, 1024, 1024, 64),
        (2 * MIB, 480 * MIB, 1024, 1024, 128),  # no tile above 1,024 rows
        (1 * MIB, 32 * MIB, 8192, 512, 16),  # no strip below 16
        (1 * MIB, 32 * MIB, 32768, 128, 16),
        (512 * 1024, 8 * MIB, 32768, 64, 16),  # no tile below 64
        (1 * MIB, 32 * MIB, 64, 1024, 512),
        (0, 0, 1024, tiling.TILE, tiling.STRIP),  # the kernel says nothing
    ],
)
def test_half_of_a_cache(monkeypatch: pytest.MonkeyPatch, second: int, last: int, columns: int, tile: int, strip: int) -> None:
    monkeypatch.setattr(tiling, "_caches", lambda: (second, last))
    assert tiling.tile_rows(columns, 4, cpu=True) == tile
    assert tiling.strip_rows(columns, 4) == strip
    if second:
        assert tile in (64, 1024) or tile * columns * 4 <= last // 2
        assert strip in (16, 512) or 2 * strip * columns * 4 <= second // 2


def test_a_device_that_is_no_processor_has_fixed_tiles() -> None:
    assert tiling.tile_rows(1024, 4, cpu=False) == tiling.TILE
