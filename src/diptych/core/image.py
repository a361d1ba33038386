"""Sources of an image's bytes. Decoding is in `data/media/decode.py`."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from diptych.core.disk.paths import is_below, read_file, refuse_other
from diptych.core.disk.remote_folder import open_fetched
from diptych.core.errors import DecodeError, ShapeError


@runtime_checkable
class ImageSource(Protocol):
    """Encoded bytes that can be read again and again, and a name for messages."""

    @property
    def name(self) -> str: ...

    def read(self) -> bytes: ...


class DisplayMixin:
    """Mixin that shows an image source: as a PIL image, and in notebooks."""

    __slots__ = ()

    def pil(self) -> Any:
        """The picture for PIL: RGB, upright, on white. Raises DecodeError for bytes that are no sound image."""
        from PIL import Image

        from diptych.core.media import MediaItem

        return Image.fromarray(MediaItem("image", (self,)).decode(exact=True))  # type: ignore[arg-type]

    def _repr_png_(self) -> bytes:
        """For notebooks."""
        file = io.BytesIO()
        self.pil().save(file, "PNG")
        return file.getvalue()


@dataclass(frozen=True, slots=True)
class FileImage(DisplayMixin):
    """An image file. `within`: a folder that links may not lead out of; None for a file that the user named."""

    path: Path
    within: str | None = None

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def is_elsewhere(self) -> bool:
        """True for a file that data name and that lies outside of their folder: errors say nothing of its content."""
        return self.within is not None and not is_below(os.path.abspath(self.path), os.path.abspath(self.within))

    def read(self) -> bytes:
        return read_file(self.path, self.within)


UNTOLD = "cannot be decoded; it lies outside of the folder of the data, so nothing of its content is said"


@contextmanager
def content_untold(*sources: ImageSource) -> Iterator[None]:
    """Replace the reason of a `DecodeError` where the data name a file outside of their folder: it may be anybody's secret."""
    try:
        yield
    except DecodeError as error:
        if elsewhere := next((one for one in sources if isinstance(one, FileImage) and one.is_elsewhere), None):
            raise DecodeError(UNTOLD, medium=error.medium, file=elsewhere.name) from None
        raise


@dataclass(frozen=True, slots=True)
class SliceImage(DisplayMixin):
    """An image inside a larger file (a tar shard): `size` bytes from `offset`."""

    path: Path
    offset: int
    size: int
    member: str = ""

    @property
    def name(self) -> str:
        return f"{self.path}:{self.member or self.offset}"

    def read(self) -> bytes:
        handle = open_fetched(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            facts = os.fstat(handle)
            refuse_other(facts)
            if self.offset < 0 or self.size < 0 or self.offset + self.size > facts.st_size:  # before memory is taken for it
                end = self.offset + self.size
                raise OSError(errno.EIO, f"bytes {self.offset:,} to {end:,} of a file of {facts.st_size:,} bytes")
            return os.pread(handle, self.size, self.offset)
        finally:
            os.close(handle)


@dataclass(frozen=True, slots=True)
class BytesImage(DisplayMixin):
    """An encoded image that is already in memory."""

    data: bytes
    name: str = "<bytes>"

    def read(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True, eq=False)
class ArrayImage(DisplayMixin):
    """Decoded pixels, uint8 [H, W, 3] RGB or [H, W, 4] RGBA: rendered worlds and decoded caches. Never decoded again."""

    pixels_HWC: npt.NDArray[np.uint8]
    name: str = "<array>"

    def read(self) -> bytes:
        raise TypeError(f"{self.name}: pixels have no encoded bytes; encode them first (data.decode.encode_webp)")


def as_image(image: str | Path | bytes | npt.NDArray[np.uint8] | ImageSource) -> ImageSource:
    """A path, encoded bytes or pixels as an image source; a source is taken as it is."""
    if isinstance(image, str | Path):
        return FileImage(Path(image))
    if isinstance(image, bytes):
        return BytesImage(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
            raise ShapeError(f"pixels are {image.dtype} {list(image.shape)} (expected uint8 [H, W, 3] or [H, W, 4])")
        return ArrayImage(image)
    return image
