"""A raster: bands on one grid, in the value range of the file. 16-bit radiographs, float elevations, many-band satellite scenes.

What people get wrong: PIL keeps 8 of the 16 bits of colour files without a word, and converting to RGB clips 16-bit greys.

Letters: H W pixels, C bands.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from diptych.core.errors import DecodeError
from diptych.core.media import MediaFacts, MediaItem, MediaLimit, Pixels, Source
from diptych.data.media.decode import probe
from diptych.data.media.encoded import NUMPY, array_of, only_part, place_of, read_npy, refuse_elements, stored_array, stretched

BITS_PER_SAMPLE = 258  # a TIFF tag
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True, slots=True)
class Raster:
    """Bands as they are stored: PNG of 8 or 16 bits, TIFF as far as PIL reads it, any numbers as .npy."""

    name: str = "raster"
    suffixes: tuple[str, ...] = ()
    limit: MediaLimit = MediaLimit(bytes=4 << 30, elements=1_000_000_000)

    def decode(self, item: MediaItem, *, limit: MediaLimit | None = None) -> npt.NDArray[Any]:
        """[H, W, C] in the type of the file: nothing is scaled, clipped or turned. Indices of a palette stay indices."""
        limit = limit or self.limit
        array = array_of(item)
        if array is None:
            data = only_part(item, limit)
            array = read_npy(data, item, limit, "values") if data.startswith(NUMPY) else read_grid(data, item, limit)
        if array.ndim == 2:
            array = array[..., None]
        if array.ndim != 3 or not array.size or array.dtype.kind not in "biuf":
            came = f"{array.dtype} {list(array.shape)}"
            raise DecodeError(f"holds {came}", file=item.name, medium=item.medium, expected="numbers [H, W] or [H, W, bands]")
        refuse_elements(array.size, "values", item, limit)
        return array

    def thumbnail(self, item: MediaItem, *, side: int = 0, limit: MediaLimit | None = None) -> Pixels:
        """The first three bands as red, green and blue, or the first as grey; all but 8-bit ones stretched each by its percentiles."""
        value_HWC = self.decode(item, limit=limit)
        step = max(1, min(value_HWC.shape[:2]) // side) if side else 1
        bands = value_HWC[::step, ::step, : 3 if value_HWC.shape[2] >= 3 else 1]
        if bands.dtype != np.uint8:
            bands = np.dstack([stretched(bands[..., band]) for band in range(bands.shape[2])])
        return np.ascontiguousarray(np.broadcast_to(bands, (*bands.shape[:2], 3)))

    def facts(self, content: npt.NDArray[Any]) -> MediaFacts:
        return MediaFacts(content.shape, str(content.dtype))

    def encode(self, part: Source) -> tuple[bytes, str]:
        data, ending = stored_array(part, self.name, "")
        if not ending:
            kind = probe(data, name=part.name).format.lower()
            ending = {"jpeg": "jpg", "tiff": "tif"}.get(kind, kind)
        return data, ending


def read_grid(data: bytes, item: MediaItem, limit: MediaLimit, page: int = 0) -> npt.NDArray[Any]:
    """[H, W] or [H, W, C] of a PNG, TIFF or other picture file, all bits kept; `page` of several."""
    where = place_of(item)
    try:
        info = probe(data, name=item.name, max_pixels=limit.elements)
        if info.frames > 1 and item.medium == "raster":
            raise DecodeError(f"{info.frames:,} pages", expected="one page; a volume takes several")
        with Image.open(io.BytesIO(data)) as image:
            image.seek(page)
            if image.mode not in MODES:
                raise DecodeError(f"pixels of mode {image.mode}", expected="8 or 16 bits, or .npy")
            refuse_elements(image.size[0] * image.size[1] * len(image.getbands()), "values", item, limit)
            if _deep_colour(image):
                return _both_bytes(data, page)
            if image.mode.startswith("I;16"):
                return np.asarray(image).astype(np.uint16)
            return np.array(image)
    except DecodeError as error:
        raise DecodeError(error.problem, expected=error.expected, **where) from error
    except Exception as error:  # decoders raise anything on hostile bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DecodeError(f"cannot be decoded: {reason} ({len(data):,} bytes)", expected="PNG, TIFF or .npy", **where) from error


def _deep_colour(image: Any) -> bool:
    """True if PIL would keep 8 of 16 bits: it does so for colour, and for grey with alpha."""
    return any("16" in _raw_mode(tile) for tile in image.tile) and image.mode in ("RGB", "RGBA", "LA")


def _raw_mode(tile: Any) -> str:
    return str(tile.args if isinstance(tile.args, str) else tile.args[0])


def _both_bytes(data: bytes, page: int) -> npt.NDArray[np.uint16]:
    """16-bit RGB or RGBA. PIL unpacks the high bytes of either byte order, so each of two readings gives one byte of every value."""
    big, little = _read_as(data, page, "B"), _read_as(data, page, "L")  # the first and the second byte in the file
    with Image.open(io.BytesIO(data)) as image:
        image.seek(page)
        order = _raw_mode(image.tile[0])[-1]  # B, L, or N: that of this machine
        first_is_high = order == "B" or (order == "N" and sys.byteorder == "big")
    high, low = (big, little) if first_is_high else (little, big)
    both_HWC: npt.NDArray[np.uint16] = high.astype(np.uint16) * np.uint16(256) + low
    return both_HWC


def _read_as(data: bytes, page: int, order: str) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        image.seek(page)
        if not _raw_mode(image.tile[0]).startswith("RGB"):
            raise DecodeError("16-bit grey with alpha", expected="16-bit grey, RGB or RGBA, or .npy")
        image.tile = [_as_order(tile, order) for tile in image.tile]
        return np.array(image)


def _as_order(tile: Any, order: str) -> Any:
    mode = f"{_raw_mode(tile)[:-1]}{order}"  # "RGB;16B" or "RGB;16L"
    return tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:]))
