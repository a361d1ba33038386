"""Whole slides through OpenSlide, which is an extra: skipped visibly without it."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from diptych.core.errors import DecodeError
from diptych.core.image import FileImage, SliceImage
from diptych.core.media import MediaItem, MediaLimit, medium_of

pytest.importorskip("openslide", reason="needs the extra 'slides'")

TILE = 256


def tiled_tiff(pixels_HWC: np.ndarray) -> bytes:
    """A tiled RGB TIFF without compression, which OpenSlide opens as a slide of one level."""
    height, width, _ = pixels_HWC.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    padded = np.zeros((rows * TILE, columns * TILE, 3), np.uint8)
    padded[:height, :width] = pixels_HWC
    tiles = [
        padded[r * TILE : r * TILE + TILE, c * TILE : c * TILE + TILE].tobytes() for r in range(rows) for c in range(columns)
    ]
    size, count = TILE * TILE * 3, len(tiles)
    after = 8 + size * count
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, after), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, 3),
        (284, 3, 1, 1), (322, 3, 1, TILE), (323, 3, 1, TILE), (324, 4, count, after + 8), (325, 4, count, after + 8 + 4 * count),
    ]  # fmt: skip
    body = struct.pack("<4H", 8, 8, 8, 0) + struct.pack(f"<{count}I", *(8 + size * n for n in range(count)))
    body += struct.pack(f"<{count}I", *[size] * count)
    table = struct.pack("<H", len(tags))
    for tag, kind, number, value in tags:
        table += struct.pack("<HHI", tag, kind, number)
        table += struct.pack("<HH", value, 0) if kind == 3 and number == 1 else struct.pack("<I", value)
    return b"II*\0" + struct.pack("<I", after + len(body)) + b"".join(tiles) + body + table + b"\0\0\0\0"


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (600, 700, 3), dtype=np.uint8)


def test_a_slide_is_read_by_region(tmp_path: Path, pixels: np.ndarray) -> None:
    file = tmp_path / "one.tif"
    file.write_bytes(tiled_tiff(pixels))
    slide = MediaItem("slide", (FileImage(file),)).decode()
    assert slide.size == (700, 600)
    assert slide.levels == (1.0,)
    assert slide.spacing is None
    assert np.array_equal(slide.region(100, 250, 64, 32), pixels[250:282, 100:164])
    assert slide.region(690, 590, 20, 20)[-1, -1].tolist() == [255, 255, 255]
    assert slide.thumbnail(70).shape == (60, 70, 3)
    assert medium_of("slide").facts(slide).shape == (600, 700, 3)


def test_a_slide_inside_a_tar_is_copied_once(tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    data = tiled_tiff(pixels)
    (tmp_path / "shard").write_bytes(b"before" + data + b"after")
    part = SliceImage(tmp_path / "shard", 6, len(data), "u.slide.tif")
    for _ in range(2):
        assert np.array_equal(MediaItem("slide", (part,)).decode().region(0, 0, 9, 9), pixels[:9, :9])
    assert [path.suffix for path in (tmp_path / "cache" / "slides").iterdir()] == [".tif"]


def test_a_slide_that_cannot_be_used_says_why(tmp_path: Path, pixels: np.ndarray) -> None:
    file = tmp_path / "one.tif"
    file.write_bytes(tiled_tiff(pixels))
    slide = MediaItem("slide", (FileImage(file),))
    with pytest.raises(DecodeError, match=r"420,000 pixels are more than the limit of 1,000"):
        medium_of("slide").decode(slide, limit=MediaLimit(10_000_000, 1000))
    with pytest.raises(DecodeError, match="more than the limit of 100"):
        medium_of("slide").decode(slide, limit=MediaLimit(100, 1_000_000))
    file.write_bytes(b"II*\0 nothing")
    with pytest.raises(DecodeError, match="is no slide that can be opened"):
        slide.decode()
    with pytest.raises(DecodeError, match="No such file"):
        MediaItem("slide", (FileImage(tmp_path / "two.tif"),)).decode()
