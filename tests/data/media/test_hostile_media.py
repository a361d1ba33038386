"""Whatever the bytes: a medium decodes, or refuses with one line. Never another error, and never more than its limit in memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.core.errors import DecodeError
from diptych.core.image import BytesImage
from diptych.core.media import MediaItem, MediaLimit, medium_of

LIMIT = MediaLimit(bytes=100_000, elements=20_000, parts=20)
RNG = np.random.default_rng(3)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def pages(kind: str, count: int, dtype: str = "u1", bands: int = 0) -> bytes:
    shape = (count, 9, 7, bands) if bands else (count, 9, 7)
    first, *rest = [Image.fromarray(page) for page in RNG.integers(0, 200, shape).astype(dtype)]
    file = io.BytesIO()
    first.save(file, kind, save_all=count > 1, append_images=rest) if count > 1 else first.save(file, kind)
    return file.getvalue()


PLY = b"ply\nformat %s 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nproperty uchar red\nend_header\n"
SOUND = {
    "raster": [npy(RNG.integers(0, 99, (5, 6, 3), dtype=np.uint16)), pages("PNG", 1, "u2"), pages("TIFF", 1, "f4")],
    "volume": [npy(RNG.integers(0, 99, (3, 6, 5), dtype=np.int16)), pages("TIFF", 3, "u2")],
    "cloud": [
        npy(RNG.normal(size=(9, 4)).astype(np.float32)),
        PLY % b"ascii" + b"1 2 3 4\n5 6 7 8\n9 8 7 6\n",
        PLY % b"binary_little_endian" + bytes(range(39)),
    ],
    "clip": [
        npy(RNG.integers(0, 99, (3, 6, 5, 3), dtype=np.uint8)),
        pages("GIF", 3),
        pages("WEBP", 3, bands=3),
        pages("PNG", 3, bands=3),
    ],
    "images": [pages("PNG", 1), pages("JPEG", 1, bands=3)],
}
WHOLE = [(medium, data) for medium, found in SOUND.items() for data in found]


def holds(medium: str, data: bytes) -> None:
    item, kind = MediaItem(medium, (BytesImage(data, "hostile"),)), medium_of(medium)
    reads: list[Callable[[], Any]] = [
        lambda: kind.facts(kind.decode(item, limit=LIMIT)),
        lambda: kind.thumbnail(item, side=16, limit=LIMIT),
        lambda: kind.encode(item.parts[0]),
    ]
    for read in reads:
        refusal = ""
        try:
            read()
        except DecodeError as error:
            refusal = str(error)
        assert "\n" not in refusal
        assert len(refusal) < 600


@pytest.mark.parametrize(("medium", "data"), WHOLE, ids=[f"{medium}-{n}" for n, (medium, _) in enumerate(WHOLE)])
def test_the_whole_file_is_read(medium: str, data: bytes) -> None:
    kind = medium_of(medium)
    item = MediaItem(medium, (BytesImage(data),))
    assert kind.facts(kind.decode(item, limit=LIMIT)).shape
    assert kind.thumbnail(item).dtype == np.uint8


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(WHOLE), st.data())
def test_flipped_and_cut_bytes(whole: tuple[str, bytes], draw: st.DataObject) -> None:
    medium, data = whole
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        changed[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    holds(medium, bytes(changed[: draw.draw(st.integers(1, len(data)))]) if draw.draw(st.booleans()) else bytes(changed))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(SOUND)), st.binary(max_size=200))
def test_any_bytes(medium: str, data: bytes) -> None:
    holds(medium, data)


SHAPES = ["(-1,)", "(-2, 3, 4)", "(2, 3, -4)", "(0, 3, 4)", "()", "(True, 3, 4)", "(10**30, 3, 4)", "(99999, 99999, 99999)"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("medium", ["raster", "volume", "cloud", "clip"])
def test_odd_shapes_of_a_numpy_file(medium: str, shape: str) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(100)
    with pytest.raises(DecodeError):
        medium_of(medium).decode(MediaItem(medium, (BytesImage(data),)), limit=LIMIT)


def test_points_beyond_float32_are_not_finite() -> None:
    with pytest.raises(DecodeError, match="1 of 2 points are not finite"):
        MediaItem("cloud", (BytesImage(npy(np.array([[1e300, 0, 0], [1, 2, 3]]))),)).decode()
