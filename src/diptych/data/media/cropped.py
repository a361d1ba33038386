"""A part of a picture, cut out when it is read."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from diptych.core.errors import DecodeError
from diptych.core.image import ImageSource
from diptych.data.media.decode import decode


@dataclass(frozen=True, slots=True)
class CroppedImage:
    """The pixels of `source` within `box` (left, top, right, bottom). What of the box lies outside of the picture is black, as in PIL.

    Raises DecodeError where the picture cannot be read, or the box has no area.
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
