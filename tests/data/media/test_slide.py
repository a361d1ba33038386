"""Whole slides through OpenSlide, which is an extra: skipped visibly without it."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.cli.commands.data import main as data_command
from diptych.core.contracts import Draws, Recipe
from diptych.core.errors import DecodeError
from diptych.core.image import FileImage, SliceImage
from diptych.core.media import MediaItem, MediaLimit, medium_of
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import TensorBatch
from diptych.data.load.stream import batches
from diptych.data.read import read

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


class Tiles(Recipe):
    """Reads one tile of each slide, at a place of the draw's own."""

    needs = ("slide", "texts")

    def load(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        slide = sample.media["slide"].decode()
        x, y = (int(rng.integers(side - 32)) for side in slide.size)
        return {"tile": slide.region(x, y, 32, 32), "place": (x, y)}

    def batch(self, draws: Draws) -> TileBatch:
        numbers = [int(draw.sample.texts[0].string.split()[1]) for draw in draws]
        tile_BHWC = torch.from_numpy(np.stack([draw.media["tile"] for draw in draws]))
        return TileBatch(tile_BHWC, torch.tensor([draw.media["place"] for draw in draws]), torch.tensor(numbers))

    def model(self): ...  # type: ignore[no-untyped-def]
    def features(self, model, batch): ...  # type: ignore[no-untyped-def]
    def losses(self, features, batch): ...  # type: ignore[no-untyped-def]
    def deploy(self, model): ...  # type: ignore[no-untyped-def]
    @classmethod
    def tiny(cls): ...  # type: ignore[no-untyped-def]
    @classmethod
    def paper(cls): ...  # type: ignore[no-untyped-def]


@dataclass(frozen=True)
class TileBatch(TensorBatch):
    tile_BHWC: Rows[torch.Tensor]
    place_B2: Rows[torch.Tensor]
    number_B: Rows[torch.Tensor]


def test_slides_from_a_folder_through_the_commands_to_tiles_of_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Built into shards, verified, inspected, then read by region: each tile is the true one, at the place that the seed gives."""
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(3)
    whole = [rng.integers(0, 256, (300 + 20 * n, 280, 3), dtype=np.uint8) for n in range(3)]
    (tmp_path / "source").mkdir()
    for n, pixels_HWC in enumerate(whole):
        (tmp_path / "source" / f"s{n}.slide.tif").write_bytes(tiled_tiff(pixels_HWC))
        (tmp_path / "source" / f"s{n}.txt").write_text(f"slide {n}")
    built = str(tmp_path / "built")
    assert data_command(["build", str(tmp_path / "source"), built, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["samples"], report["quarantined"]) == (3, 0)
    assert data_command(["verify", built]) == 0
    capsys.readouterr()
    page = tmp_path / "page.html"
    assert data_command(["inspect", built, "--tokenizer", "", "--page", str(page), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["media"] == {"slide": 3}
    assert found["shapes"] == {"slide": {f"uint8 {300 + 20 * n} x 280 x 3": 1 for n in range(3)}}
    assert found["broken"] == []
    assert page.read_text().count("data:image/") >= 3, "a thumbnail a slide"
    pool, recipe = read(built), Tiles(batch_size=3)
    places = []
    for step in (*batches(pool, recipe, seed=0, stop=2), *batches(pool, recipe, seed=0, stop=2)):
        assert not step.failures
        places.append(step.batch.place_B2)
        for tile_HWC, (x, y), number in zip(step.batch.tile_BHWC, step.batch.place_B2.tolist(), step.batch.number_B, strict=True):
            assert np.array_equal(tile_HWC, whole[number][y : y + 32, x : x + 32])
    assert torch.equal(torch.cat(places[:2]), torch.cat(places[2:]))
    assert not torch.equal(places[0], places[1]), "another place in the next epoch"


def test_a_slide_that_cannot_be_used_says_why(tmp_path: Path, pixels: np.ndarray) -> None:
    file = tmp_path / "one.tif"
    file.write_bytes(tiled_tiff(pixels))
    slide = MediaItem("slide", (FileImage(file),))
    with pytest.raises(DecodeError, match=r"420,000 pixels are more than the limit of 1,000"):
        medium_of("slide").decode(slide, limit=MediaLimit(10_000_000, 1000))
    with pytest.raises(DecodeError, match="more than the limit of 100"):
        medium_of("slide").decode(slide, limit=MediaLimit(100, 1_000_000))
    file.write_bytes(b"II*\0 nothing")
    with pytest.raises(DecodeError, match="is not a slide that can be opened"):
        slide.decode()
    with pytest.raises(DecodeError, match="No such file"):
        MediaItem("slide", (FileImage(tmp_path / "two.tif"),)).decode()
