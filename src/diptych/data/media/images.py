"""Image sources of many samples in a few bytes each: loose files, slices of tars, blobs in memory, any objects."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.disk.paths import is_below, is_file
from diptych.core.image import ArrayImage, BytesImage, FileImage, ImageSource, SliceImage
from diptych.core.media import ArraySource

Ints = npt.NDArray[np.int64]


class Images(Protocol):
    """Image sources by row, made when asked for. `identity` tells two images apart without decoding: a hash, or a size."""

    def source(self, row: int) -> ImageSource | None: ...

    def identity(self, row: int) -> str: ...


@dataclass(frozen=True, slots=True)
class LooseFiles:
    """One file per image. `paths` are relative to `root` or absolute; null if there is no image. `within`: a folder that links may not
    lead out of."""

    root: str
    paths: pa.Array
    within: str | None = None

    def source(self, row: int) -> ImageSource | None:
        path = self.paths[row].as_py()
        return FileImage(Path(self.root, path), self.within) if path else None

    def may_lead_out(self, folder: str) -> npt.NDArray[np.bool_]:
        """True for each absolute path and each with ".."; for every path if the root is not in the folder. The disk is not asked."""
        if not is_below(os.path.abspath(self.root), folder) or not len(self.paths):
            return np.ones(len(self.paths), np.bool_)
        odd = pc.or_(
            pc.starts_with(self.paths, "/"), pc.match_substring_regex(self.paths, r"(^|[/\\\\])\.\.([/\\\\]|$)|^[A-Za-z]:|^~")
        )
        flags: npt.NDArray[np.bool_] = odd.fill_null(False).to_numpy(zero_copy_only=False).astype(np.bool_)
        return flags

    def identity(self, row: int) -> str:
        path = self.paths[row].as_py()
        if not path:
            return ""
        try:
            return f"size {os.stat(os.path.join(self.root, path)).st_size}"
        except (OSError, ValueError):
            return "missing"


@dataclass(frozen=True, slots=True)
class Slices:
    """Images inside larger files: file number (-1: no image), first byte and size of each, and a member name for messages."""

    files: tuple[Path, ...]
    file_N: npt.NDArray[np.int32]
    offset_N: Ints
    size_N: Ints
    members: pa.Array

    def source(self, row: int) -> ImageSource | None:
        file = self.file_N[row]
        if file < 0:
            return None
        return SliceImage(self.files[file], self.offset_N[row].item(), self.size_N[row].item(), self.members[row].as_py())

    def taken(self, rows: Ints) -> Slices:
        """The images of these rows."""
        parts = self.file_N[rows], self.offset_N[rows], self.size_N[rows]
        return Slices(self.files, *parts, self.members.take(pa.array(rows)))

    def identity(self, row: int) -> str:
        return f"size {self.size_N[row]}" if self.file_N[row] >= 0 else ""


@dataclass(frozen=True, slots=True)
class Blobs:
    """Encoded images in an Arrow column of bytes, held in memory; null if there is no image."""

    data: pa.Array
    names: pa.Array

    def source(self, row: int) -> ImageSource | None:
        data = self.data[row].as_py()
        return None if data is None else BytesImage(data, self.names[row].as_py())

    def identity(self, row: int) -> str:
        data = self.data[row].as_py()
        return "" if data is None else hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class ImageObjects:
    """Image sources that are already there: rendered worlds, caches, hand-made samples."""

    items: Sequence[ImageSource | None]

    def source(self, row: int) -> ImageSource | None:
        return self.items[row]

    def identity(self, row: int) -> str:
        image = self.items[row]
        return "" if image is None else identity_of(image)


def identity_of(source: ImageSource) -> str:
    """Identity of a source without reading files: a hash of in-memory data, the size of a file."""
    one: Any = source
    if isinstance(one, ArrayImage | ArraySource):
        array = one.pixels_HWC if isinstance(one, ArrayImage) else one.array
        shape = "x".join(map(str, array.shape)) + ("" if isinstance(one, ArrayImage) else f" {array.dtype}")
        return f"{shape} {hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}"
    if isinstance(one, BytesImage):
        return hashlib.sha256(one.data).hexdigest()
    if isinstance(one, SliceImage):
        return f"size {one.size}"
    if isinstance(one, FileImage):
        return f"size {one.path.stat().st_size}" if is_file(one.path) else "missing"
    return str(one.name)
