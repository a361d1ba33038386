"""The tiles of slides embedded by a model, slide by slide: kept in files, or made as they are asked for.

Letters: N tiles, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.contracts import Dataset, Embedder
from diptych.core.errors import DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.data.slides.features import SlideFeatures, kept_features, path_of, write_features
from diptych.data.slides.tiling import Tiling, pixels_of, tiles_of
from diptych.index.embed import Unreadable, checked

SLIDE = "slide"
"""The name of the medium of a slide."""
BLOCK = 256
"""Tiles that are read before they are embedded."""


@dataclass(frozen=True)
class EmbeddedSlide:
    """A slide and its tiles. kept: they were computed before."""

    sample: Sample
    features: SlideFeatures
    kept: bool = False


def embedded_slides(
    model: Embedder,
    data: Dataset,
    tiling: Tiling,
    *,
    folder: Path | None = None,
    overwrite: bool = False,
    batch_size: int = 64,
) -> Iterator[EmbeddedSlide | Unreadable]:
    """Every slide of the data, or why it could not be used; samples without a slide are passed over.

    folder     keeps a file a slide; a slide whose file is there is not computed again. Files of other settings are refused, unless
               `overwrite` makes them anew
    """
    settings = {**tiling.plain(), "model": getattr(model, "fingerprint", "") or getattr(model, "name", type(model).__name__)}
    for row in range(len(data)):
        sample = data[row]
        if SLIDE not in sample.media:
            continue
        known = kept_features(folder, sample.uid, settings) if folder is not None and not overwrite else None
        if known is not None:
            yield EmbeddedSlide(sample, known, kept=True)
            continue
        try:
            found = _embedded(model, sample, tiling, settings, batch_size)
        except DataError as error:  # of this slide alone: its bytes, its scale, its size
            yield Unreadable(sample.uid, str(error))
            continue
        if folder is not None:
            write_features(path_of(folder, sample.uid), found)
        yield EmbeddedSlide(sample, found)


def _embedded(model: Embedder, sample: Sample, tiling: Tiling, settings: dict[str, Any], batch_size: int) -> SlideFeatures:
    item = sample.media[SLIDE]
    slide = item.decode()
    tiles = tiles_of(slide, tiling, item.name)
    if not len(tiles):
        raise DataError(
            f"none of {tiles.candidates} tiles shows tissue",
            file=item.name,
            expected="a slide with tissue, or a smaller --tissue",
        )
    blocks = []
    for start in range(0, len(tiles), BLOCK):
        stop = min(start + BLOCK, len(tiles))
        names = [f"{sample.uid} at {x},{y}" for x, y in tiles.place_N2[start:stop].tolist()]
        images = [
            ArrayImage(pixels, name) for pixels, name in zip(pixels_of(slide, tiles, tiling, start, stop), names, strict=True)
        ]
        blocks.append(checked(model.embed_images(images, batch_size=batch_size), names, "tile"))
    return SlideFeatures(tiles, np.concatenate(blocks).astype(np.float32), settings)
