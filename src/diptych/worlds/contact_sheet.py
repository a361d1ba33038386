"""Contact sheet of the first scenes of a data set, in rows. ``python -m diptych.worlds.contact_sheet`` renews those of the docs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diptych.core.contracts import Dataset
from diptych.core.errors import ShapeError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.data.media.decode import decode
from diptych.data.slides.cut import marked
from diptych.worlds.scenes.rendering import Pixels


def contact_sheet(data: Dataset, *, columns: int = 8, rows: int = 4, scale: int = 2, gap: int = 2) -> Pixels:
    """Contact sheet as uint8 [H, W, 3]; each image enlarged `scale` times without smoothing, `gap` white pixels between."""
    tiles = []
    for row in range(min(columns * rows, len(data))):
        image = data[row].image
        if not isinstance(image, ArrayImage):
            raise ShapeError(f"{data.name} row {row} has no pixels (expected a rendered world)")
        tile = image.pixels_HWC.repeat(scale, 0).repeat(scale, 1)
        tiles.append(np.pad(tile, ((0, gap), (0, gap), (0, 0)), constant_values=255))
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % columns)
    lines = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    return np.concatenate(lines)[:-gap, :-gap] if gap else np.concatenate(lines)


def _tumour_marked(sample: Sample) -> Pixels:
    """The slide of a sample with a frame around one of its tiles with tumour."""
    slide, mask_TU = sample.media["slide"].decode(), decode(sample.media["mask"].parts[0])[..., 0] > 0
    y, x = (int(coordinate) * slide.size[0] // len(mask_TU) for coordinate in np.argwhere(mask_TU)[0])
    return marked(slide.thumbnail(384), slide.size, x, y, slide.size[0] // len(mask_TU))


def main() -> None:
    from PIL import Image

    from diptych.worlds.links.world import links
    from diptych.worlds.overhead.world import overhead
    from diptych.worlds.people.world import pedestrians
    from diptych.worlds.scenes.world import scenes
    from diptych.worlds.tissue.slides import slides
    from diptych.worlds.tissue.world import tissue

    folder = Path("docs/images")
    folder.mkdir(parents=True, exist_ok=True)
    sheets = {
        "scenes": contact_sheet(scenes(32, seed=1)),
        "cutouts": contact_sheet(scenes(16, seed=1, look="cutouts", size=96), rows=2, scale=1),
        "links": contact_sheet(links(16, seed=1), rows=2),
        "pedestrians": contact_sheet(pedestrians(16, seed=1), rows=2, scale=1),
        "overhead": contact_sheet(overhead(24, seed=1), columns=12, rows=2, scale=1),
        "tissue": contact_sheet(tissue(34, seed=1, split="test"), columns=17, rows=2, scale=1),
    }
    samples = [slides(8, seed=1)[number] for number in (1, 3, 5, 7)]
    sheets["slides"] = np.concatenate([sample.media["slide"].decode().thumbnail(256) for sample in samples], axis=1)
    sheets["slide-place"] = _tumour_marked(samples[0])
    for name, pixels in sheets.items():
        Image.fromarray(pixels).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
