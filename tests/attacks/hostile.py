"""What tests of bad samples share: strings that are too deep or too long, a picture, and the proof that the rest of a pool lives on."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from diptych.data.dataset import Pool
from diptych.data.inspect import inspect
from diptych.data.quarantine import read_quarantine
from diptych.data.shards.build import build, open_built

NESTED = "[" * 100_000 + "]" * 100_000
DIGITS = "1" * 5_000
LONG = "x" * 10_000


def png(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade % 256, 90, 9 + shade // 256)).save(file, "PNG")
    return file.getvalue()


def survives(pool: Pool, texts: list[str], tmp_path: Path) -> list[str]:
    """Every use of the pool works on what is left; returns the lines of the quarantine."""
    assert [text.string for sample in pool for text in sample.texts] == texts
    build(pool, tmp_path / "survived")
    built = open_built(tmp_path / "survived")
    assert sorted(text.string for sample in built for text in sample.texts) == sorted(texts)
    assert inspect(pool).lines()
    lines = [str(bad) for bad in pool.quarantine]
    assert len(read_quarantine(tmp_path / "survived")) == len(set(pool.quarantine))
    assert all("\n" not in line and line.encode() for line in lines)
    return lines
