"""Media of many samples beside their pictures: one row per part in a flat table, or objects in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.image import FileImage, SliceImage
from diptych.core.media import MediaItem, Source
from diptych.data.media.images import identity_of
from diptych.data.ragged import Ragged

MEDIA_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("name", pa.string()),
        ("medium", pa.string()),
        ("file", pa.string()),
        ("offset", pa.int64()),  # -1: the whole file
        ("size", pa.int64()),
        ("format", pa.string()),
        ("sha256", pa.string()),
        ("shape", pa.list_(pa.int64())),  # of the decoded whole, in the row of its first part
        ("dtype", pa.string()),
        ("status", pa.string()),
    ]
)
"""One row per part, the parts of an item in order."""


class Media(Protocol):
    """Media by row, beside the pictures. `identity` distinguishes two rows without decoding."""

    def of(self, row: int) -> dict[str, MediaItem]: ...

    def identity(self, row: int) -> list[Any]: ...


@dataclass(frozen=True, slots=True)
class MediaTable:
    """Media whose parts lie in files. `ragged` has the columns of `MEDIA_SCHEMA` without the uid; files are relative to `root`.
    `within`: a folder that links may not lead out of."""

    ragged: Ragged
    root: str
    within: str | None = None

    @classmethod
    def by_uid(cls, table: pa.Table, uids: pa.Array, root: Path | str) -> MediaTable:
        return cls(Ragged.by_uid(table, uids), str(root))

    @classmethod
    def by_row(cls, parts: Sequence[Mapping[str, Any]], rows: int, root: Path | str, *, within: str | None = None) -> MediaTable:
        """`parts` have the columns of the schema, as far as they are known, and a "row" in place of the uid."""
        table = pa.Table.from_pylist([{"offset": -1, **part} for part in parts], pa.schema(list(MEDIA_SCHEMA)[1:]))
        return cls(Ragged.by_row(table, np.array([part["row"] for part in parts], np.int64), rows), str(root), within)

    def of(self, row: int) -> dict[str, MediaItem]:
        parts_by_name: dict[str, tuple[str, list[Source]]] = {}
        for part in self.ragged.row(row):
            parts_by_name.setdefault(part["name"], (part["medium"], []))[1].append(self._source(part))
        return {name: MediaItem(medium, tuple(parts)) for name, (medium, parts) in parts_by_name.items()}

    def identity(self, row: int) -> list[Any]:
        parts = self.ragged.row(row)
        identities = [[part["name"], part["medium"], part["sha256"] or identity_of(self._source(part))] for part in parts]
        return sorted(identities, key=lambda part: str(part[0]))  # stable: parts stay in order

    def _source(self, part: Mapping[str, Any]) -> Source:
        path = Path(self.root, part["file"])
        if part["offset"] < 0:
            return FileImage(path, self.within)
        return SliceImage(path, part["offset"], part["size"], f"{part['name']}.{part['format'] or ''}")


@dataclass(frozen=True, slots=True)
class MediaObjects:
    """Media that are there already: rendered worlds, hand-made samples, columns of bytes."""

    items: Sequence[Mapping[str, MediaItem]]

    def of(self, row: int) -> dict[str, MediaItem]:
        return dict(self.items[row])

    def identity(self, row: int) -> list[Any]:
        return [[name, item.medium, identity_of(part)] for name, item in sorted(self.items[row].items()) for part in item.parts]


@dataclass(frozen=True, slots=True)
class MediaRows:
    """Media under other row numbers: row r is row `rows[r]` of `media`, or has none where that is -1."""

    media: Media
    rows: npt.NDArray[np.int64]

    def of(self, row: int) -> dict[str, MediaItem]:
        return self.media.of(int(self.rows[row])) if self.rows[row] >= 0 else {}

    def identity(self, row: int) -> list[Any]:
        return self.media.identity(int(self.rows[row])) if self.rows[row] >= 0 else []


def member_label(name: str, medium: str) -> str:
    """Middle part of the file name of a medium, between key and ending: ``KEY.clip.gif``, ``KEY.raster-radar.npy``."""
    return medium if name == medium else f"{medium}-{name}"
