"""What one picture can do to data building, inspection and training: scans without end, segments without end."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.cli import main
from diptych.core.errors import DecodeError
from diptych.core.image import BytesImage
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.inspect import inspect
from diptych.data.media.decode import decode, on_white, probe
from diptych.data.media.formats.jpeg_scans import scan_count
from diptych.data.shards.build import build

from .conftest import repeated_scans


def jpeg(size: tuple[int, int] = (64, 48), *, mode: str = "RGB", **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def scans_by_hand(data: bytes) -> int:
    """Byte by byte, as the standard (ITU-T T.81, annex B) reads."""
    at, scans = 2, 0
    while at + 4 <= len(data):
        assert data[at] == 0xFF
        marker, length = data[at + 1], 256 * data[at + 2] + data[at + 3]
        if marker == 0xD9:
            break
        at += 2 + length
        if marker == 0xDA:
            scans += 1
            while not (data[at] == 0xFF and data[at + 1] not in (0, *range(0xD0, 0xD8))):
                at += 1
    return scans


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"progressive": True, "restart_marker_rows": 1}, {"quality": 100, "restart_marker_blocks": 1}],
)
def test_scans_are_counted_as_the_standard_reads(mode: str, options: dict[str, object]) -> None:
    data = jpeg(mode=mode, **options)
    assert scan_count(data, "x") == scans_by_hand(data)
    assert scan_count(data, "x") == (1 if "progressive" not in options else {"RGB": 10, "L": 6}.get(mode, scans_by_hand(data)))
    decode(BytesImage(data), exact=True)


def test_a_preview_inside_of_a_segment_counts_for_nothing() -> None:
    data, inside = jpeg(progressive=True), jpeg((16, 16), progressive=True)[:4000]
    segment = b"\xff\xe1" + (len(inside) + 2).to_bytes(2, "big") + inside
    assert scan_count(data[:2] + segment + data[2:], "x") == scan_count(data, "x")
    assert scan_count(b"\x89PNG no jpeg", "x") == 0
    assert scan_count(data[:30], "x") == 0


def test_the_limit_falls_with_the_size() -> None:
    small = repeated_scans((64, 64), 80)
    assert decode(BytesImage(small), exact=True).shape == (64, 64, 3)
    with pytest.raises(DecodeError, match=r"scans over 64 x 64 pixels are more than the limit of 48"):
        decode(BytesImage(small), exact=True, max_pixels=64 * 64 * 4)
    decode(BytesImage(jpeg((4000, 250), progressive=True)), max_pixels=1_000_000)  # what encoders write fits at the largest size


@pytest.mark.parametrize("way", ["exact", "fast", "probe"])
def test_a_progressive_bomb_is_refused_at_once(way: str) -> None:
    bomb = repeated_scans((4000, 4000), 5000)
    assert len(bomb) < 400_000
    begun = time.perf_counter()
    with pytest.raises(DecodeError, match=r"5,010 scans over 4,000 x 4,000 pixels are more than the limit of 75"):
        probe(bomb) if way == "probe" else decode(BytesImage(bomb), exact=way == "exact", min_side=64)
    assert time.perf_counter() - begun < 0.5


def test_segments_without_end_are_refused_before_they_are_read_one_by_one() -> None:
    sound = jpeg()
    data = sound[:2] + b"\xff\xe0\x00\x02" * 2_000_000 + sound[2:]
    begun = time.perf_counter()
    with pytest.raises(DecodeError, match="more than 10,000 segments"):
        probe(data)
    assert time.perf_counter() - begun < 0.5


def test_stripes_of_transparency_are_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (37, 29, 4), dtype=np.uint8)
    alpha = rgba[..., 3:].astype(int)
    whole = (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    for pixels in (1, 100, 1 << 20):
        monkeypatch.setattr("diptych.data.media.decode.STRIPE", pixels)
        assert np.array_equal(on_white(rgba), whole)


def bombed(folder: Path) -> Path:
    folder.mkdir()
    for number in range(8):
        (folder / f"p{number}.jpg").write_bytes(jpeg((40, 40 + number)))
        (folder / f"p{number}.txt").write_text(f"picture {number}")
    (folder / "bomb.jpg").write_bytes(repeated_scans((4000, 4000), 5000))
    (folder / "bomb.txt").write_text("bomb")
    return folder


def test_building_and_inspecting_go_on_without_it(tmp_path: Path) -> None:
    pool = Pool.from_samples([Sample("good", BytesImage(jpeg())), Sample("bomb", BytesImage(repeated_scans((4000, 4000), 5000)))])
    begun = time.perf_counter()
    report = build(pool, tmp_path / "built")
    assert (report.samples, report.quarantined) == (1, 1)
    ((uid, reason),) = inspect(pool).broken
    assert uid == "bomb"
    assert "5,010 scans" in reason
    assert time.perf_counter() - begun < 3


def test_training_goes_on_without_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bombed(tmp_path / "pictures")
    words = ["train", "clip", "--data", str(folder), "--out", str(tmp_path / "run"), "--no-evaluation", "--workers", "0"]
    begun = time.perf_counter()
    assert main([*words, "--preset", "tiny", "--steps", "3", "--batch-size", "4"]) == 0, capsys.readouterr().err
    assert time.perf_counter() - begun < 30
