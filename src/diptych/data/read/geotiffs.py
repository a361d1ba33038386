"""GeoTIFF as data: every scene as a row, or cut into tiles, with chosen bands, class by folder, and coordinates.

`read(SOURCE, format="geotiff")` takes a file or a folder, whose sub-folders are classes (EuroSAT, UCM). Options follow a question
mark, as in the address of a world: `geotiff?bands=4,3,2&tile=256&overlap=64`.

    bands    for red, green and blue, from 1; by default 1, 2, 3
    tile     side of the tiles in pixels; 0 takes each scene whole
    overlap  pixels that neighbours share

A row is a picture of 8 bits, stretched by percentiles of its whole scene and read when it is asked for. Extras: `scene` (its file), `box`
(left, top, right, bottom in pixels), `crs`, and `longitude` and `latitude` of its middle where the scene has a coordinate system.
The name of the sub-folder is the text (origin "label"), "AnnualCrop" as "annual crop", and the extra `label`. Tiles of a scene
are one group, so that no split separates them. A file that cannot be read is in the quarantine.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from diptych.core.disk.paths import escapes_folder
from diptych.core.errors import DataError
from diptych.core.image import DisplayMixin
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.media.decode import encode_png
from diptych.data.media.scene_file import Box, SceneFile
from diptych.data.quarantine import QuarantineEntry
from diptych.data.read.naming import uids_of

FORMAT = "geotiff"
SUFFIXES = (".tif", ".tiff")
LARGEST = 4096
"""Pixels per side of a scene that is taken whole."""


@dataclass(frozen=True, slots=True)
class TileOptions:
    """Options of reading GeoTIFF scenes as tiles: bands by number (from 1), pixels per side of a tile, and of the overlap of two."""

    bands: tuple[int, ...] = ()
    tile: int = 0
    overlap: int = 0

    @classmethod
    def parse(cls, words: str) -> TileOptions:
        """Options from words such as "geotiff?bands=4,3,2&tile=256".

        >>> TileOptions.parse("geotiff?bands=4,3,2&tile=256")
        TileOptions(bands=(4, 3, 2), tile=256, overlap=0)
        """
        given = dict(parse_qsl(words.partition("?")[2], keep_blank_values=True))
        numbers = {name: [part.strip() for part in value.split(",")] for name, value in given.items()}
        single = all(len(numbers[name]) == 1 for name in numbers if name != "bands")
        whole = all(part.isdigit() for parts in numbers.values() for part in parts)
        if not {*given} <= {"bands", "tile", "overlap"} or not whole or not single or len(numbers.get("bands", "123")) != 3:
            raise DataError(f"format is {words!r}", expected="geotiff?bands=4,3,2&tile=256&overlap=64, each of the three or none")
        made = cls(
            tuple(int(part) for part in numbers.get("bands", ())),
            *(int(numbers.get(name, ["0"])[0]) for name in ("tile", "overlap")),
        )
        if made.overlap and made.overlap >= made.tile:
            raise DataError(f"overlap is {made.overlap}, tile {made.tile}", expected="less overlap than tile")
        return made


@dataclass(frozen=True, slots=True)
class SceneTileImage(DisplayMixin):
    """Part of a GeoTIFF as a picture; `ends` are the values that become 0 and 255, of the whole scene."""

    path: Path
    box: Box
    bands: tuple[int, ...]
    ends: tuple[tuple[float, ...], tuple[float, ...]]

    @property
    def name(self) -> str:
        return f"{self.path}:{','.join(map(str, self.box))}"

    def read(self) -> bytes:
        try:
            with SceneFile.open(self.path, bands=self.bands, ends=self.ends) as scene:
                return encode_png(scene.window(self.box))
        except DataError as error:
            raise OSError(errno.EIO, str(error)) from error


def is_geotiff_format(words: str) -> bool:
    """True for "geotiff", alone or with options."""
    return words.partition("?")[0] == FORMAT


def read_geotiffs(path: Path, words: str, *, name: str, within: str | None = None) -> Pool:
    """Rows of a GeoTIFF, or of all below a folder. Raises DataError if none can be read."""
    options = TileOptions.parse(words)
    files = sorted(_files(path)) if path.is_dir() else [path]
    bad: list[QuarantineEntry] = []
    samples: list[Sample] = []
    for file in files:
        try:
            if within is not None and escapes_folder(file, within):
                raise DataError("is a link that leads out of the folder")
            samples += _rows(file, path if path.is_dir() else path.parent, options)
        except DataError as error:
            bad.append(QuarantineEntry("", "read", str(error), str(file)))
    if not samples:
        first = f"; first problem: {bad[0].reason}" if bad else ""
        raise DataError(
            f"contains no GeoTIFF that can be read{first}", file=path, expected="files .tif or .tiff, in folders by class or not"
        )
    keys = [sample.uid for sample in samples]
    renamed = (replace(sample, uid=uid) for sample, uid in zip(samples, uids_of(keys, keys), strict=True))
    pool = Pool.from_samples(renamed, name=name)
    pool.quarantine += bad
    return pool


def class_name(folder: str) -> str:
    """Class of a sub-folder in words.

    >>> class_name("AnnualCrop"), class_name("dense_residential"), class_name("BareLand")
    ('annual crop', 'dense residential', 'bare land')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[_-]+", " ", folder).lower().strip()


def _files(root: Path) -> Iterator[Path]:
    for folder, _, files in os.walk(root):
        yield from (Path(folder, file) for file in files if file.lower().endswith(SUFFIXES) and not file.startswith("."))


def _rows(file: Path, root: Path, options: TileOptions) -> list[Sample]:
    relative = file.relative_to(root).as_posix()
    folder = file.parent.name if file.parent != root else ""
    label = class_name(folder)
    rows = []
    with SceneFile.open(file, bands=options.bands) as scene:
        if not options.tile and max(scene.height, scene.width) > LARGEST:
            raise DataError(
                f"has {scene.width} x {scene.height} pixels",
                file=file,
                expected=f"{LARGEST} per side, or tiles: geotiff?tile=256",
            )
        side = options.tile or max(scene.height, scene.width)
        boxes: Sequence[Box] = scene.boxes(side, overlap=options.overlap)
        for box in boxes:
            stem = relative.rpartition(".")[0]
            position: dict[str, Any] = {"scene": relative, "box": list(box), "crs": scene.crs}
            if scene.crs:
                longitude, latitude = scene.lon_lat((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
                position |= {"longitude": longitude, "latitude": latitude}
            rows.append(
                Sample(
                    f"{stem}_{box[0]}_{box[1]}" if options.tile else stem,
                    SceneTileImage(file, box, scene.bands, scene.ends),
                    (Text(label, "en", "label"),) if label else (),
                    group=relative if len(boxes) > 1 else "",
                    extras={**position, **({"label": label} if label else {})},
                )
            )
    return rows
