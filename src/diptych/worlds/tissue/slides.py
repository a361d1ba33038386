"""Whole slides: a piece of tissue on glass, some with a share of tumour; the truth is known for every tile.

A slide is a tiled TIFF of three levels with half a micrometre a pixel, held in memory, as the medium "slide". Its patient, whether it
shows a tumour, which kind, and where are known: the medium "mask" is a picture with a pixel a tile, white where the tumour is.

Letters: T U rows and columns of tiles.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from diptych.core.config import to_plain
from diptych.core.errors import ConfigError
from diptych.core.image import BytesImage
from diptych.core.media import MediaItem
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.media.formats.tiled_tiff import pyramid, tiled_tiff
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.tissue.tiles import Pixels, glass, stain, tile
from diptych.worlds.tissue.tree import LEAVES, NORMAL

NAME = "slides"
SPACING = 0.5
"""Micrometres a pixel of level 0."""
LEVELS = 3
GLASS, TISSUE, TUMOUR = 0, 1, 2
Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class SlideWorld:
    """The configuration.

    tiles   of a side of the slide, each of 48 pixels
    tumour  share of the slides that show one
    share   smallest and largest share of the tissue that is tumour, if there is one
    kinds   that occur; empty takes all sixteen
    """

    seed: int = 0
    tiles: int = 16
    tumour: float = 0.5
    share: tuple[float, float] = (0.05, 0.2)
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.tiles < 8 or not 0 <= self.tumour <= 1 or not 0 < self.share[0] <= self.share[1] <= 1:
            raise ConfigError(
                f"tiles {self.tiles}, tumour {self.tumour:g}, share {self.share} (expected 8 or more, a share, and two shares in order)"
            )
        if unknown := [kind for kind in self.kinds if kind not in LEAVES]:
            raise ConfigError(f"unknown kind of tissue {unknown[0]!r} (expected {', '.join(LEAVES)})")

    @property
    def identity(self) -> Any:
        return to_plain(self)

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "val", "test")

    def group(self, split: str, index: int) -> str:
        """The patient, who has two slides."""
        return f"{split}-patient-{index // 2}"

    def kind(self, split: str, index: int) -> str:
        """The kind of tumour of a slide, "" for none: every second slide or so has one, and kinds take turns."""
        if not self._has_tumour(index):
            return ""
        before = int(index * self.tumour)
        kinds = self.kinds or LEAVES
        return kinds[before % len(kinds)]

    def _has_tumour(self, index: int) -> bool:
        """That share of the slides, spread evenly."""
        return int((index + 1) * self.tumour) > int(index * self.tumour)

    def sample(self, split: str, index: int) -> Sample:
        rng = keyed_rng(NAME, self.seed, split, index)
        kind, uid = self.kind(split, index), uid_of(NAME, self.seed, split, index)
        truth_TU = layout(rng, self.tiles, float(rng.uniform(*self.share)) if kind else 0.0)
        tiff = tiled_tiff(pyramid(drawn(rng, truth_TU, kind), LEVELS), spacing=SPACING)
        share = float((truth_TU == TUMOUR).sum() / (truth_TU != GLASS).sum())
        label_text = f"a slide with {kind}" if kind else "a slide of normal tissue"
        return Sample(
            uid,
            None,
            (Text(label_text, "en", "label"),),
            group=self.group(split, index),
            licence="CC0-1.0",
            source=f"world:{NAME}",
            media={
                "slide": MediaItem("slide", (BytesImage(tiff, f"{uid}.tif"),)),
                "mask": MediaItem("image", (BytesImage(_png(truth_TU == TUMOUR), f"{uid}.png"),)),
            },
            extras={"split": split, "label": kind or NORMAL, "tumour": int(bool(kind)), "share": share},
        )


def layout(rng: np.random.Generator, tiles: int, share: float) -> npt.NDArray[np.uint8]:
    """[tiles, tiles] of 0 glass, 1 normal tissue, 2 tumour: an oval of tissue, and in it one patch of so much of it, of a tile at least
    where `share` is above 0."""
    y, x = (np.mgrid[:tiles, :tiles] + 0.5) / tiles - 0.5
    turn = rng.uniform(0, np.pi)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    tissue_TU = (along / rng.uniform(0.38, 0.46)) ** 2 + (across / rng.uniform(0.28, 0.4)) ** 2 <= 1
    truth_TU: npt.NDArray[np.uint8] = tissue_TU.astype(np.uint8)
    if share:
        inside = np.argwhere(tissue_TU)
        centre = inside[int(rng.integers(len(inside)))]
        nearest = np.argsort(((inside - centre) ** 2).sum(1), kind="stable")[: max(1, round(share * len(inside)))]
        truth_TU[tuple(inside[nearest].T)] = TUMOUR
    return truth_TU


def drawn(rng: np.random.Generator, truth_TU: npt.NDArray[np.uint8], kind: str) -> Pixels:
    """uint8 [T * 48, U * 48, 3]: a tile of glass, normal tissue or that kind of tumour at each place, all stained alike."""
    stain_3, rows = stain(rng), []
    for truth_U in truth_TU:
        rows.append(
            np.concatenate(
                [
                    glass(rng) if truth == GLASS else tile(rng, kind if truth == TUMOUR else "", stain_3=stain_3)
                    for truth in truth_U
                ],
                1,
            )
        )
    return np.concatenate(rows)


def _png(mask_TU: npt.NDArray[np.bool_]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mask_TU.astype(np.uint8) * 255).save(file, "PNG")
    return file.getvalue()


def slides(
    n: int = 16,
    *,
    seed: int = 0,
    split: Split = "train",
    tiles: int = 16,
    tumour: float = 0.5,
    least: float = 0.05,
    most: float = 0.2,
    kinds: tuple[str, ...] = (),
) -> RenderedDataset:
    """The first `n` slides of one split; see `SlideWorld`. `least` and `most` are its `share`."""
    world = SlideWorld(seed, tiles, tumour, (least, most), tuple(kinds))
    return RenderedDataset(NAME, world, rows_of(world, split, n))
