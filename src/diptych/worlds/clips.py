"""Clips of one moving shape, in classes that are each other's reverse in time: left and right, up and down, growing and shrinking,
appearing and vanishing.

Every class is its partner read backwards, frame by frame and in distribution: speed, place and size are drawn so that a reversed clip is as
likely as the clip itself. So the frames of a clip, as a set, say which pair it belongs to and nothing about which of the two: a model
that takes the mean over frames is right half of the time within a pair.

>>> data = clips(4, seed=0)
>>> data[0].media["clip"].decode(frames=8).shape
(8, 48, 48, 3)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diptych.core.config import to_plain
from diptych.core.errors import ConfigError
from diptych.core.media import ArraySource, MediaItem
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.worlds.rendered import SPLITS as EVERY_SPLIT
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.shapes import mask_of

NAME = "clips"
Split = Literal["train", "val", "test"]
SPLITS = EVERY_SPLIT[:3]
PAIRS = (
    ("moving left", "moving right"),
    ("moving up", "moving down"),
    ("growing", "shrinking"),
    ("appearing", "vanishing"),
)
CLASSES = tuple(name for pair in PAIRS for name in pair)
PARTNER = {name: other for a, b in PAIRS for name, other in ((a, b), (b, a))}
COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 80, 230), "yellow": (235, 220, 50)}
SHAPES = ("circle", "square", "triangle", "cross")
NOISE = 12.0


@dataclass(frozen=True)
class ClipWorld:
    """The configuration. length  frames of a clip; size  pixels per side"""

    seed: int = 0
    length: int = 16
    size: int = 48

    def __post_init__(self) -> None:
        if self.length < 2 or not 24 <= self.size <= 512:
            raise ConfigError(f"clips of {self.length} frames and {self.size} pixels (expected 2 or more, and 24..512)")

    @property
    def identity(self) -> Any:
        return to_plain(self)

    @property
    def splits(self) -> tuple[str, ...]:
        return SPLITS

    def group(self, split: str, index: int) -> str:
        return ""

    def sample(self, split: str, index: int) -> Sample:
        """A clip, "a red circle moving left" as its text, the class as `label`, and the pair that it belongs to."""
        rng = keyed_rng(NAME, self.seed, split, index)
        label = CLASSES[int(rng.integers(len(CLASSES)))]
        colour, shape = list(COLOURS)[int(rng.integers(4))], SHAPES[int(rng.integers(4))]
        frame_THWC = self._drawn(label, colour, shape, rng)
        uid = uid_of(NAME, self.seed, split, index)
        extras = {"split": split, "label": label, "pair": min(label, PARTNER[label]), "shape": shape, "colour": colour}
        return Sample(
            uid,
            texts=(Text(f"a {colour} {shape} {label}", "en", "alt"),),
            licence="CC0-1.0",
            source=f"world:{NAME}",
            extras=extras,
            media={"clip": MediaItem("clip", (ArraySource(frame_THWC, uid),))},
        )

    def _drawn(self, label: str, colour: str, shape: str, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """Frames uint8 [T, H, W, 3]. The path runs one way and is reversed for the second class of a pair."""
        size, step_T = self.size, np.linspace(-0.5, 0.5, self.length)
        y, x = rng.uniform(0.4, 0.6, 2) * size
        radius, way = rng.uniform(0.12, 0.18) * size, rng.uniform(0.4, 0.6) * size
        y_T, x_T = np.full(self.length, y), np.full(self.length, x)
        radius_T, alpha_T = np.full(self.length, radius), np.ones(self.length)
        first = label if label in (a for a, _ in PAIRS) else PARTNER[label]
        if first == "moving left":
            x_T = x - way * step_T
        elif first == "moving up":
            y_T = y - way * step_T
        elif first == "growing":
            radius_T = radius * (1 + step_T)
        else:
            alpha_T = 0.5 + step_T
        frames = [self._frame(shape, colour, *position, rng) for position in zip(y_T, x_T, radius_T, alpha_T, strict=True)]
        return np.stack(frames if label == first else frames[::-1])

    def _frame(
        self, shape: str, colour: str, y: float, x: float, radius: float, alpha: float, rng: np.random.Generator
    ) -> npt.NDArray[np.uint8]:
        pixels_HWC = rng.normal(64, NOISE, (self.size, self.size, 3))
        down, right = np.ogrid[: self.size, : self.size]
        inside_HW = mask_of(shape, (down - y) / radius, (right - x) / radius, radius=1, side=0.85, arm=0.35)
        pixels_HWC[inside_HW] = (1 - alpha) * pixels_HWC[inside_HW] + alpha * np.array(COLOURS[colour])
        return np.clip(pixels_HWC, 0, 255).astype(np.uint8)


def clips(n: int = 2000, *, seed: int = 0, split: Split = "train", length: int = 16, size: int = 48) -> RenderedDataset:
    """The first `n` clips of one split."""
    world = ClipWorld(seed, length, size)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
