"""Image decoding: bytes to uint8 RGB, upright, on white; or a `DecodeError` with the reason.

Training decodes JPEG with libjpeg-turbo at a reduced scale (`min_side`); evaluation decodes with PIL, whose pixels published
models were measured with (`exact=True`). What people get wrong: EXIF rotation, transparent pixels of any colour, 16-bit greys
that are clipped instead of scaled, CMYK, and files that end early and come out half grey.

Letters: H W pixels, C channels.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from diptych.core.errors import DecodeError, TooLarge
from diptych.core.image import ArrayImage, ImageSource, content_untold
from diptych.data.media.formats import dicom, heif
from diptych.data.media.formats.jpeg_scans import refuse_scans, scan_count
from diptych.data.media.weighted_semaphore import WeightedSemaphore

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What is decoded, HEIC (`heif`) and DICOM of one frame (`dicom`) beside them.
PIL knows many more, some of them programs rather than pictures (EPS)."""
MAX_PIXELS = 100_000_000
STRIPE = 1 << 20  # pixels
BYTES_A_PIXEL = 24
"""At the worst moment, of the worst format (WebP, whose library holds several copies); a PNG with transparency takes a third."""
DECODING = WeightedSemaphore(MAX_PIXELS)
"""Pixels that the threads of a process decode at once: with `BYTES_A_PIXEL` 2.4 GB, however many threads there are."""
ORIENTATION = 0x0112
ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Image metadata from its header. Width and height are of the upright picture; `format` is one of `FORMATS`, HEIF or DICOM."""

    format: str
    width: int
    height: int
    mode: str
    frames: int = 1


def probe(data: bytes, *, name: str = "<bytes>", max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Format and size from the header alone; pixels are not decoded, so data after a valid header may still be broken."""
    if dicom.is_dicom(data):
        return _dicom_info(data, name, max_pixels)
    try:
        with _open(data, name, max_pixels) as image:
            return ImageInfo(_format(image), *_upright_size(image), image.mode, getattr(image, "n_frames", 1))
    except DecodeError:
        raise
    except Exception as error:  # decoders raise anything on hostile bytes
        raise _broken_picture(data, name, error) from error


def upright_size(data: bytes, *, name: str = "<bytes>", max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height by the header, as `probe` gives them, without looking for frames: a file may hold a million of them."""
    if dicom.is_dicom(data):
        info = _dicom_info(data, name, max_pixels)
        return info.width, info.height
    try:
        with _open(data, name, max_pixels) as image:
            return _upright_size(image)
    except DecodeError:
        raise
    except Exception as error:  # decoders raise anything on hostile bytes
        raise _broken_picture(data, name, error) from error


def decode(source: ImageSource, *, min_side: int = 0, exact: bool = False, max_pixels: int = MAX_PIXELS) -> Pixels:
    """An image as uint8 RGB [H, W, 3]: upright, first frame, transparency composited on white.

    min_side    decode a JPEG at the smallest scale (of eighths) whose short side is at least this many pixels; 0: full size
    exact       PIL at full size, regardless of `min_side` says: for evaluation
    max_pixels  refuse larger images by their header, and JPEGs of very many scans, before anything is decoded

    >>> import numpy as np
    >>> from diptych.core.image import ArrayImage
    >>> decode(ArrayImage(np.zeros((2, 3, 4), np.uint8)))[0, 0].tolist()  # transparent: white
    [255, 255, 255]
    """
    if isinstance(source, ArrayImage):
        return on_white(_check_pixels(source, max_pixels))
    data = _read(source)
    with content_untold(source):
        if min_side > 0 and not exact and data[:3] == b"\xff\xd8\xff":
            pixels_HWC = _jpeg(data, source.name, min_side, max_pixels)
            if pixels_HWC is not None:
                return pixels_HWC
        return _pil(data, source.name, max_pixels, _on_white)


def decode_rgba(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """An image as uint8 RGBA [H, W, 4], alpha kept; 255 everywhere for an image without."""
    if isinstance(source, ArrayImage):
        return _with_alpha(_check_pixels(source, max_pixels))
    with content_untold(source):
        return _with_alpha(_pil(_read(source), source.name, max_pixels, _eight_bits))


def _with_alpha(pixels_HWC: Pixels) -> Pixels:
    if pixels_HWC.shape[2] == 4:
        return pixels_HWC
    return np.dstack([pixels_HWC, np.full(pixels_HWC.shape[:2], 255, np.uint8)])


def encode_webp(pixels_HWC: Pixels, *, quality: int = 90, lossless: bool = False) -> bytes:
    """RGB or RGBA as WebP. `lossless` keeps every value, also the colour of transparent pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).save(file, "WEBP", quality=quality, lossless=lossless, exact=lossless, method=4)
    return file.getvalue()


def small_webp(source: ImageSource, side: int, *, max_pixels: int = MAX_PIXELS, quality: int = 85) -> bytes:
    """A thumbnail as WebP: at most `side` pixels per side, never enlarged."""
    picture = Image.fromarray(decode(source, min_side=side, max_pixels=max_pixels))
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=quality)
    return file.getvalue()


def encode_png(pixels_HWC: Pixels) -> bytes:
    """RGB or RGBA as PNG: lossless, read everywhere."""
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).save(file, "PNG")
    return file.getvalue()


def encode_exactly(image: ImageSource) -> bytes:
    """Bytes that decode to the very same pixels: those of a file as they are, pixels as PNG."""
    return encode_png(image.pixels_HWC) if isinstance(image, ArrayImage) else image.read()


# ---------------------------------------------------------------- the two decoders


def _jpeg(data: bytes, name: str, min_side: int, max_pixels: int) -> Pixels | None:
    """libjpeg-turbo at a reduced scale; None if PIL must decide (CMYK, damage)."""
    with _open(data, name, max_pixels) as image:  # reads the header only
        if image.mode not in ("RGB", "L"):
            return None
        try:
            pixels_HWC: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=min_side, min_width=min_side)
        except ValueError:
            return None
        return _upright(pixels_HWC, _orientation(image))


def _refuse_half_grey(data: bytes, name: str) -> None:
    """PIL takes a JPEG whose scan stops early before a proper end marker and fills the rest with grey; libjpeg-turbo tells."""
    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1)  # an eighth of the size
    except ValueError as error:
        if "premature end" in str(error).lower():
            raise _broken_picture(data, name, error) from error


def _pil(data: bytes, name: str, max_pixels: int, pixels_of: Callable[[Any, str], Pixels]) -> Pixels:
    """Any format by PIL, DICOM by pydicom; `pixels_of` makes the array of the upright image. Waits where other threads decode much."""
    if dicom.is_dicom(data):
        return dicom.read_dicom(data, name=name, max_pixels=max_pixels).rgb
    try:
        with _open(data, name, max_pixels) as image, DECODING.reserved(image.width * image.height):
            image.load()
            if _format(image) == "JPEG":
                _refuse_half_grey(data, name)
            upright = ImageOps.exif_transpose(image) if _orientation(image) > 1 else image
            return pixels_of(upright, name)
    except DecodeError:
        raise
    except Exception as error:  # decoders raise anything on hostile bytes
        raise _broken_picture(data, name, error) from error


def _open(data: bytes, name: str, max_pixels: int) -> Any:
    """The opened, not yet decoded image; unknown ones are refused, and what is too large or asks for too much work."""
    if not data:
        raise DecodeError("the file is empty", file=name, expected="an image")
    scans = scan_count(data, name)
    if phone := heif.is_heif(data):
        heif.register(name)
    try:
        image = Image.open(io.BytesIO(data), formats=(heif.FORMAT,) if phone else FORMATS)
    except Image.DecompressionBombError as error:
        match = re.search(r"\d+", str(error))
        count = int(match.group()) if match else 0
        raise TooLarge(f"{count:,} pixels are more than the limit of {max_pixels:,}", file=name) from error
    except UnidentifiedImageError as error:
        start = data[:8].hex(" ")
        formats = ", ".join((*FORMATS, "HEIC"))
        raise DecodeError(f"not an image: {len(data):,} bytes that start with {start}", file=name, expected=formats) from error
    except Exception as error:  # decoders raise anything on hostile bytes
        raise _broken_picture(data, name, error) from error
    _refuse_bomb(*image.size, name, max_pixels)
    refuse_scans(scans, *image.size, name, max_pixels)
    return image


def _dicom_info(data: bytes, name: str, max_pixels: int) -> ImageInfo:
    dataset = dicom.dataset_of(data, name=name)
    height, width = (int(dataset.get(key) or 0) for key in ("Rows", "Columns"))
    if not height or not width:
        raise DecodeError("it has no pixels", file=name, expected="a DICOM image")
    _refuse_bomb(width, height, name, max_pixels)
    mode = "L" if dataset.get("SamplesPerPixel", 1) == 1 else "RGB"
    return ImageInfo("DICOM", width, height, mode, int(dataset.get("NumberOfFrames") or 1))


def _on_white(image: Any, name: str) -> Pixels:
    """RGB of a loaded image of any mode, transparency on white; in stripes, so that the picture is not there three times at once."""
    width, height = image.size
    rows = max(1, STRIPE // max(1, width))
    if image.mode not in ("RGB", "P", "L", *ALPHA_MODES) or rows >= height:
        return on_white(_eight_bits(image, name))
    white_HWC = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        white_HWC[top:bottom] = on_white(_eight_bits(image.crop((0, top, width, bottom)), name))
    return white_HWC


def _eight_bits(image: Any, name: str) -> Pixels:
    """RGB or RGBA of a loaded image of any mode."""
    mode = image.mode
    if mode.startswith("I;16") or mode == "I":
        grey_HW = np.asarray(image).astype(np.int64)
        if grey_HW.size and not 0 <= grey_HW.min() <= grey_HW.max() <= 65535:
            raise DecodeError("32-bit values have no agreed range", file=name, expected="8 or 16 bits a channel")
        grey_HW = (grey_HW * 255 + 32767) // 65535
        return np.repeat(grey_HW.astype(np.uint8)[..., None], 3, axis=2)
    if mode == "F":
        raise DecodeError("floating-point pixels have no agreed range", file=name, expected="8 or 16 bits a channel")
    target = "RGBA" if mode in ALPHA_MODES or "transparency" in image.info else "RGB"
    return np.array(image if mode == target else image.convert(target))


# ---------------------------------------------------------------- parts


def _read(source: ImageSource) -> bytes:
    try:
        data = source.read()
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror or error}", file=source.name) from error
    if not data:
        raise DecodeError("the file is empty", file=source.name, expected="an image")
    return data


def _check_pixels(source: ArrayImage, max_pixels: int) -> Pixels:
    pixels_HWC = source.pixels_HWC
    if pixels_HWC.dtype != np.uint8 or pixels_HWC.ndim != 3 or pixels_HWC.shape[2] not in (3, 4) or not pixels_HWC.size:
        came = f"{pixels_HWC.dtype} {list(pixels_HWC.shape)}"
        raise DecodeError(f"pixels are {came}", file=source.name, expected="uint8 [H, W, 3] or [H, W, 4]")
    _refuse_bomb(pixels_HWC.shape[1], pixels_HWC.shape[0], source.name, max_pixels)
    return pixels_HWC


def _refuse_bomb(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        size = f"{width:,} x {height:,} = {width * height:,} pixels"
        raise TooLarge(f"{size} are more than the limit of {max_pixels:,}", file=name)


def on_white(pixels_HWC: Pixels) -> Pixels:
    """RGB as it is, RGBA composited on white."""
    if pixels_HWC.shape[2] == 3:
        return pixels_HWC
    white_HWC = np.empty((*pixels_HWC.shape[:2], 3), np.uint8)
    rows = max(1, STRIPE // max(1, pixels_HWC.shape[1]))
    for top in range(0, len(pixels_HWC), rows):  # 16 bits a channel of all at once would be several times the picture
        part_HWC = pixels_HWC[top : top + rows]
        alpha_HW1 = part_HWC[..., 3:].astype(np.uint16)
        mixed_HWC = part_HWC[..., :3] * alpha_HW1 + 255 * (255 - alpha_HW1)  # at most 255 * 255: fits
        white_HWC[top : top + rows] = (mixed_HWC + np.uint16(127)) // np.uint16(255)
    return white_HWC


def _upright_size(image: Any) -> tuple[int, int]:
    width, height = image.size
    if image.format != "TIFF" and _orientation(image) >= 5:  # PIL turns a TIFF's size itself
        return height, width
    return width, height


def _orientation(image: Any) -> int:
    """EXIF orientation 1..8; 1 if there is none or the block is damaged, so that the picture can still be read."""
    try:
        value = int(image.getexif().get(ORIENTATION, 1))
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, struct.error):
        return 1
    return value if 1 <= value <= 8 else 1


def _upright(pixels_HWC: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation: 2-4 mirror and turn in place, 5-8 also swap the sides."""
    if orientation >= 5:
        pixels_HWC = pixels_HWC.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels_HWC = pixels_HWC[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels_HWC = pixels_HWC[::-1]
    return np.ascontiguousarray(pixels_HWC)


def _format(image: Any) -> str:
    return "JPEG" if image.format == "MPO" else str(image.format)  # MPO: a JPEG with further pictures after it


def _broken_picture(data: bytes, name: str, error: Exception) -> DecodeError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DecodeError(f"cannot be decoded: {reason} ({len(data):,} bytes)", file=name)
