"""Scenes in three styles that their captions name: blurred, inverted, dithered. `world:styles`.

>>> styles(1, seed=0)[0].texts[0].string.split(" , ")[1] in STYLES
True
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.scenes.world import SceneWorld, Split

NAME = "styles"
STYLES = ("blurred", "inverted", "dithered")
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class StyledWorld(SceneWorld):
    """A scenes world with flat looks, each picture in one style, drawn for the scene; every caption ends in its name."""

    @property
    def identity(self) -> Any:
        return {**super().identity, "world": NAME}

    def sample(self, split: str, index: int) -> Sample:
        made = super().sample(split, index)
        style = STYLES[int(keyed_rng(NAME, self.seed, split, index).integers(len(STYLES)))]
        assert isinstance(made.image, ArrayImage)
        uid = uid_of(NAME, self.seed, split, index)
        return replace(
            made,
            uid=uid,
            image=ArrayImage(styled(made.image.pixels_HWC, style), uid),
            texts=tuple(replace(text, string=f"{text.string} , {style}") for text in made.texts),
            group=f"{made.group} , {style}",
            extras={**made.extras, "style": style},
            source=f"world:{NAME}",
        )


def styled(pixels_HWC: Pixels, style: str) -> Pixels:
    """The picture in one of `STYLES`: blurred by a thirty-second of its side; its negative; dots of eight colours by error diffusion."""
    image = Image.fromarray(pixels_HWC)
    if style == "blurred":
        return np.asarray(image.filter(ImageFilter.GaussianBlur(pixels_HWC.shape[0] / 32)))
    if style == "inverted":
        return np.asarray(255 - pixels_HWC)
    dots = image.quantize(8, dither=Image.Dither.FLOYDSTEINBERG, palette=_EIGHT)
    return np.asarray(dots.convert("RGB"))


def _eight() -> Image.Image:
    """A palette of the eight corners of the colour cube."""
    palette = Image.new("P", (1, 1))
    palette.putpalette([255 * ((corner >> channel) & 1) for corner in range(8) for channel in range(3)])
    return palette


_EIGHT = _eight()


def styles(n: int = 2000, *, seed: int = 0, split: Split = "train", size: int = 64, max_objects: int = 2) -> RenderedDataset:
    """The first `n` scenes of one split, of two things (up to `max_objects`), each in a style that its short caption names at the end."""
    world = StyledWorld(seed=seed, size=size, max_objects=max_objects, lengths=("short",), paraphrases=0, negatives=False)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
