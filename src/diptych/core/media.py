"""Media: kinds of content of a sample, each with its own decoding, thumbnails and size limits.

A `Medium` is a kind; `registry.MEDIA` holds their classes by name, and a package may add its own (group "diptych.media"; audio is left to
one). A `MediaItem` is one thing of a kind: encoded sources that nothing has read yet. So every other room can store, check, cache
and show a medium that it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DataError
from diptych.core.image import ImageSource, content_untold
from diptych.core.registry import MEDIA

Pixels = npt.NDArray[np.uint8]
Source = ImageSource
"""Encoded bytes of any medium, and a name for messages."""


@dataclass(frozen=True, slots=True, eq=False)
class ArraySource:
    """An array that needs no decoding: points, voxels or bands that are already in memory."""

    array: npt.NDArray[Any]
    name: str = "<array>"

    def read(self) -> bytes:
        raise TypeError(f"{self.name}: an array has no encoded bytes; its medium encodes it (Medium.encode)")


@dataclass(frozen=True, slots=True)
class MediaLimit:
    """Size limits of a media item; a larger one is refused before it is decoded.

    bytes     encoded, over all parts
    elements  decoded: pixels, points or voxels, over all frames
    parts     pictures or frames
    """

    bytes: int
    elements: int
    parts: int = 1


@dataclass(frozen=True, slots=True)
class MediaFacts:
    """The shape and type of what was decoded, for the table of media and for inspection."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class MediaItem:
    """One media item of a sample.

    medium  a name of `registry.MEDIA`
    parts   where its bytes lie: one source, or one for each picture or frame, in order
    """

    medium: str
    parts: tuple[Source, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise DataError(f"a {self.medium} without parts", field="media", expected="at least one source")

    @property
    def name(self) -> str:
        """The name of its first part, for messages."""
        return self.parts[0].name

    def decode(self, **options: Any) -> Any:
        """Decoded content; `options` are those of the medium's `decode`. Raises `DecodeError`."""
        with content_untold(*self.parts):
            return medium_of(self.medium).decode(self, **options)

    def thumbnail(self, *, side: int = 0) -> Pixels:
        """A picture of it, see `Medium.thumbnail`. Raises `DecodeError`."""
        with content_untold(*self.parts):
            return medium_of(self.medium).thumbnail(self, side=side)


@runtime_checkable
class Medium(Protocol):
    """A kind of medium. Every method raises `DecodeError` with one line of explanation, for the quarantine.

    name      under which the registry has it
    suffixes  endings of files that are this medium wherever they lie, without the dot
    limit     default limit; larger items are refused
    """

    @property
    def name(self) -> str: ...

    @property
    def suffixes(self) -> tuple[str, ...]: ...

    @property
    def limit(self) -> MediaLimit: ...

    def decode(self, item: MediaItem, *, limit: MediaLimit | None = None) -> Any:
        """The content. Sizes are read from headers and held against the limit before anything large is allocated."""

    def thumbnail(self, item: MediaItem, *, side: int = 0, limit: MediaLimit | None = None) -> Pixels:
        """Thumbnail, uint8 RGB [H, W, 3]. `side` is the size at which it will be displayed, in pixels: the picture may be
        larger, and is whole at 0."""

    def facts(self, content: Any) -> MediaFacts:
        """Size and other facts of decoded content, to be recorded."""

    def encode(self, part: Source) -> tuple[bytes, str]:
        """The bytes of one part as they are stored and the ending of their file; an array is encoded without loss."""


@cache
def medium_of(name: str) -> Medium:
    """The medium of that name. Raises UnknownName with near matches."""
    medium: Medium = MEDIA.load(name)()
    return medium


def first_picture(media: Mapping[str, MediaItem]) -> Source | None:
    """The first part of the first of these media that is made of pictures one can look at by themselves ("images")."""
    return next((item.parts[0] for item in media.values() if item.medium == "images"), None)
