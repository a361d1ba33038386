"""A whole slide: gigapixels that are read by region and level, and never decoded whole.

Letters: H W pixels.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from diptych.core.cache import cache_folder
from diptych.core.errors import DecodeError, MissingExtra
from diptych.core.files import write_atomic
from diptych.core.image import FileImage
from diptych.core.media import MediaFacts, MediaItem, MediaLimit, Pixels, Source
from diptych.core.paths import is_file, leads_out
from diptych.data.media.decode import on_white
from diptych.data.media.encoded import read_part, read_parts, refuse_elements

SIDE = 512
"""Pixels of the longer side of a thumbnail whose size nobody asked for."""


class SlideReader(Protocol):
    """An open slide. Level 0 is the largest; places are in pixels of level 0."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of level 0."""

    @property
    def levels(self) -> Sequence[float]:
        """How many times smaller each level is than level 0."""

    @property
    def spacing(self) -> float | None:
        """Micrometres a pixel of level 0, None where the file does not say."""

    def region(self, x: int, y: int, width: int, height: int, *, level: int = 0) -> Pixels:
        """uint8 RGB [height, width, 3]: so many pixels of that level from the place (x, y); white outside the slide."""

    def thumbnail(self, side: int) -> Pixels:
        """The whole slide in uint8 RGB, its longer side at most `side` pixels."""


@dataclass(frozen=True, slots=True)
class Slide:
    """A slide file that OpenSlide reads (the extra "slides"). It needs a file: a slide in a shard is copied to the cache folder
    when it is first opened."""

    name: str = "slide"
    suffixes: tuple[str, ...] = ("svs", "ndpi", "scn", "bif")
    limit: MediaLimit = MediaLimit(bytes=16 << 30, elements=1 << 40)

    def decode(self, item: MediaItem, *, limit: MediaLimit | None = None) -> SlideReader:
        """The open slide; nothing but its header is read. Raises MissingExtra without OpenSlide."""
        limit = limit or self.limit
        slides = _openslide()
        file = _file(item, limit)
        try:
            reader = _OpenSlideReader(slides.OpenSlide(str(file)))
        except (slides.OpenSlideError, OSError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DecodeError(f"is no slide that can be opened: {reason}", file=item.name, medium=item.medium) from error
        width, height = reader.size
        refuse_elements(width * height, "pixels", item, limit)
        return reader

    def thumbnail(self, item: MediaItem, *, side: int = 0, limit: MediaLimit | None = None) -> Pixels:
        return self.decode(item, limit=limit).thumbnail(side or SIDE)

    def facts(self, content: SlideReader) -> MediaFacts:
        width, height = content.size
        return MediaFacts((height, width, 3), "uint8")

    def encode(self, part: Source) -> tuple[bytes, str]:
        return read_part(part, self.name), _ending(part)


def _ending(part: Source) -> str:
    """That of its name: OpenSlide looks at it."""
    ending = Path(part.name).suffix.lstrip(".").lower()
    return ending if ending.isalnum() else "tif"


def _openslide() -> Any:
    try:
        return importlib.import_module("openslide")
    except ModuleNotFoundError as error:
        raise MissingExtra("openslide-python", "slides", needed_for="reading a whole slide") from error


def _file(item: MediaItem, limit: MediaLimit) -> Path:
    """The slide as a file of its own."""
    part = item.parts[0]
    if isinstance(part, FileImage):
        if not is_file(part.path) or (part.within is not None and leads_out(part.path, part.within)):
            read_part(part, item.medium)  # which says why it cannot be read
        if part.path.stat().st_size <= limit.bytes:
            return part.path
    data = read_parts(item, limit)[0]
    copy = cache_folder() / "slides" / f"{hashlib.sha256(data).hexdigest()[:24]}.{_ending(part)}"
    if not copy.is_file():
        write_atomic(copy, data)
    return copy


class _OpenSlideReader:
    def __init__(self, slide: Any) -> None:
        self._slide = slide

    @property
    def size(self) -> tuple[int, int]:
        width, height = self._slide.dimensions
        return int(width), int(height)

    @property
    def levels(self) -> Sequence[float]:
        return tuple(map(float, self._slide.level_downsamples))

    @property
    def spacing(self) -> float | None:
        value = self._slide.properties.get("openslide.mpp-x")
        return None if value is None else float(value)

    def region(self, x: int, y: int, width: int, height: int, *, level: int = 0) -> Pixels:
        return on_white(np.asarray(self._slide.read_region((x, y), level, (width, height)).convert("RGBA")))

    def thumbnail(self, side: int) -> Pixels:
        return np.asarray(self._slide.get_thumbnail((side, side)).convert("RGB"))
