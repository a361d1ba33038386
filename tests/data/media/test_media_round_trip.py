"""Every medium from memory or a folder through build and open to a batch: the same numbers, the same identity, a named reason."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import DecodeError
from diptych.core.image import ArrayImage, BytesImage, FileImage
from diptych.core.media import ArraySource, MediaItem
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.lineage.record import FILE as LINEAGE
from diptych.data.shards.build import build, open_built
from diptych.data.shards.takedown import takedown
from diptych.data.shards.verify import verify

RNG = np.random.default_rng(0)
COUNT = 6


def arrays(medium: str) -> list[Any]:
    """The decoded content of `COUNT` items of a medium."""
    make = {
        "images": lambda: tuple(RNG.integers(0, 256, (8 + n, 9, 3), dtype=np.uint8) for n in range(3)),
        "clip": lambda: RNG.integers(0, 256, (5, 8, 6, 3), dtype=np.uint8),
        "cloud": lambda: RNG.normal(size=(40, 6)).astype(np.float32),
        "volume": lambda: RNG.integers(-1024, 3000, (4, 6, 5), dtype=np.int16),
        "raster": lambda: RNG.integers(0, 65536, (7, 5, 13), dtype=np.uint16),
    }
    return [make[medium]() for _ in range(COUNT)]


MEDIA = ["images", "clip", "cloud", "volume", "raster"]


def item(medium: str, content: Any) -> MediaItem:
    if medium in ("images", "clip"):
        return MediaItem(medium, tuple(map(ArrayImage, content)))
    return MediaItem(medium, (ArraySource(content),))


def equal(left: Any, right: Any) -> bool:
    if isinstance(left, tuple):
        return len(left) == len(right) and all(map(np.array_equal, left, right))
    return left.dtype == right.dtype and np.array_equal(left, right)


def pool_of(medium: str, contents: list[Any], name: str = "") -> Pool:
    return Pool.from_samples(
        [
            Sample(f"u{n}", texts=(Text(f"number {n}"),), media={name or medium: item(medium, content)})
            for n, content in enumerate(contents)
        ]
    )


@pytest.mark.parametrize("medium", MEDIA)
def test_a_built_folder_gives_back_every_number(medium: str, tmp_path: Path) -> None:
    contents = arrays(medium)
    report = build(pool_of(medium, contents), tmp_path / "built", shard_samples=4)
    assert (report.samples, report.quarantined) == (COUNT, 0)
    opened = pickle.loads(pickle.dumps(open_built(tmp_path / "built")))
    assert opened.content_fingerprint() == opened.fingerprint == report.fingerprint
    for row, uid in enumerate(opened.uids):
        found = opened[row].media[medium]
        assert found.medium == medium
        assert equal(found.decode(), contents[int(uid[1:])])
    assert verify(tmp_path / "built").ok
    table = open_built(tmp_path / "built").select([0])[0].media
    assert list(table) == [medium]


@pytest.mark.parametrize("medium", MEDIA)
def test_the_fingerprint_sees_media(medium: str) -> None:
    contents = arrays(medium)
    same, other = pool_of(medium, contents), pool_of(medium, [*contents[:-1], contents[0]])
    assert same.fingerprint == pool_of(medium, contents).fingerprint
    assert same.fingerprint != other.fingerprint
    assert same.fingerprint != pool_of(medium, contents, name="another").fingerprint
    backwards = same.select(range(COUNT)[::-1])
    assert backwards.content_fingerprint() == same.fingerprint
    assert equal(backwards[0].media[medium].decode(), contents[-1])


def test_a_sample_with_several_pictures_shows_the_first() -> None:
    contents = arrays("images")
    pool = pool_of("images", contents)
    assert np.array_equal(pool[2].image.pixels_HWC, contents[2][0])
    assert np.array_equal(pool.image(2).pixels_HWC, contents[2][0])
    assert pool[2].own_image is None
    assert pool[2].shown.medium == "image"


def test_several_pictures_are_stored_once(tmp_path: Path) -> None:
    build(pool_of("images", arrays("images")), tmp_path / "built")
    with tarfile.open(tmp_path / "built/shards/00000.tar") as tar:
        names = [name for name in tar.getnames() if name.startswith("u0.")]
    assert names == ["u0.images.0000.webp", "u0.images.0001.webp", "u0.images.0002.webp", "u0.json"]


def test_a_picture_and_two_rasters_side_by_side(tmp_path: Path) -> None:
    picture = RNG.integers(0, 256, (8, 9, 3), dtype=np.uint8)
    optical, radar = arrays("raster")[:2]
    media = {"raster": item("raster", optical), "radar": item("raster", radar)}
    build(Pool.from_samples([Sample("u", ArrayImage(picture), (Text("a"),), media=media)]), tmp_path / "built")
    sample = open_built(tmp_path / "built")[0]
    assert sample.shown.medium == "image"
    assert np.array_equal(sample.shown.decode(), picture)
    assert equal(sample.media["raster"].decode(), optical)
    assert equal(sample.media["radar"].decode(), radar)
    with tarfile.open(tmp_path / "built/shards/00000.tar") as tar:
        assert tar.getnames() == ["u.webp", "u.raster.npy", "u.raster-radar.npy", "u.txt", "u.json"]
        assert json.load(tar.extractfile("u.json"))["media"]["radar"] == {"medium": "raster", "parts": 1}


@pytest.mark.parametrize(
    ("medium", "data", "reason"),
    [
        ("clip", b"GIF89a", "not an image"),
        ("cloud", b"ply\nformat ascii 1.0\nend_header\n", "has no vertices"),
        ("volume", b"\x93NUMPY\x01\x00", "is not a NumPy array"),
        ("raster", b"", "the file is empty"),
        ("images", b"text", "not an image"),
    ],
)
def test_what_cannot_be_used_is_in_quarantine_with_its_kind_and_reason(
    medium: str, data: bytes, reason: str, tmp_path: Path
) -> None:
    pool = pool_of(medium, arrays(medium))
    samples = list(pool)
    samples[1] = Sample("u1", texts=samples[1].texts, media={medium: MediaItem(medium, (BytesImage(data, "bad file"),))})
    report = build(Pool.from_samples(samples), tmp_path / "built")
    assert (report.samples, report.quarantined) == (COUNT - 1, 1)
    (bad,) = open_built(tmp_path / "built").quarantine
    assert (bad.uid, bad.stage, bad.file) == ("u1", medium, "bad file")
    assert reason in bad.reason
    assert "\n" not in bad.reason


def test_what_is_too_large_is_never_decoded(tmp_path: Path) -> None:
    """A header that promises more than is there, and a file that is larger than the limit by its size alone."""
    whole = io.BytesIO()
    np.save(whole, np.zeros((10, 3), np.float32))
    huge = whole.getvalue().replace(b"(10, 3), ", b"(999999,)")
    sparse = tmp_path / "sparse.npy"
    with sparse.open("wb") as file:
        file.truncate(2 << 30)
    samples = [
        Sample("header", texts=(Text("a"),), media={"cloud": MediaItem("cloud", (BytesImage(huge, "huge"),))}),
        Sample("bytes", texts=(Text("b"),), media={"cloud": MediaItem("cloud", (FileImage(sparse),))}),
    ]
    build(Pool.from_samples(samples), tmp_path / "built")
    reasons = {bad.uid: bad.reason for bad in open_built(tmp_path / "built").quarantine}
    assert "2,147,483,648 bytes are more than the limit" in reasons["bytes"]
    assert "bytes are there" in reasons["header"]


def test_a_build_that_was_killed_keeps_the_media_of_finished_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diptych.data.shards import build as module

    pool = pool_of("cloud", arrays("cloud"))
    build(pool, tmp_path / "whole", shard_samples=2)
    store, calls = module.store_shard, []

    def stop(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return store(*args, **options)

    monkeypatch.setattr(module, "store_shard", stop)
    with pytest.raises(KeyboardInterrupt):
        build(pool, tmp_path / "stopped", shard_samples=2)
    monkeypatch.setattr(module, "store_shard", store)
    assert build(pool, tmp_path / "stopped", shard_samples=2).kept == 2

    def contents(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name != LINEAGE
        }

    assert contents(tmp_path / "whole") == contents(tmp_path / "stopped")


def test_a_flipped_byte_of_a_medium_is_found(tmp_path: Path) -> None:
    build(pool_of("volume", arrays("volume")), tmp_path / "built")
    part = open_built(tmp_path / "built")[3].media["volume"].parts[0]
    with part.path.open("r+b") as file:
        file.seek(part.offset + part.size - 1)
        last = file.read(1)
        file.seek(part.offset + part.size - 1)
        file.write(bytes([last[0] ^ 1]))
    uid = open_built(tmp_path / "built").uids[3]
    report = verify(tmp_path / "built")
    assert [(bad.uid, bad.stage) for bad in report.bad] == [(uid, "verify")]
    assert report.samples == COUNT


def test_a_takedown_moves_the_media_that_stay(tmp_path: Path) -> None:
    contents = arrays("clip")
    build(pool_of("clip", contents), tmp_path / "built")
    takedown(tmp_path / "built", ["u2"])
    opened = open_built(tmp_path / "built")
    assert sorted(opened.uids) == ["u0", "u1", "u3", "u4", "u5"]
    for row, uid in enumerate(opened.uids):
        assert equal(opened[row].media["clip"].decode(), contents[int(uid[1:])])
    assert verify(tmp_path / "built").ok
    with pytest.raises(DecodeError):
        MediaItem("clip", (FileImage(tmp_path / "built/shards/00000.tar"),)).decode()


def test_frames_keep_their_bytes(tmp_path: Path) -> None:
    """A JPEG frame is copied, not encoded again."""
    frames = []
    for n in range(3):
        file = io.BytesIO()
        Image.fromarray(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, "JPEG", quality=80 + n)
        frames.append(file.getvalue())
    media = {"clip": MediaItem("clip", tuple(map(BytesImage, frames)))}
    build(Pool.from_samples([Sample("u", texts=(Text("a"),), media=media)]), tmp_path / "built")
    assert [part.read() for part in open_built(tmp_path / "built")[0].media["clip"].parts] == frames
