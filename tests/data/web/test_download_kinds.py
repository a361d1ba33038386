"""Twenty kinds of picture as a server may send them: each is stored with its colours where they were, or is refused in one line."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import DecodeError
from diptych.data.web.download import Download
from diptych.data.web.picture_sizing import resized

RED, BLUE = (220, 20, 20), (20, 20, 220)


def picture(mode: str = "RGB") -> Image.Image:
    """Left half red, right half blue; white and black where the mode has no colours."""
    grey = mode in ("L", "1", "I;16")
    left, right = ((255, 255, 255), (0, 0, 0)) if grey else (RED, BLUE)
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = left, right
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    made = Image.fromarray(pixels)
    return made.quantize(16) if mode == "P" else made.convert(mode)


def encoded(form: str, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    picture(mode).save(file, form, **options)
    return file.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 3  # the camera was upside down
    file = io.BytesIO()
    picture().rotate(180).save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


KINDS = {
    "jpeg": lambda: encoded("JPEG", quality=95),
    "jpeg progressive": lambda: encoded("JPEG", quality=95, progressive=True),
    "jpeg grey": lambda: encoded("JPEG", "L", quality=95),
    "jpeg cmyk": lambda: encoded("JPEG", "CMYK", quality=95),
    "jpeg turned by its header": turned,
    "png": lambda: encoded("PNG"),
    "png of one bit": lambda: encoded("PNG", "1"),
    "png grey": lambda: encoded("PNG", "L"),
    "png grey of 16 bits": lambda: encoded("PNG", "I;16"),
    "png with a palette": lambda: encoded("PNG", "P"),
    "png with transparency": lambda: encoded("PNG", "RGBA"),
    "gif": lambda: encoded("GIF", "P"),
    "gif of two frames": lambda: encoded("GIF", "P", save_all=True, append_images=[Image.new("P", (64, 48))]),
    "webp": lambda: encoded("WEBP", quality=95),
    "webp without loss": lambda: encoded("WEBP", lossless=True),
    "webp of two frames": lambda: encoded("WEBP", save_all=True, append_images=[Image.new("RGB", (64, 48))]),
    "bmp": lambda: encoded("BMP"),
    "tiff": lambda: encoded("TIFF"),
    "tiff compressed": lambda: encoded("TIFF", compression="tiff_deflate"),
    "avif": lambda: encoded("AVIF", quality=90),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_stored_with_its_colours(kind: str) -> None:
    data, facts = resized(KINDS[kind](), Download(size=32, resize="keep_ratio"), name=kind)
    assert (facts["original_width"], facts["original_height"], facts["width"], facts["height"]) == (64, 48, 43, 32)
    stored_HWC = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.int16)
    grey = "grey" in kind or "one bit" in kind
    left, right = ((255,) * 3, (0,) * 3) if grey else (RED, BLUE)
    assert np.abs(stored_HWC[16, 5] - left).max() <= 25, stored_HWC[16, 5]
    assert np.abs(stored_HWC[16, 38] - right).max() <= 25, stored_HWC[16, 38]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html><body>404</body></html>",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        encoded("PNG")[:60],
        encoded("JPEG")[:200],
        b"\xff\xd8\xff" + bytes(50),
        encoded("PPM"),
    ],
    ids=["nothing", "a page", "svg", "png cut short", "jpeg cut short", "jpeg of zeros", "ppm"],
)
def test_what_is_no_whole_picture_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        resized(data, Download(size=32), name="a")
    assert "\n" not in str(caught.value)
