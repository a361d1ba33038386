"""A whole slide: gigapixels that are read by region and level, and never decoded whole.

Letters: H W pixels.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from diptych.core.disk.cache import cache_folder
from diptych.core.disk.files import write_atomic
from diptych.core.disk.paths import escapes_folder, is_file
from diptych.core.errors import ConfigError, DecodeError, MissingExtra
from diptych.core.image import FileImage
from diptych.core.media import MediaFacts, MediaItem, MediaLimit, Pixels, Source
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
        """Downsampling factor of each level relative to level 0."""

    @property
    def spacing(self) -> float | None:
        """Micrometres per pixel of level 0; None if the file does not give it."""

    def region(self, x: int, y: int, width: int, height: int, *, level: int = 0) -> Pixels:
        """uint8 RGB [height, width, 3]: this many pixels of that level from the place (x, y); white outside the slide."""

    def thumbnail(self, side: int) -> Pixels:
        """The whole slide in uint8 RGB, its longer side at most `side` pixels."""


@dataclass(frozen=True, slots=True)
class Slide:
    """A slide file that OpenSlide (the extra "slides") or tiffslide (the extra "tiffslide", without a library of its own) reads.
    It needs a file: a slide in a shard is copied to the cache folder when it is first opened.

    engine  which of them; "auto" takes OpenSlide where it is installed
    """

    name: str = "slide"
    suffixes: tuple[str, ...] = ("svs", "ndpi", "scn", "bif")
    limit: MediaLimit = MediaLimit(bytes=16 << 30, elements=1 << 40)
    engine: Literal["auto", "openslide", "tiffslide"] = "auto"

    def decode(self, item: MediaItem, *, limit: MediaLimit | None = None) -> SlideReader:
        """The open slide; nothing but its header is read. Raises MissingExtra without either library."""
        limit = limit or self.limit
        opened, broken, spacing = _library(self.engine)
        file = _file(item, limit)
        try:
            reader = _LibraryReader(opened(str(file)), spacing, item.name, (*broken, RuntimeError))
        except broken as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DecodeError(f"is not a slide that can be opened: {reason}", file=item.name, medium=item.medium) from error
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


def _library(engine: str) -> tuple[Callable[[str], Any], tuple[type[Exception], ...], str]:
    """Function that opens a slide, the errors it raises, and the name of the property that holds the pixel spacing."""
    if engine not in ("auto", "openslide", "tiffslide"):
        raise ConfigError(f"engine is {engine!r} (expected auto | openslide | tiffslide)")
    name = engine if engine != "auto" else "tiffslide" if not _there("openslide") and _there("tiffslide") else "openslide"
    try:
        library = importlib.import_module(name)
    except ModuleNotFoundError as error:
        package, extra = ("tiffslide", "tiffslide") if name == "tiffslide" else ("openslide-python", "slides")
        raise MissingExtra(package, extra, needed_for="reading a whole slide") from error
    if name == "tiffslide":
        return library.TiffSlide, (library.TiffFileError, OSError, ValueError), "tiffslide.mpp-x"
    return library.OpenSlide, (library.OpenSlideError, OSError), "openslide.mpp-x"


def _there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # a module that was hidden
        return False


def _file(item: MediaItem, limit: MediaLimit) -> Path:
    """The slide as a file of its own."""
    part = item.parts[0]
    if isinstance(part, FileImage):
        if not is_file(part.path) or (part.within is not None and escapes_folder(part.path, part.within)):
            read_part(part, item.medium)  # which says why it cannot be read
        if part.path.stat().st_size <= limit.bytes:
            return part.path
    data = read_parts(item, limit)[0]
    copy = cache_folder() / "slides" / f"{hashlib.sha256(data).hexdigest()[:24]}.{_ending(part)}"
    if not copy.is_file():
        write_atomic(copy, data)
    return copy


class _LibraryReader:
    """A slide of OpenSlide, or of tiffslide, which has the same methods."""

    def __init__(self, slide: Any, spacing: str, name: str, broken: tuple[type[Exception], ...]) -> None:
        self._slide, self._spacing, self._name, self._broken = slide, spacing, name, broken

    @property
    def size(self) -> tuple[int, int]:
        width, height = self._slide.dimensions
        return int(width), int(height)

    @property
    def levels(self) -> Sequence[float]:
        return tuple(map(float, self._slide.level_downsamples))

    @property
    def spacing(self) -> float | None:
        value = self._slide.properties.get(self._spacing)
        return float(value) if value is not None and 0 < float(value) < float("inf") else None

    def region(self, x: int, y: int, width: int, height: int, *, level: int = 0) -> Pixels:
        with self._readable(f"at {x},{y} of level {level}"):
            return on_white(np.asarray(self._slide.read_region((x, y), level, (width, height)).convert("RGBA")))

    def thumbnail(self, side: int) -> Pixels:
        with self._readable("as a whole"):
            return np.asarray(self._slide.get_thumbnail((side, side)).convert("RGB"))

    @contextmanager
    def _readable(self, where: str) -> Iterator[None]:
        """A tile whose bytes are broken is found when it is read."""
        try:
            yield
        except self._broken as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DecodeError(f"cannot be read {where}: {reason}", file=self._name, medium="slide") from error
