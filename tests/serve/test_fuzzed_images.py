"""Images that are broken, hostile or merely unusual: refused in one line or answered, and the service lives on."""

from __future__ import annotations

import io
import random
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from diptych.serve import Limits

from .conftest import COLOURS, Running, b64, encoded, flat, refusal, running

LIMITS = Limits(body_bytes=4_000_000, image_pixels=1_000_000, inputs=8)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("fuzz"), limits=LIMITS) as started:
        yield started


def send(service: Running, data: bytes) -> httpx.Response:
    answer = service.http.post("/search", json={"image": b64(data), "k": 1})
    assert answer.status_code in (200, 400, 413), answer.text
    if answer.status_code != 200:
        refusal(answer)
    return answer


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# ---------------------------------------------------------------- unusual but sound


def red(mode: str) -> Image.Image:
    return Image.fromarray(flat(COLOURS["red"])).convert(mode)


def sixteen(value: int) -> bytes:
    """A PNG of 16-bit grey."""
    return saved(Image.fromarray(np.full((20, 30), value, np.uint16)), "PNG")


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(flat(COLOURS[name])) for name in ("red", "blue", "green")]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


@pytest.mark.parametrize(
    ("name", "data", "first"),
    [
        ("cmyk jpeg", saved(red("CMYK"), "JPEG", quality=95), "red-1"),
        ("progressive jpeg", saved(red("RGB"), "JPEG", progressive=True), "red-1"),
        ("palette gif", saved(red("P"), "GIF"), "red-1"),
        ("animated gif: its first frame", animated("GIF"), "red-1"),
        ("animated webp: its first frame", animated("WEBP"), "red-1"),
        ("animated png: its first frame", animated("PNG"), "red-1"),
        ("tiff of several pages", saved(red("RGB"), "TIFF", save_all=True, append_images=[red("RGB")]), "red-1"),
        ("bmp", saved(red("RGB"), "BMP"), "red-1"),
        ("transparent", saved(Image.new("RGBA", (9, 9), (255, 0, 0, 255)), "PNG"), "red-1"),
        ("one pixel", saved(Image.new("RGB", (1, 1), (0, 0, 255)), "PNG"), "blue-1"),
        ("a line", saved(Image.new("RGB", (5000, 1), (0, 0, 255)), "PNG"), "blue-1"),
        ("bits", saved(red("1"), "PNG"), None),
        ("16 bits", sixteen(40_000), None),
        ("grey and alpha", saved(Image.new("LA", (9, 9), (200, 10)), "PNG"), None),
        ("tiff in other colours", saved(red("YCbCr"), "TIFF"), None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unusual_images_are_read(service: Running, name: str, data: bytes, first: str | None) -> None:
    answer = send(service, data)
    assert answer.status_code == 200, answer.text
    if first:
        assert answer.json()["hits"][0]["uid"] == first


def test_sixteen_bits_are_scaled_and_not_clipped(service: Running) -> None:
    def vector(data: bytes) -> np.ndarray:
        answer = service.http.post(
            "/v1/embeddings", json={"input": [{"image": b64(data)}, {"image": b64(encoded(flat((78,) * 3)))}]}
        )
        return np.array([entry["embedding"] for entry in answer.json()["data"]])

    one, other = vector(sixteen(78 * 257))
    np.testing.assert_allclose(one, other, atol=1e-6)


# ---------------------------------------------------------------- hostile


def png_of_size(width: int, height: int, *, rows: int = 1) -> bytes:
    """A PNG that says how large it is, and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(rows * (1 + 3 * width))))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(2000, 501), (60_000, 60_000), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_by_their_header(service: Running, size: tuple[int, int]) -> None:
    data = png_of_size(*size, rows=0)
    answer = send(service, data)
    assert answer.status_code == 413
    assert "pixels" in refusal(answer)


def test_text_chunks_that_unpack_to_a_lot_are_not_unpacked(service: Running) -> None:
    sound = encoded(flat(COLOURS["red"]))
    inside = b"note\x00\x00" + zlib.compress(bytes(200_000_000))
    chunk = struct.pack(">I", len(inside)) + b"zTXt" + inside + struct.pack(">I", zlib.crc32(b"zTXt" + inside))
    before = memory()
    send(service, sound[:33] + chunk + sound[33:])
    assert memory() - before < 150_000_000


def memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_cut_images(service: Running, kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    whole = encoded(pixels, kind)
    assert send(service, whole).status_code == 200
    for share in (0.02, 0.1, 0.3, 0.5, 0.8, 0.97):
        answer = send(service, whole[: int(len(whole) * share)])
        assert answer.status_code == 400, share
        assert "not an image that can be read" in refusal(answer)


def test_polyglots_are_pictures_or_nothing(service: Running) -> None:
    sound = encoded(flat(COLOURS["red"]))
    page = b"<html><script>alert(1)</script></html>"
    assert send(service, sound + b"PK\x03\x04" + page).json()["hits"][0]["uid"] == "red-1"  # a picture with a tail is a picture
    for data in (
        page,
        b"GIF89a" + page,
        b"%PDF-1.4\n" + sound,
        b"PK\x03\x04" + sound,
        b"%!PS-Adobe-3.0 EPSF-3.0\n" + page,
        b"\xff\xd8\xff" + page,
    ):
        assert send(service, data).status_code == 400
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    assert send(service, svg).status_code == 400


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_flipped_bytes(service: Running, kind: str) -> None:
    rng = random.Random(kind)
    whole = bytearray(encoded(np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8), kind))
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 2, 8, 40))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        send(service, bytes(data))


def test_after_all_of_that_the_same_thread_answers(service: Running) -> None:
    names = {thread.name for thread in threading.enumerate()}
    assert "diptych-model" in names
    assert service.http.get("/search", params={"q": "blue", "k": 1}).json()["hits"][0]["uid"] == "blue-1"
    assert service.http.get("/readyz").status_code == 200
