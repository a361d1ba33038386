"""A picture in a request: base64 or a data URL, held against the limits before it is decoded, and decoded before it waits."""

from __future__ import annotations

import base64
import binascii
import io
import warnings

from PIL import Image

from diptych.core.errors import DecodeError
from diptych.core.image import ArrayImage, BytesImage, ImageSource
from diptych.data.media.decode import FORMATS, decode
from diptych.serve.limits import Limits
from diptych.serve.refusals import Refused

KEPT_DECODED = 2_000_000
"""Pixels. A larger picture waits in the queue as the bytes that came and is decoded a second time, which keeps the queue small."""


def picture_of(encoded: str, name: str, limits: Limits) -> ImageSource:
    """The picture behind base64 or a data URL. Raises Refused: 400 when it is no sound image, 413 when it has too many pixels."""
    data = _bytes_of(encoded, name)
    _refuse_large(data, name, limits.image_pixels)
    try:
        return kept(BytesImage(data, name), name, limits)
    except DecodeError as error:
        raise Refused(400, f"{name} is not an image that can be read: {error.problem}") from None


def kept(image: ImageSource, name: str, limits: Limits) -> ImageSource:
    """The picture as it waits: decoded, or as it came where it is large. Raises DecodeError."""
    pixels_HWC = decode(image, exact=True, max_pixels=limits.image_pixels)
    height, width = pixels_HWC.shape[:2]
    return ArrayImage(pixels_HWC, name) if height * width <= KEPT_DECODED else image


def _bytes_of(encoded: str, name: str) -> bytes:
    head, comma, rest = encoded.partition(",")
    if encoded.startswith("data:"):
        if not comma or not head.endswith(";base64"):
            raise Refused(400, f"{name} is a data URL without base64 content (expected data:image/png;base64,...)")
        encoded = rest
    elif encoded.startswith(("http://", "https://", "file:")):
        raise Refused(400, f"{name} is an address; this service fetches nothing (expected the image itself, in base64)")
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, f"{name} is not base64 (expected base64, or data:image/png;base64,...)") from None
    if not data:
        raise Refused(400, f"{name} is empty (expected an image)")
    return data


def _refuse_large(data: bytes, name: str, limit: int) -> None:
    """By the header alone. Frames are not counted: a file may hold a million of them, and only the first is shown."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        raise Refused(413, f"{name} has far too many pixels (expected at most {limit:,} in all)") from None
    except Exception:  # decoders raise anything on hostile bytes; decoding says what is wrong
        return
    if width * height > limit:
        raise Refused(413, f"{name} has {width} x {height} pixels (expected at most {limit:,} in all)")
