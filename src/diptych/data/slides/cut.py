"""Slide tiles as samples, each with a map of its position on the slide. Nothing is read before it is used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from diptych.core.contracts import Dataset
from diptych.core.errors import DataError
from diptych.core.image import DisplayMixin
from diptych.core.media import MediaItem, Pixels
from diptych.core.sample import Sample
from diptych.data.media.decode import encode_png, encode_webp
from diptych.data.media.slide import SlideReader
from diptych.data.slides.tiling import Tiles, Tiling, pixels_of, tiles_of

SLIDE, PLACE = "slide", "place"
"""Names of the medium that is cut, and of the one that shows where a tile lies."""
MAP_SIDE = 512
"""Pixels of the longer side of that picture."""
MARK = (220, 20, 60)


@dataclass(frozen=True, slots=True)
class TileImage(DisplayMixin):
    """A tile as an image source: lossless, read from its slide."""

    item: MediaItem
    tiles: Tiles
    number: int
    tiling: Tiling

    @property
    def name(self) -> str:
        x, y = self.tiles.place_N2[self.number].tolist()
        return f"{self.item.name} at {x},{y}"

    def read(self) -> bytes:
        return encode_png(next(pixels_of(_open_slide(self.item), self.tiles, self.tiling, self.number, self.number + 1)))


@dataclass(frozen=True, slots=True)
class PlaceImage(DisplayMixin):
    """The whole slide, small, with a frame around one place of it. extent: pixels of level 0."""

    item: MediaItem
    x: int
    y: int
    extent: int

    @property
    def name(self) -> str:
        return f"{self.item.name} around {self.x},{self.y}"

    def read(self) -> bytes:
        return encode_webp(marked(_map(self.item), _open_slide(self.item).size, self.x, self.y, self.extent))


def marked(map_HWC: Pixels, size: tuple[int, int], x: int, y: int, extent: int) -> Pixels:
    """The picture of a slide of that (width, height) with a frame around the square at (x, y); at least five pixels wide, so that it is
    seen. uint8 [H, W, 3]"""
    scale = map_HWC.shape[1] / size[0], map_HWC.shape[0] / size[1]
    left, top = x * scale[0], y * scale[1]
    right, bottom = max(left + 4, (x + extent) * scale[0] - 1), max(top + 4, (y + extent) * scale[1] - 1)
    picture = Image.fromarray(map_HWC)
    ImageDraw.Draw(picture).rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=MARK, width=3)
    marked_HWC: Pixels = np.asarray(picture)
    return marked_HWC


def tile_samples(data: Dataset, tiling: Tiling, *, refused: list[tuple[str, str]] | None = None) -> Iterator[Sample]:
    """A sample for every tile with tissue of every slide: its image, the medium "place", and the extras slide, x, y (pixels of level 0),
    extent and mpp beside those of the slide. Its group, texts, licence and split are the slide's, since tiles of one patient must not part.

    refused  takes (uid, reason) of slides that cannot be cut; without it the first one raises DataError
    """
    for row in range(len(data)):
        sample = data[row]
        item = sample.media.get(SLIDE)
        if item is None:
            continue
        try:
            slide = _open_slide(item)
            tiles = tiles_of(slide, tiling, item.name)
        except DataError as error:
            if refused is None:
                raise
            refused.append((sample.uid, str(error)))
            continue
        for number, (x, y) in enumerate(tiles.place_N2.tolist()):
            map_image = PlaceImage(item, x, y, tiles.extent)
            yield replace(
                sample,
                uid=f"{sample.uid}_{x}_{y}",
                image=TileImage(item, tiles, number, tiling),
                group=sample.group or sample.uid,
                media={PLACE: MediaItem("image", (map_image,))},
                extras={**sample.extras, "slide": sample.uid, "x": x, "y": y, "extent": tiles.extent, "mpp": tiling.mpp},
            )


@lru_cache(maxsize=4)
def _open_slide(item: MediaItem) -> SlideReader:
    """The slide of an item; the last few stay open."""
    reader: SlideReader = item.decode()
    return reader


@lru_cache(maxsize=4)
def _map(item: MediaItem) -> Pixels:
    return _open_slide(item).thumbnail(MAP_SIDE)
