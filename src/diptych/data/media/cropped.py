"""A crop of a picture, cut out on access."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from diptych.core.errors import DecodeError
from diptych.core.image import ImageSource
from diptych.data.media.decode import decode


@dataclass(frozen=True, slots=True)
class CroppedImage:
    """The pixels of `source` within `box` (left, top, right, bottom). What of the box lies outside of the picture is black, as in PIL.

    Raises DecodeError if the picture cannot be read, or the box has no area.
    """

    source: ImageSource
    box: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        return f"{self.source.name} cut to {list(self.box)}"

    def read(self) -> bytes:
        """The part as PNG."""
        left, top, right, bottom = self.box
        if right <= left or bottom <= top:
            raise DecodeError(
                f"the box {list(self.box)} has no area", file=self.source.name, expected="left < right, top < bottom"
            )
        part = Image.fromarray(decode(self.source, exact=True)).crop(self.box)
        file = io.BytesIO()
        part.save(file, "PNG", compress_level=1)
        return file.getvalue()


def crop_of(
    pixels_HWC: npt.NDArray[np.uint8], box: tuple[float, float, float, float], *, margin: float = 0.0
) -> npt.NDArray[np.uint8]:
    """The pixels of a box (x0, y0, x1, y1) and of a margin around it, a share of its sides: one at least, none outside the picture."""
    height, width = pixels_HWC.shape[:2]
    x_pad, y_pad = margin * (box[2] - box[0]), margin * (box[3] - box[1])
    x0, y0 = (int(np.clip(np.floor(v), 0, m - 1)) for v, m in ((box[0] - x_pad, width), (box[1] - y_pad, height)))
    x1, y1 = (int(np.clip(np.ceil(v), low + 1, m)) for v, low, m in ((box[2] + x_pad, x0, width), (box[3] + y_pad, y0, height)))
    return np.ascontiguousarray(pixels_HWC[y0:y1, x0:x1])
