"""Downloaded pictures as they are stored: decoded within a memory budget, sized as img2dataset sizes them, encoded."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from diptych.core.errors import DecodeError
from diptych.core.image import BytesImage
from diptych.data.media.decode import BYTES_A_PIXEL, decode, upright_size
from diptych.data.media.opencv import area, lanczos
from diptych.data.media.transforms import Pixels
from diptych.data.media.weighted_semaphore import WeightedSemaphore
from diptych.data.web.blur import BLUR_BYTES_A_PIXEL, Box, blurred
from diptych.data.web.download_options import Download

FULL_SIZE = 1 << 20
"""A short side that no picture has: a JPEG is decoded at its own size, by libjpeg-turbo, whose pixels are those of PIL."""
JPEG_BYTES_A_PIXEL = 8
"""Pixels, a copy of them while they are turned upright, and rows as floats."""


def resized(data: bytes, options: Download, *, name: str = "<bytes>", boxes: Sequence[Box] = ()) -> tuple[bytes, dict[str, int]]:
    """The image as it is stored, and its sizes. Waits while others take up the memory that it needs.

    boxes  are blurred before the image is sized

    Raises DecodeError for what is no image, too small or too long, before anything is decoded where the header says so.
    """
    from PIL import Image

    width, height = upright_size(data, name=name)
    _refuse(width, height, options, name)
    a_pixel = JPEG_BYTES_A_PIXEL if data[:3] == b"\xff\xd8\xff" else BYTES_A_PIXEL
    a_pixel += BLUR_BYTES_A_PIXEL if boxes else 0
    with _memory(options.memory).reserved(a_pixel * width * height):
        pixels_HWC = decode(BytesImage(data, name), min_side=FULL_SIZE)
        height, width = pixels_HWC.shape[:2]
        _refuse(width, height, options, name)
        facts = {"original_width": width, "original_height": height, "width": width, "height": height}
        if boxes:
            pixels_HWC = blurred(pixels_HWC, boxes)
        picture = Image.fromarray(_sized(pixels_HWC, options))
        del pixels_HWC
        out = io.BytesIO()
        form, settings = _encoding(options)
        picture.save(out, form, **settings)
    return out.getvalue(), facts | {"width": picture.width, "height": picture.height}


@cache
def _memory(mebibytes: int) -> WeightedSemaphore:
    return WeightedSemaphore(mebibytes * 2**20)


def _encoding(options: Download) -> tuple[str, dict[str, Any]]:
    """PIL's name of the format, and its options."""
    if options.encode == "png":
        return "PNG", {}
    return ("WEBP" if options.encode == "webp" else "JPEG"), {"quality": options.quality}


def _refuse(width: int, height: int, options: Download, name: str) -> None:
    if min(width, height) < options.min_side:
        raise DecodeError(f"is {width} x {height} (expected a short side of at least {options.min_side})", file=name)
    if options.max_aspect and max(width, height) > options.max_aspect * min(width, height):
        raise DecodeError(f"is {width} x {height} (expected sides of at most 1:{options.max_aspect:g})", file=name)
    if options.max_area and width * height > options.max_area:
        raise DecodeError(f"is {width} x {height} (expected at most {options.max_area:,} pixels)", file=name)


def _sized(image_HWC: Pixels, options: Download) -> Pixels:
    """As img2dataset sizes it: sides and margins are rounded as there."""
    height, width = image_HWC.shape[:2]
    size, longest = options.size, options.resize in ("border", "keep_ratio_largest")
    edge = max(width, height) if longest else min(width, height)
    if options.resize == "no" or (options.only_if_bigger and edge <= size):
        return image_HWC
    if edge != size:
        high, wide = (max(1, round(side * (size / edge))) for side in (height, width))
        image_HWC = _scaled(image_HWC, high, wide, options)
    high, wide = image_HWC.shape[:2]
    if options.resize == "border":
        top, left = (size - high) // 2, (size - wide) // 2
        square_HWC = np.full((size, size, 3), 255, np.uint8)
        square_HWC[top : top + high, left : left + wide] = image_HWC
        return square_HWC
    if options.resize == "center_crop":
        top, left = (high - size) // 2, (wide - size) // 2
        return image_HWC[top : top + size, left : left + size]
    return image_HWC


def _scaled(image_HWC: Pixels, height: int, width: int, options: Download) -> Pixels:
    from PIL import Image

    shrinks = height * width < image_HWC.shape[0] * image_HWC.shape[1]
    if options.filters == "pil":
        filter = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
        return np.asarray(Image.fromarray(image_HWC).resize((width, height), filter))
    return (area if shrinks else lanczos)(image_HWC, height, width)
