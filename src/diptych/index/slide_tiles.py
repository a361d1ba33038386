"""Tile embeddings of slides, slide by slide: stored in files, or computed on demand.

Letters: N tiles, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.core.contracts import Dataset, Embedder, Unit
from diptych.core.errors import DataError, DiptychError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.data.slides.features import SlideFeatures, kept_features, path_of, write_features
from diptych.data.slides.tiling import Tiles, Tiling, pixels_of, tiles_of
from diptych.index.embed import UnreadableSample, check_rows

SLIDE = "slide"
"""The name of the medium of a slide."""
BLOCK = 256
"""Tiles that are read before they are embedded."""


@dataclass(frozen=True)
class EmbeddedSlide:
    """Tile embeddings of a slide. kept: they were computed before."""

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
) -> Iterator[EmbeddedSlide | UnreadableSample]:
    """Every slide of the data, or why it could not be used; samples without a slide are passed over.

    folder     keeps one file per slide; a slide whose file is there is not computed again. Files of other settings are refused, unless
               `overwrite` rebuilds them
    """
    settings = {**tiling.plain(), "model": getattr(model, "fingerprint", "") or getattr(model, "name", type(model).__name__)}
    for row in range(len(data)):
        sample = data[row]
        if SLIDE not in sample.media:
            continue
        stored = kept_features(folder, sample.uid, settings) if folder is not None and not overwrite else None
        if stored is not None:
            yield EmbeddedSlide(sample, stored, kept=True)
            continue
        vectors: list[Unit] = []
        blocks = _blocks(sample, tiling)
        try:
            while (block := next(blocks, None)) is not None:
                tiles, images = block
                vectors.append(_embed_tiles(model, images, batch_size))
        except _BadSlide as error:
            yield UnreadableSample(sample.uid, str(error))
            continue
        features = SlideFeatures(tiles, np.concatenate(vectors).astype(np.float32), settings)
        if folder is not None:
            write_features(path_of(folder, sample.uid), features)
        yield EmbeddedSlide(sample, features)


class _BadSlide(DiptychError):
    """Fault of one slide: its bytes, its scale, its size. Errors of a model are not of this class and stop everything."""


def _blocks(sample: Sample, tiling: Tiling) -> Iterator[tuple[Tiles, list[ArrayImage]]]:
    """Tiles of a slide with their pixels, in blocks. Raises _BadSlide."""
    item = sample.media[SLIDE]
    try:
        slide = item.decode()
        tiles = tiles_of(slide, tiling, item.name)
        if not len(tiles):
            raise DataError(
                f"none of {tiles.candidates} tiles shows tissue",
                file=item.name,
                expected="a slide with tissue, or a smaller --tissue",
            )
        for start in range(0, len(tiles), BLOCK):
            stop = min(start + BLOCK, len(tiles))
            names = [f"{sample.uid} at {x},{y}" for x, y in tiles.place_N2[start:stop].tolist()]
            pixels = pixels_of(slide, tiles, tiling, start, stop)
            yield tiles, [ArrayImage(one, name) for one, name in zip(pixels, names, strict=True)]
    except DataError as error:
        raise _BadSlide(str(error)) from error


def _embed_tiles(model: Embedder, images: list[ArrayImage], batch_size: int) -> Unit:
    return check_rows(model.embed_images(images, batch_size=batch_size), [image.name for image in images], "tile")
