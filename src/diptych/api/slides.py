"""Whole slides: features of their tiles, and their tiles as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.api.data import read
from diptych.api.models import load
from diptych.core.contracts import Embedder
from diptych.core.errors import DataError


@dataclass(frozen=True)
class SlideReport:
    """slides, tiles   how many there are now; kept: slides that were there before
    unreadable   uid and reason of slides that were left out
    """

    slides: int
    tiles: int
    kept: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def slide_features(
    model: Any, data: Any, out: str | Path, *, overwrite: bool = False, batch_size: int = 64, **tiling: Any
) -> SlideReport:
    """Embed the tiles of every slide into a file of its own, `OUT/UID.h5`; slides whose file is there are passed over, so a run that was
    killed goes on where it was.

    model    a model that embeds images, or anything that `load` opens
    tiling   fields of `data.slides.tiling.Tiling`; size 0, the default here, is what the model is shown
    """
    from diptych.data.slides.tiling import Tiling
    from diptych.index.slide_tiles import EmbeddedSlide, embedded_slides
    from diptych.models.io.open_address import require

    opened = load(model) if isinstance(model, str | Path) else model
    require(opened, Embedder, who="features of slides")
    size = tiling.pop("size", 0) or int(getattr(getattr(opened, "preprocess", None), "size", Tiling().size))
    slides = tiles = kept = 0
    unreadable = []
    for one in embedded_slides(
        opened, read(data), Tiling(size=size, **tiling), folder=Path(out), overwrite=overwrite, batch_size=batch_size
    ):
        if isinstance(one, EmbeddedSlide):
            slides, tiles, kept = slides + 1, tiles + len(one.features.tiles), kept + one.kept
        else:
            unreadable.append((one.uid, one.reason))
    return SlideReport(slides, tiles, kept, unreadable)


def cut_slides(data: Any, out: str | Path, *, overwrite: bool = False, barcode: str = "", **tiling: Any) -> SlideReport:
    """The tiles of slides as a data set of their own, which can be indexed, searched and served: each with its place on its slide.

    barcode  a column of TCGA barcodes, or "uid": a tile's group is then the patient
    tiling   fields of `data.slides.tiling.Tiling`
    """
    from diptych.data.dataset import Pool
    from diptych.data.shards.build import build
    from diptych.data.slides.barcodes import grouped_by_patient
    from diptych.data.slides.cut import tile_samples
    from diptych.data.slides.tiling import Tiling

    refused: list[tuple[str, str]] = []
    rows = grouped_by_patient(read(data), barcode) if barcode else read(data)
    pool = Pool.from_samples(tile_samples(rows, Tiling(**tiling), refused=refused), name=f"{rows.name}/tiles")
    if not len(pool):
        why = f": {refused[0][1]}" if refused else ""
        raise DataError(f"'{rows.name}' has no slide that can be cut{why}", field="slide", expected="samples with a slide")
    slides = len({*pool.column("slide")})
    build(pool, Path(out), overwrite=overwrite)
    return SlideReport(slides, len(pool), 0, refused)
