"""Blur of boxes in a picture, such as faces, as img2dataset blurs them for DataComp.

Each box is grown by a tenth of its longer side; the picture is mixed with its Gaussian blur, whose sigma is a tenth of the longest side
of all boxes, by a mask of the grown boxes that is blurred likewise. Boxes are cut off at the borders of the picture here; img2dataset
leaves one unblurred that, grown, begins outside.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diptych.core.errors import DataError
from diptych.core.image import ArrayImage, BytesImage, content_untold
from diptych.core.media import Pixels
from diptych.core.sample import Sample
from diptych.data.media.decode import decode

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as shares of width and height."""
GROWN = 0.1
BLUR_BYTES_A_PIXEL = 48
"""Floats of the picture, its blur, the mask and what is mixed of them, at most, while boxes are blurred."""
JPEG_QUALITY = 95
"""Of a JPEG file with blurred boxes, as img2dataset's."""


def boxes_of(value: Any, *, field: str) -> tuple[Box, ...]:
    """Boxes of a cell of the links: a list of [left, top, right, bottom], as shares of the sides, or JSON of one; None: no boxes.

    Raises DataError for anything else.
    """
    try:
        rows = json.loads(value) if isinstance(value, str) else value
        boxes = [tuple(float(side) for side in row) for row in rows or ()]
    except (TypeError, ValueError) as error:
        raise DataError(f"holds {value!r:.60}", field=field, expected="a list of [left, top, right, bottom] in 0..1") from error
    for box in boxes:
        if len(box) != 4 or not all(math.isfinite(side) for side in box) or max(map(abs, box)) > 2:
            raise DataError(f"holds the box {list(box)}", field=field, expected="[left, top, right, bottom] as shares in 0..1")
    return tuple((box[0], box[1], box[2], box[3]) for box in boxes)


def blurred(image_HWC: Pixels, boxes: Sequence[Box]) -> Pixels:
    """The picture with its boxes blurred. A box without a pixel changes nothing."""
    from scipy.ndimage import gaussian_filter

    height, width = image_HWC.shape[:2]
    pixel_boxes = [
        (int(left * width), int(top * height), int(right * width), int(bottom * height)) for left, top, right, bottom in boxes
    ]
    longest = [max(right - left, bottom - top) for left, top, right, bottom in pixel_boxes]
    sigma = GROWN * max(longest, default=0)
    if sigma <= 0:
        return image_HWC
    mask_HW1 = np.zeros((height, width, 1), np.float32)
    for (left, top, right, bottom), side in zip(pixel_boxes, longest, strict=True):
        rows = slice(max(0, int(top - GROWN * side)), max(0, int(bottom + GROWN * side)))
        columns = slice(max(0, int(left - GROWN * side)), max(0, int(right + GROWN * side)))
        mask_HW1[rows, columns] = 1
    if not mask_HW1.any():
        return image_HWC
    radius = math.ceil(4 * sigma)
    window = tuple(
        slice(max(0, int(hit.min()) - 2 * radius), int(hit.max()) + 1 + 2 * radius) for hit in np.nonzero(mask_HW1[..., 0])
    )  # outside of it nothing changes
    settings: dict[str, Any] = {"sigma": (sigma, sigma, 0), "radius": (radius, radius, 0), "mode": "mirror"}
    part_HWC = image_HWC[window].astype(np.float32) / 255
    soft_HW1 = gaussian_filter(mask_HW1[window], **settings)
    mixed_HWC = part_HWC * (1 - soft_HW1) + gaussian_filter(part_HWC, **settings) * soft_HW1
    out_HWC = image_HWC.copy()
    out_HWC[window] = np.where(soft_HW1 > 0, np.rint(mixed_HWC * 255).clip(0, 255).astype(np.uint8), image_HWC[window])
    return out_HWC


def with_blurred_boxes(sample: Sample, boxes: Sequence[Box]) -> Sample:
    """The sample with boxes of its image blurred: a JPEG file becomes one of quality 95 without metadata, any other image pixels.

    Raises DataError for a sample whose images are media, such as several pictures, and DecodeError or OSError for an image that cannot be
    read: nothing with a box leaves this function unblurred.
    """
    from PIL import Image

    image = sample.own_image
    if image is None:
        raise DataError("boxes and no image of its own", field="image", expected="one image a sample")
    with content_untold(image):
        pixels_HWC = decode(image, exact=True)
        jpeg = not isinstance(image, ArrayImage) and image.read()[:3] == b"\xff\xd8\xff"
    pixels_HWC = blurred(pixels_HWC, boxes)
    if not jpeg:
        return replace(sample, image=ArrayImage(pixels_HWC))
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).save(file, "JPEG", quality=JPEG_QUALITY)
    return replace(sample, image=BytesImage(file.getvalue(), image.name))


def hash_of_boxes(cells: Iterable[Any]) -> str:
    """Sixteen hex digits of a column of boxes, in its order."""
    digest = hashlib.sha256()
    for cell in cells:
        digest.update(json.dumps(cell, default=str).encode() + b"\n")
    return digest.hexdigest()[:16]
