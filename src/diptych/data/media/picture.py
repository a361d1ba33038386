"""One picture, and several: uint8 RGB of 8 bits a channel, as `decode` makes them. More bits or bands: see `raster`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diptych.core.disk.paths import PICTURE_SUFFIXES
from diptych.core.errors import DecodeError
from diptych.core.image import ArrayImage
from diptych.core.media import MediaFacts, MediaItem, MediaLimit, Source
from diptych.data.media.decode import MAX_PIXELS, Pixels, decode, encode_png, encode_webp, probe
from diptych.data.media.encoded import in_memory, read_part, refuse_elements

ENDINGS = {"jpeg": "jpg", "tiff": "tif", "heif": "heic", "dicom": "dcm"}
WEBP_LIMIT = 16_383  # pixels per side


@dataclass(frozen=True, slots=True)
class Picture:
    """The medium of `Sample.image`."""

    name: str = "image"
    suffixes: tuple[str, ...] = PICTURE_SUFFIXES
    limit: MediaLimit = MediaLimit(bytes=1 << 30, elements=MAX_PIXELS)

    def decode(self, item: MediaItem, *, limit: MediaLimit | None = None, min_side: int = 0, exact: bool = False) -> Pixels:
        """uint8 [H, W, 3]; `min_side` and `exact` as in `data.media.decode.decode`."""
        return decode(item.parts[0], min_side=min_side, exact=exact, max_pixels=(limit or self.limit).elements)

    def thumbnail(self, item: MediaItem, *, side: int = 0, limit: MediaLimit | None = None) -> Pixels:
        return self.decode(item, limit=limit, min_side=side)

    def facts(self, content: Pixels) -> MediaFacts:
        return MediaFacts(content.shape, str(content.dtype))

    def encode(self, part: Source) -> tuple[bytes, str]:
        return encoded_picture(part, self.name)


@dataclass(frozen=True, slots=True)
class Pictures:
    """Several pictures that belong together: the pages of a document, the views of an object, the pictures of an article."""

    name: str = "images"
    suffixes: tuple[str, ...] = ()
    limit: MediaLimit = MediaLimit(bytes=1 << 30, elements=MAX_PIXELS, parts=64)

    def decode(self, item: MediaItem, *, limit: MediaLimit | None = None, min_side: int = 0) -> tuple[Pixels, ...]:
        """Each uint8 [H, W, 3], of any size, in order. The limit applies to all of them together."""
        limit = limit or self.limit
        return tuple(decode_part(part, item.medium, limit, min_side) for part in read_pictures(item, limit))

    def thumbnail(self, item: MediaItem, *, side: int = 0, limit: MediaLimit | None = None) -> Pixels:
        """The first picture, which is what `Sample.image` is as well."""
        return decode_part(item.parts[0], item.medium, limit or self.limit, side)

    def facts(self, content: tuple[Pixels, ...]) -> MediaFacts:
        """The number of pictures, and the largest height and width among them."""
        tall, wide = (max(pixels_HWC.shape[axis] for pixels_HWC in content) for axis in (0, 1))
        return MediaFacts((len(content), tall, wide, 3), "uint8")

    def encode(self, part: Source) -> tuple[bytes, str]:
        return encoded_picture(part, self.name)


def decode_part(part: Source, medium: str, limit: MediaLimit, min_side: int = 0) -> Pixels:
    """One picture of a medium that has several; errors name that medium."""
    try:
        return decode(part, min_side=min_side, max_pixels=limit.elements)
    except DecodeError as error:
        raise DecodeError(error.problem, file=error.file, expected=error.expected, medium=medium) from error


def read_pictures(item: MediaItem, limit: MediaLimit) -> tuple[Source, ...]:
    """The pictures of an item in memory, read once, their pixels held against the limit together and by their headers."""
    parts = in_memory(item, limit).parts
    pixels = 0
    for part in parts:
        if isinstance(part, ArrayImage):
            pixels += part.pixels_HWC.shape[0] * part.pixels_HWC.shape[1]
        else:
            pixels += _pixels(part.read(), part.name, item.medium, limit)
        refuse_elements(pixels, "pixels", item, limit)
    return parts


def _pixels(data: bytes, name: str, medium: str, limit: MediaLimit) -> int:
    try:
        info = probe(data, name=name, max_pixels=limit.elements)
    except DecodeError as error:
        raise DecodeError(error.problem, file=error.file, expected=error.expected, medium=medium) from error
    return info.width * info.height


def stored_format(height: int, width: int) -> str:
    """Format of pixels in a shard: lossless "webp", or "png" where a side is longer than WebP's format allows."""
    return "png" if max(height, width) > WEBP_LIMIT else "webp"


def encoded_picture(part: Source, medium: str) -> tuple[bytes, str]:
    """Encoded bytes as they are; pixels in their `stored_format`."""
    if isinstance(part, ArrayImage):
        pixels_HWC = np.asarray(part.pixels_HWC)
        kind = stored_format(*pixels_HWC.shape[:2])
        return (encode_png(pixels_HWC) if kind == "png" else encode_webp(pixels_HWC, lossless=True)), kind
    data = read_part(part, medium)
    kind = probe(data, name=part.name).format.lower()
    return data, ENDINGS.get(kind, kind)
