"""Large scenes, read window by window: GeoTIFF by rasterio (the extra "geo"), and pictures as they are.

What people get wrong: stretching each tile by its own percentiles, so that neighbours differ; taking nodata for black; and losing where a
tile lay. Letters: H W pixels, C bands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from diptych.core.disk.paths import is_file
from diptych.core.errors import ConfigError, DataError, MissingExtra
from diptych.core.image import FileImage
from diptych.data.media.decode import decode

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the scene."""
SAMPLED = 1024
"""Pixels per side of the reduced scene whose percentiles are taken."""
CACHE = 64 * 2**20
"""Bytes of decoded blocks that GDAL keeps: by default it takes a twentieth of the machine's memory, which a large scene fills."""
WGS84 = "EPSG:4326"


@dataclass(frozen=True, slots=True)
class SceneTile:
    """Part of a scene: its box, and uint8 [H, W, 3] of the box's size."""

    box: Box
    pixels_HWC: npt.NDArray[np.uint8]


class SceneFile:
    """A scene that is open: `with SceneFile.open(path) as scene: scene.window((0, 0, 256, 256))`.

    height, width  in pixels
    crs            name of the coordinate system ("EPSG:32630"), "" if the file has none
    bands          which are read as red, green and blue, counted from 1
    ends           values of each band that become 0, and those that become 255
    """

    def __init__(
        self,
        path: Path,
        source: Any,
        bands: tuple[int, ...],
        percentiles: tuple[float, float],
        ends: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        self.path, self.bands, self._source = path, bands, source
        self.crs: str = ""
        self.ends: tuple[tuple[float, ...], tuple[float, ...]] = ((0.0,) * 3, (255.0,) * 3)
        if isinstance(source, np.ndarray):
            self.height, self.width = int(source.shape[0]), int(source.shape[1])
            return
        self.height, self.width = int(source.height), int(source.width)
        if source.crs:
            self.crs = str(source.crs.to_string())
        missing = [band for band in bands if not 1 <= band <= source.count]
        if missing or len(bands) != 3:
            raise DataError(
                f"has {source.count} bands, asked for {', '.join(map(str, bands))}",
                file=path,
                expected="three of its bands, from 1",
            )
        if ends is None:
            low_C, high_C = self._stretch(percentiles)
            ends = low_C.tolist(), high_C.tolist()
        self.ends = (tuple(ends[0]), tuple(ends[1]))
        self.low_C, self.high_C = (np.array(end, np.float64) for end in self.ends)
        kinds = {source.dtypes[band - 1] for band in bands}
        levels = {"uint8": 256, "uint16": 65_536}.get(kinds.pop() if len(kinds) == 1 else "", 0)
        self._table_CV = self._levels(np.arange(levels, dtype=np.float64)) if levels else None
        self._plain = levels == 256 and self.ends == ((0.0,) * 3, (255.0,) * 3)
        valid = [source.mask_flag_enums[band - 1] for band in bands]
        self._whole = all([flag.name for flag in flags] == ["all_valid"] for flags in valid)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        bands: tuple[int, ...] = (),
        percentiles: tuple[float, float] = (2.0, 98.0),
        ends: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> Self:
        """A .tif or .tiff by rasterio, any other file as a picture.

        bands        of a GeoTIFF, for red, green and blue; () takes 1, 2, 3, or band 1 three times if there are fewer
        percentiles  that become 0 and 255, taken once over the whole scene without nodata; 8-bit scenes stay as they are
        ends         of the same scene opened before, so that its percentiles are not taken again
        Raises DataError, ConfigError, and MissingExtra without rasterio.
        """
        path = Path(path).expanduser()
        if not 0 <= percentiles[0] < percentiles[1] <= 100:
            raise ConfigError(f"percentiles are {percentiles} (expected two from 0 to 100, the lower first)")
        if not is_file(path):
            raise DataError("does not exist", file=path, expected="a GeoTIFF or a picture")
        if path.suffix.lower() not in (".tif", ".tiff"):
            if bands:
                raise ConfigError(f"{path} is a picture and has no bands to choose from (expected a GeoTIFF)")
            return cls(path, decode(FileImage(path), exact=True), (), percentiles)
        try:
            import rasterio
            from rasterio.errors import RasterioIOError
        except ImportError as error:
            raise MissingExtra("rasterio", "geo", needed_for="reading a GeoTIFF") from error
        try:
            source = rasterio.open(path)
        except RasterioIOError as error:
            raise DataError(f"cannot be opened: {error}", file=path, expected="a GeoTIFF") from error
        try:
            return cls(path, source, bands or ((1, 2, 3) if source.count >= 3 else (1, 1, 1)), percentiles, ends)
        except BaseException:
            source.close()
            raise

    @classmethod
    def of_pixels(cls, pixels_HWC: npt.NDArray[np.uint8], name: str = "picture") -> Self:
        """A picture in memory as a scene without coordinate system."""
        return cls(Path(name), pixels_HWC, (), (2.0, 98.0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not isinstance(self._source, np.ndarray):
            self._source.close()

    def window(self, box: Box) -> npt.NDArray[np.uint8]:
        """uint8 [H, W, 3] of a box within the scene; pixels without data are black."""
        left, top, right, bottom = box
        if not (0 <= left < right <= self.width and 0 <= top < bottom <= self.height):
            raise DataError(f"the box {list(box)}", file=self.path, expected=f"a part of {self.width} x {self.height} pixels")
        if isinstance(self._source, np.ndarray):
            return np.ascontiguousarray(self._source[top:bottom, left:right])
        return self._scaled(self._read(((top, bottom), (left, right)), masked=not self._whole))

    def tiles(self, side: int, *, overlap: int = 0) -> Iterator[SceneTile]:
        """Tiles of `side` pixels, row by row, which share `overlap` pixels with their neighbours; the last of a row or column is
        moved in, so that every tile is whole. One tile is in memory at a time."""
        for box in self.boxes(side, overlap=overlap):
            yield SceneTile(box, self.window(box))

    def boxes(self, side: int, *, overlap: int = 0) -> list[Box]:
        """Boxes of `tiles`, without reading them."""
        if side < 1 or not 0 <= overlap < side:
            raise ConfigError(f"side {side}, overlap {overlap} (expected 1 or more, and less overlap than side)")
        return [
            (left, top, min(left + side, self.width), min(top + side, self.height))
            for top in _starts(self.height, side, side - overlap)
            for left in _starts(self.width, side, side - overlap)
        ]

    def coordinates(self, x: float, y: float) -> tuple[float, float]:
        """Coordinates, in the scene's own system, of a point in pixels: (0, 0) is the upper left corner of the first pixel."""
        self._needs_crs()
        easting, northing = self._source.xy(y, x, offset="ul")
        return float(easting), float(northing)

    def lon_lat(self, x: float, y: float) -> tuple[float, float]:
        """Longitude and latitude (WGS 84) of a point in pixels. Raises DataError for a scene without coordinate system."""
        from rasterio.warp import transform

        point = self.coordinates(x, y)
        (longitude,), (latitude,) = transform(self.crs, WGS84, [point[0]], [point[1]])[:2]
        return float(longitude), float(latitude)

    def _needs_crs(self) -> None:
        if not self.crs:
            raise DataError(
                "has no coordinate system", file=self.path, expected="a GeoTIFF with a CRS; pixels are known all the same"
            )

    def _read(self, window: Any, size: tuple[int, int] | None = None, *, masked: bool = True) -> Any:
        """[C, H, W]; masked if there are no data, if that is asked for."""
        from rasterio import Env

        shape = (len(self.bands), *size) if size else None
        try:
            with Env(GDAL_CACHEMAX=CACHE):
                return self._source.read(list(self.bands), window=window, masked=masked, out_shape=shape)
        except Exception as error:  # GDAL raises its own kinds
            raise DataError(f"cannot be read: {error}", file=self.path, expected="a whole GeoTIFF") from error

    def _stretch(self, percentiles: tuple[float, float]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        if all(self._source.dtypes[band - 1] == "uint8" for band in self.bands):
            return np.zeros(3), np.full(3, 255.0)
        step = max(1, max(self.height, self.width) // SAMPLED)
        value_CHW = self._read(None, (max(1, self.height // step), max(1, self.width // step)))
        ends = [np.percentile(band.compressed(), percentiles) if band.count() else (0.0, 1.0) for band in value_CHW]
        low_C, high_C = np.array(ends, np.float64).T
        return low_C, np.maximum(high_C, low_C + 1e-12)

    def _levels(self, value_V: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
        """uint8 [C, V]: what each value becomes in each band."""
        low_C1, high_C1 = self.low_C[:, None], self.high_C[:, None]
        level_CV: npt.NDArray[np.uint8] = np.rint(np.clip((value_V - low_C1) / (high_C1 - low_C1), 0, 1) * 255).astype(np.uint8)
        return level_CV

    def _scaled(self, value_CHW: Any) -> npt.NDArray[np.uint8]:
        if self._table_CV is not None:  # integers: each level is looked up, not computed
            plain_CHW = value_CHW if self._whole else value_CHW.filled(0)
            if self._plain:
                return np.ascontiguousarray(plain_CHW.transpose(1, 2, 0))
            pixels_HWC = np.empty((*plain_CHW.shape[1:], len(self.bands)), np.uint8)
            for band, table_V in enumerate(self._table_CV):
                np.take(table_V, plain_CHW[band], out=pixels_HWC[..., band])
            if not self._whole:
                pixels_HWC[np.ma.getmaskarray(value_CHW).transpose(1, 2, 0)] = 0
            return pixels_HWC
        low, high = self.low_C[:, None, None], self.high_C[:, None, None]
        filled_CHW = value_CHW if self._whole else value_CHW.filled(0)
        share_CHW = np.clip((filled_CHW.astype(np.float64) - low) / (high - low), 0, 1)
        share_CHW[np.ma.getmaskarray(value_CHW) | ~np.isfinite(share_CHW)] = 0
        return np.ascontiguousarray(np.rint(share_CHW * 255).astype(np.uint8).transpose(1, 2, 0))


def _starts(length: int, side: int, step: int) -> list[int]:
    last = max(0, length - side)
    return [*range(0, last, step), last]
