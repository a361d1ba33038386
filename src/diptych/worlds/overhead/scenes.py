"""Large scenes as GeoTIFF with a coordinate system; every thing's place is known, in pixels and as longitude and latitude.

`world:overhead_scenes`. Needs the extra diptych[geo].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diptych.core.config import to_plain
from diptych.core.errors import ConfigError, MissingExtra
from diptych.core.image import BytesImage
from diptych.core.media import MediaItem
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region
from diptych.worlds.overhead.drawing import LAND, Line, OverheadObject, draw_roads, draw_things, ground_of, window_of
from diptych.worlds.overhead.lexicon import COLOURS, KINDS, KindCount, caption
from diptych.worlds.overhead.world import ROAD_WIDTH, fits, line_at, thing_at
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of

NAME = "overhead_scenes"
CRS = "EPSG:32630"
"""UTM zone 30 north: its central meridian, three degrees west, is at 500 km east."""
ORIGIN = (500_000.0, 4_500_000.0)
METRES = 0.5
"""Metres a pixel."""
RADIUS, GAP = 10.0, 3.0
"""Radius of things in pixels, that of a thing in a tile of 64, and the share of it that stays free around each."""
WGS84 = "EPSG:4326"
TRIES = 20_000
Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class OverheadSceneWorld:
    """The configuration.

    side    of the scene in pixels
    things  that lie in it
    bits    8, or 16: reflectance from 0 to 10,000 as satellites deliver it
    border  pixels without data along the left edge
    """

    seed: int = 0
    side: int = 1024
    things: int = 12
    bits: int = 8
    border: int = 0

    def __post_init__(self) -> None:
        room = (self.side / (2 * GAP * RADIUS)) ** 2 / 4
        if not 128 <= self.side <= 20_000 or not 1 <= self.things <= max(1, room) or self.bits not in (8, 16):
            raise ConfigError(
                f"side {self.side}, {self.things} things, {self.bits} bits "
                f"(expected 128..20000 pixels, 1..{max(1, int(room))} things in them, 8 or 16)"
            )
        if not 0 <= self.border < self.side // 4:
            raise ConfigError(f"border is {self.border} (expected 0 or more, and less than a quarter of the side)")

    @property
    def identity(self) -> Any:
        return to_plain(self)

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "val", "test")

    def group(self, split: str, index: int) -> str:
        return uid_of(NAME, self.seed, split, index)

    def sample(self, split: str, index: int) -> Sample:
        uid = self.group(split, index)
        rng = keyed_rng(NAME, self.seed, split, index)
        things, pixels_HWC = scene(rng, self.side, self.things)
        if self.border:
            pixels_HWC[:, : self.border] = 0
        shown = [thing for thing in things if window_of(thing, pixels_HWC.shape[:2])[0] >= self.border]
        value_HWC = pixels_HWC if self.bits == 8 else np.round(pixels_HWC.astype(np.float32) * (10_000 / 255)).astype(np.uint16)
        content = geotiff(value_HWC, nodata=0 if self.border else None)
        frame = (self.side, self.side)
        return Sample(
            uid,
            None,
            tuple(Text(text, "en") for text in dict.fromkeys(name_of(thing) for thing in shown)),
            regions=tuple(Region(window_of(thing, frame), thing.kind, (thing.colour,)) for thing in shown),
            group=uid,
            licence="CC0-1.0",
            source=f"world:{NAME}",
            media={"raster": MediaItem("raster", (BytesImage(content, f"{uid}.tif"),))},
            extras={
                "split": split,
                "crs": CRS,
                "things": [
                    {
                        "name": name_of(thing),
                        "x": thing.x,
                        "y": thing.y,
                        **dict(zip(("longitude", "latitude"), lon_lat(thing.x, thing.y), strict=True)),
                    }
                    for thing in shown
                ],
            },
        )


def name_of(thing: OverheadObject) -> str:
    """
    >>> name_of(OverheadObject("ship", "red", 0, 0, 1, 0))
    'a red ship'
    """
    ground = "water" if thing.kind == "ship" else "grass"
    return caption((KindCount(thing.kind, 1, thing.colour),), ground, "en").partition(" on ")[0]


def scene(rng: np.random.Generator, side: int, count: int) -> tuple[tuple[OverheadObject, ...], npt.NDArray[np.uint8]]:
    """Things and pixels [side, side, 3] of a coast with two roads; kinds and colours take turns, so that each occurs."""
    shore = line_at(rng, side, "any", spread=0.1)
    roads = tuple(Line(shore.normal, shore.offset - share * side) for share in rng.uniform(0.1, 0.45, 2))
    land = LAND[int(rng.integers(2))]
    order = [(kind, colour) for colour in COLOURS for kind in KINDS]
    first = int(rng.integers(len(order)))
    wanted = [order[(first + number) % len(order)] for number in range(count)]
    things: list[OverheadObject] = []
    wide = ROAD_WIDTH * 64
    for random_4 in rng.random((TRIES, 4)).tolist():
        if len(things) == count:
            ground_HWC = draw_roads(ground_of(rng, (side, side), land, shore), roads, wide)
            return tuple(things), draw_things(ground_HWC, tuple(things))
        thing = thing_at(random_4, *wanted[len(things)], side, RADIUS, "any")
        others = [OverheadObject(o.kind, o.colour, o.x, o.y, GAP * o.radius, o.angle) for o in things]
        if fits(thing, others, shore, roads, wide):
            things.append(thing)
    raise ConfigError(f"{count} things do not fit into {side} pixels (expected fewer, or a larger side)")


def geotiff(
    value_HWC: npt.NDArray[Any],
    *,
    crs: str | None = CRS,
    origin: tuple[float, float] = ORIGIN,
    metres: float = METRES,
    nodata: float | None = None,
) -> bytes:
    """A tiled GeoTIFF of [H, W, bands], deflated.

    origin  coordinates of the upper left corner, easting before northing
    metres  a pixel
    crs     coordinate system; None writes none, nor coordinates
    """
    try:
        from rasterio.io import MemoryFile
        from rasterio.transform import from_origin
    except ImportError as error:
        raise MissingExtra("rasterio", "geo", needed_for="writing a GeoTIFF") from error
    height, width, bands = value_HWC.shape
    profile: dict[str, Any] = {"driver": "GTiff", "height": height, "width": width, "count": bands, "dtype": value_HWC.dtype.name}
    tiled: dict[str, Any] = {"tiled": True, "blockxsize": 256, "blockysize": 256} if min(height, width) >= 256 else {}
    where: dict[str, Any] = {"crs": crs, "transform": from_origin(*origin, metres, metres)} if crs else {}
    with MemoryFile() as memory:
        with memory.open(**profile, **tiled, **where, nodata=nodata, compress="deflate") as file:
            file.write(value_HWC.transpose(2, 0, 1))
        return bytes(memory.read())


def lon_lat(x: float, y: float) -> tuple[float, float]:
    """Longitude and latitude of a point in pixels of these scenes."""
    from rasterio.warp import transform

    (longitude,), (latitude,) = transform(CRS, WGS84, [ORIGIN[0] + METRES * x], [ORIGIN[1] - METRES * y])[:2]
    return float(longitude), float(latitude)


def overhead_scenes(
    n: int = 8,
    *,
    seed: int = 0,
    split: Split = "train",
    side: int = 1024,
    things: int = 12,
    bits: int = 8,
    border: int = 0,
) -> RenderedDataset:
    """The first `n` scenes of one split; see `OverheadSceneWorld`."""
    world = OverheadSceneWorld(seed, side, things, bits, border)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
