"""A volume: slices of a scan in the numbers of the scanner.

Letters: D slices, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DecodeError
from diptych.core.media import MediaFacts, MediaItem, MediaLimit, Pixels, Source
from diptych.data.media.decode import probe
from diptych.data.media.encoded import NUMPY, array_of, only_part, place_of, read_npy, refuse_elements, stored_array, stretched
from diptych.data.media.raster import read_grid


@dataclass(frozen=True, slots=True)
class Volume:
    """A .npy file [D, H, W], or a TIFF with a page a slice. Spacing and orientation belong into the extras of the sample."""

    name: str = "volume"
    suffixes: tuple[str, ...] = ()
    limit: MediaLimit = MediaLimit(bytes=4 << 30, elements=1_000_000_000)

    def decode(self, item: MediaItem, *, limit: MediaLimit | None = None) -> npt.NDArray[Any]:
        """[D, H, W] in the type of the file."""
        limit = limit or self.limit
        voxel_DHW = array_of(item)
        if voxel_DHW is None:
            data = only_part(item, limit)
            voxel_DHW = read_npy(data, item, limit, "voxels") if data.startswith(NUMPY) else _pages(data, item, limit)
        if voxel_DHW.ndim != 3 or not voxel_DHW.size or voxel_DHW.dtype.kind not in "biuf":
            came = f"{voxel_DHW.dtype} {list(voxel_DHW.shape)}"
            raise DecodeError(f"holds {came}", file=item.name, medium=item.medium, expected="numbers [slices, height, width]")
        refuse_elements(voxel_DHW.size, "voxels", item, limit)
        return voxel_DHW

    def thumbnail(self, item: MediaItem, *, side: int = 0, limit: MediaLimit | None = None) -> Pixels:
        """The slice in the middle, in grey, stretched by its percentiles."""
        voxel_DHW = self.decode(item, limit=limit)
        grey_HW = stretched(voxel_DHW[len(voxel_DHW) // 2])
        return np.repeat(grey_HW[..., None], 3, axis=2)

    def facts(self, content: npt.NDArray[Any]) -> MediaFacts:
        return MediaFacts(content.shape, str(content.dtype))

    def encode(self, part: Source) -> tuple[bytes, str]:
        return stored_array(part, self.name, "tif")


def _pages(data: bytes, item: MediaItem, limit: MediaLimit) -> npt.NDArray[Any]:
    where = place_of(item)
    try:
        info = probe(data, name=item.name, max_pixels=limit.elements)
    except DecodeError as error:
        raise DecodeError(error.problem, expected="a .npy file or a TIFF with a page a slice", **where) from error
    refuse_elements(info.frames * info.width * info.height, "voxels", item, limit)
    pages = [read_grid(data, item, limit, page) for page in range(info.frames)]
    shapes = {(page.shape, page.dtype) for page in pages}
    if len(shapes) > 1 or pages[0].ndim != 2:
        kinds = ", ".join(sorted(f"{dtype} {list(shape)}" for shape, dtype in shapes))
        raise DecodeError(f"its pages are {kinds}", expected="grey pages of one size", **where)
    return np.stack(pages)
