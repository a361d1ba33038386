"""Recognition of media files and columns beside the picture, by name or by the user's options.

In folders and tars a file is part of a medium by its name:

    KEY.clip.gif   KEY.cloud.npy   KEY.raster.tif     the whole medium in one file
    KEY.clip.0003.jpg   KEY.images.1.jpg              part number 3 of a clip, picture number 1 of several
    KEY.clip/0003.jpg                                 the same in a folder of its own (folders only)
    KEY.raster-radar.npy                              the raster called "radar"
    KEY.ply   KEY.svs                                 endings that are one medium wherever they lie
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from diptych.core.disk.paths import PICTURE_SUFFIXES, path_problem
from diptych.core.errors import DataError
from diptych.core.image import BytesImage, FileImage
from diptych.core.media import MediaItem, Source, medium_of
from diptych.core.registry import MEDIA
from diptych.data.media.table import MediaObjects

_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class NamedPart:
    """Medium part parsed from a file name: part `number` of the medium `name` of the sample `key`."""

    key: str
    name: str
    medium: str
    number: int = 0


class MediaNames:
    """Recognises media by file name. `media_by_ending` maps further endings to a medium: ``{"npy": "cloud", "depth.npy": "raster"}``; an
    ending with a dot also names it ("depth")."""

    def __init__(self, media_by_ending: Mapping[str, str] | None) -> None:
        self._media_by_ending = {
            ending.lower().lstrip("."): MEDIA.find(medium).name for ending, medium in (media_by_ending or {}).items()
        }
        self._endings = sorted(self._media_by_ending, key=len, reverse=True)
        self._unused = set(self._endings)
        kinds = [name for name in MEDIA if name != "image"]
        self._label = re.compile(rf"(?P<key>.+?)\.(?P<medium>{'|'.join(kinds)})(?:-(?P<name>[A-Za-z0-9_-]+))?", re.IGNORECASE)
        self._own = {suffix: name for name in kinds for suffix in medium_of(name).suffixes}

    def part(self, file: str) -> NamedPart | None:
        """Parse the name of a media file; None if it is no medium by its name."""
        for ending in self._endings:
            if file.lower().endswith(f".{ending}") and len(file) > len(ending) + 1:
                self._unused.discard(ending)
                medium = self._media_by_ending[ending]
                return NamedPart(file[: -len(ending) - 1], ending.partition(".")[0] if "." in ending else medium, medium)
        stem, _, ending = file.rpartition(".")
        label, _, number = stem.rpartition(".")
        if number.isdigit() and (match := self._label.fullmatch(label)):
            return _part_of_match(match, int(number))
        if match := self._label.fullmatch(stem):
            return _part_of_match(match)
        if stem and (medium := self._own.get(ending.lower(), "")):
            return NamedPart(stem, medium, medium)
        return None

    def folder(self, name: str) -> NamedPart | None:
        """Parse the name of a folder of parts, ``KEY.clip``; None for any other name."""
        match = self._label.fullmatch(name)
        return _part_of_match(match) if match else None

    def refuse_unused(self, file: object) -> None:
        """Raise an error for a requested ending that no file has."""
        if self._unused:
            raise DataError(f"no file ends in .{min(self._unused)}", file=file, field="media", expected="an ending that is there")


def _part_of_match(match: re.Match[str], number: int = 0) -> NamedPart:
    medium = match["medium"].lower()
    return NamedPart(match["key"], match["name"] or medium, medium, number)


def in_order(files: Sequence[str]) -> list[str]:
    """File names as people count: 2 before 10.

    >>> in_order(["f10.jpg", "f2.jpg"])
    ['f2.jpg', 'f10.jpg']
    """
    return sorted(files, key=lambda name: [(int(part), part) if part.isdigit() else (-1, part) for part in _DIGITS.split(name)])


def parts_of(folder: Path) -> list[str]:
    """The pictures of a folder that forms one medium, in order."""
    if path_problem(str(folder)) or not folder.is_dir():
        return []
    return in_order([file.name for file in folder.iterdir() if file.suffix.lower().lstrip(".") in PICTURE_SUFFIXES])


def column_media(
    table: pa.Table, medium_by_column: Mapping[str, str], root: str, name: str, *, within: str | None = None
) -> MediaObjects:
    """Media from columns: a path, bytes, or a list of either a part. A path without ending is the folder of the parts. `within`: a folder
    that links may not lead out of."""
    media: list[dict[str, MediaItem]] = [{} for _ in range(table.num_rows)]
    for column, medium_name in medium_by_column.items():
        medium = MEDIA.find(medium_name).name
        for row, value in enumerate(table[column].to_pylist()):
            parts = _sources(value, root, f"{name}:{row}:{column}", column, name, within)
            if parts:
                media[row][column] = MediaItem(medium, parts)
    return MediaObjects(media)


def _sources(value: Any, root: str, label: str, column: str, file: str, within: str | None) -> tuple[Source, ...]:
    if value is None or value == "" or value == b"":
        return ()
    if isinstance(value, list):
        return tuple(
            source
            for number, one in enumerate(value)
            for source in _sources(one, root, f"{label}:{number}", column, file, within)
        )
    if isinstance(value, bytes):
        return (BytesImage(value, label),)
    if isinstance(value, dict) and {"bytes", "path"} <= set(value):
        return _sources(value["bytes"] or value["path"], root, label, column, file, within)
    if not isinstance(value, str):
        raise DataError(
            f"column '{column}' holds {type(value).__name__}", file=file, field=column, expected="paths or bytes of media"
        )
    path = Path(root, value)
    if not path.suffix and (names := parts_of(path)):
        return tuple(FileImage(path / name, within) for name in names)
    return (FileImage(path, within),)
