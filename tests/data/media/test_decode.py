"""Decoding: the same upright RGB picture from every kind of file, and a named error for everything else."""

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from diptych.core.errors import DecodeError, TooLarge
from diptych.core.image import ArrayImage, BytesImage, FileImage
from diptych.data.media.decode import decode, decode_rgba, encode_png, encode_webp, probe
from diptych.data.media.formats import heif


def picture(height=48, width=80):
    """Smooth, so that JPEG keeps it, and different in every corner."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x // width, 255 * y // height, 255 * (x + y) // (height + width)], -1).astype(np.uint8)


def saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def turned(orientation):
    """Bytes, which every writer of these formats understands."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def rgb(data, **options):
    return decode(BytesImage(data, "picture"), **options)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_lossless_formats_give_their_pixels(format):
    pixels = picture()
    image = Image.fromarray(pixels)
    if format == "GIF":
        image = image.quantize(64)
        pixels = np.asarray(image.convert("RGB"))
    data = saved(image, format, **({"lossless": True} if format == "WEBP" else {}))
    np.testing.assert_array_equal(rgb(data), pixels)
    info = probe(data)
    assert (info.format, info.width, info.height) == (format, 80, 48)


@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_pictures_of_phones_are_upright_and_close_to_what_was_saved(format, orientation):
    if format == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    image = Image.fromarray(picture())
    data, png = (saved(image, kind, quality=95, exif=turned(orientation)) for kind in (format, "PNG"))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(png))))
    pixels = rgb(data)
    assert pixels.shape == expected.shape == ((80, 48, 3) if orientation == 6 else (48, 80, 3))
    assert np.abs(pixels.astype(int) - expected).mean() < 4
    info = probe(data)
    assert (info.format, info.width, info.height) == (format, *expected.shape[1::-1])
    with pytest.raises(DecodeError):
        rgb(data[: len(data) // 2])
    with pytest.raises(TooLarge, match="80 x 48" if orientation == 1 else "pixels are more than"):
        rgb(data, max_pixels=100)


def test_a_heic_picture_without_its_package_costs_itself_and_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    heif._register_opener.cache_clear()
    data = (24).to_bytes(4, "big") + b"ftypmif1" + bytes(4) + b"mif1heic" + bytes(40)
    with pytest.raises(DecodeError, match=r"a HEIC picture needs the package 'pillow-heif'.*diptych\[heif\]"):
        rgb(data)
    heif._register_opener.cache_clear()


def test_exact_jpeg_is_what_pil_decodes():
    data = saved(Image.fromarray(picture(200, 300)), "JPEG", quality=90)
    np.testing.assert_array_equal(rgb(data, exact=True, min_side=32), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("min_side", [1, 50, 99, 100, 101, 200, 400])
def test_scaled_jpeg_never_falls_below_the_short_side(min_side):
    data = saved(Image.fromarray(picture(200, 300)), "JPEG", quality=95)
    pixels = rgb(data, min_side=min_side)
    assert min(pixels.shape[:2]) >= min(min_side, 200)
    assert pixels.shape[0] / pixels.shape[1] == pytest.approx(2 / 3, abs=0.02)
    if min_side <= 50:
        assert pixels.shape[0] < 100  # it is indeed scaled
    whole = np.asarray(Image.fromarray(picture(200, 300)).resize(pixels.shape[1::-1], Image.Resampling.BOX)).astype(int)
    assert np.abs(whole - pixels).mean() < 3


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_undone_as_pil_does(orientation, fast):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(picture()), "JPEG", quality=95, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))).astype(int)
    pixels = rgb(data, min_side=48) if fast else rgb(data, exact=True)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).max() <= (6 if fast else 0)
    assert (probe(data).width, probe(data).height) == (expected.shape[1], expected.shape[0])


def test_orientation_of_png_and_tiff():
    exif = Image.Exif()
    exif[0x0112] = 6
    for format in ("PNG", "TIFF"):
        data = saved(Image.fromarray(picture()), format, exif=exif)
        np.testing.assert_array_equal(rgb(data), np.rot90(picture(), -1))
        assert (probe(data).width, probe(data).height) == (48, 80)


def test_cmyk_jpeg_goes_through_pil_also_on_the_fast_path():
    data = saved(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=95)
    pixels = rgb(data, min_side=16)
    assert np.abs(pixels.astype(int) - picture()).mean() < 4


def test_sixteen_bits_are_scaled_not_clipped():
    grey = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    pixels = rgb(saved(Image.fromarray(grey), "PNG"))
    np.testing.assert_array_equal(pixels[..., 0], np.round(grey / 257.0).astype(np.uint8))
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_sixteen_bit_colour_png():
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + struct.pack(">6H", 65535, 32896, 0, 257, 257, 257)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert rgb(data).tolist() == [[[255, 128, 0], [1, 1, 1]]]


def test_transparency_shows_white_in_every_mode():
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2] = (200, 10, 30, 255)
    rgba[3] = (0, 0, 0, 128)
    image = Image.fromarray(rgba)
    for data in (encode_png(rgba), encode_webp(rgba, lossless=True)):
        pixels = rgb(data)
        assert pixels[0, 0].tolist() == [200, 10, 30]
        assert pixels[2, 0].tolist() == [255] * 3
        assert pixels[3, 0].tolist() == [127] * 3
        np.testing.assert_array_equal(decode_rgba(BytesImage(data)), rgba)
    np.testing.assert_array_equal(decode(ArrayImage(rgba)), pixels)
    grey = rgb(saved(image.convert("LA"), "PNG"))
    assert grey[2, 0].tolist() == [255] * 3
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([9, 9, 9, 50, 60, 70])
    assert rgb(saved(palette, "PNG", transparency=0)).tolist() == [[[255] * 3, [50, 60, 70]]]
    assert rgb(saved(Image.new("1", (2, 2), 1), "PNG")).tolist() == [[[255] * 3] * 2] * 2


def test_opaque_images_get_an_alpha():
    assert (decode_rgba(BytesImage(encode_png(picture())))[..., 3] == 255).all()


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_animations_give_their_first_frame(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert rgb(data)[0, 0].tolist() == [255, 0, 0]
    assert probe(data).frames == 3


def test_bombs_are_refused_by_their_header():
    data = saved(Image.new("1", (4000, 3000)), "PNG")
    with pytest.raises(DecodeError, match=r"4,000 x 3,000 = 12,000,000 pixels are more than the limit of 1,000,000"):
        rgb(data, max_pixels=1_000_000)
    huge = saved(Image.new("1", (20_000, 10_000)), "PNG")  # beyond PIL's own limit
    for call in (lambda: rgb(huge), lambda: probe(huge)):
        with pytest.raises(DecodeError, match=r"200,000,000 pixels .* limit of 100,000,000"):
            call()


def broken_files():
    jpeg = saved(Image.fromarray(picture(200, 300)), "JPEG", quality=95)
    progressive = saved(Image.fromarray(picture(200, 300)), "JPEG", quality=95, progressive=True)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    png, webp = encode_png(noise), encode_webp(noise)
    return {
        "cut jpeg": jpeg[: len(jpeg) // 2],
        "cut jpeg with an end marker": jpeg[: len(jpeg) // 2] + b"\xff\xd9",
        "cut progressive jpeg": progressive[: len(progressive) // 2],
        "cut png": png[: len(png) // 2],
        "cut webp": webp[: len(webp) // 2],
        "header only": jpeg[:4],
        "text": b"<html>404 not found</html>",
        "empty": b"",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage",
    }


@pytest.mark.parametrize("kind", list(broken_files()))
@pytest.mark.parametrize("options", [{"min_side": 32}, {"exact": True}])
def test_broken_files_are_errors_that_name_the_file(kind, options):
    with pytest.raises(DecodeError) as caught:
        decode(BytesImage(broken_files()[kind], "shop/7.jpg"), **options)
    assert "shop/7.jpg" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_byte_string_decodes_or_is_a_decode_error():
    rng = np.random.default_rng(1)
    whole = [saved(Image.fromarray(picture(40, 40)), f) for f in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")]
    for data in whole:
        for _ in range(25):
            damaged = bytearray(data)
            for place in rng.integers(0, len(damaged), 6):
                damaged[place] = rng.integers(256)
            for options in ({"min_side": 16}, {"exact": True}):
                try:
                    pixels = rgb(bytes(damaged), max_pixels=1_000_000, **options)
                except DecodeError:
                    continue
                assert pixels.dtype == np.uint8
                assert pixels.shape[2] == 3


def test_missing_file_and_wrong_pixels(tmp_path: Path):
    with pytest.raises(DecodeError, match=r"gone\.png: cannot be read: No such file"):
        decode(FileImage(tmp_path / "gone.png"))
    with pytest.raises(DecodeError, match=r"float64 \[4, 4, 3\]"):
        decode(ArrayImage(np.zeros((4, 4, 3))))
    with pytest.raises(DecodeError, match="floating-point"):
        rgb(saved(Image.new("F", (4, 4)), "TIFF"))
