"""Scenes of sprites with the mask of each: `world:sprites`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from diptych.core.config import to_plain
from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region
from diptych.data.masks import encode
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.sprites.drawing import COLOURS, SHAPES, Sprite, draw, visible_masks
from diptych.worlds.sprites.layout import AGENT, SpriteScene, SpriteSettings, Task, scene

NAME = "sprites"
QUARTERS = ("bottom left", "bottom right", "top left", "top right")
Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class SpriteWorld:
    """The configuration.

    size      side in pixels
    task      whose scenes they are: random, target, push, odd_one_out
    agent     the agent stands in the middle
    settings  what may stand in a scene
    """

    seed: int = 0
    size: int = 64
    task: Task = "random"
    agent: bool = False
    settings: SpriteSettings = field(default_factory=SpriteSettings)

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 512:
            raise ConfigError(f"size is {self.size} (expected 16 to 512 pixels)")

    @property
    def identity(self) -> Any:
        return to_plain(self)

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "val", "test")

    def scene(self, split: str, index: int) -> SpriteScene:
        """Sprites of one picture."""
        return scene(keyed_rng(NAME, self.seed, split, index), self.task, self.settings, agent=self.agent)

    def group(self, split: str, index: int) -> str:
        return f"{self.task}-{split}-{index}"

    def sample(self, split: str, index: int) -> Sample:
        made = self.scene(split, index)
        sprites = (*made.sprites, AGENT) if self.agent else made.sprites
        uid = uid_of(NAME, self.seed, split, index)
        names = sorted(sprite.name for sprite in made.sprites)
        chosen = made.sprites[made.chosen]
        return Sample(
            uid,
            ArrayImage(draw(sprites, self.size), uid),
            (Text(", ".join(f"a {name}" for name in names), "en"),),
            regions=tuple(_regions(sprites, self.size)),
            group=self.group(split, index),
            licence="CC0-1.0",
            source=f"world:{NAME}",
            extras={
                "split": split,
                "label": QUARTERS[int(chosen.x > 0.5) + 2 * int(chosen.y > 0.5)],
                "chosen": made.chosen,
                "states": [[one.x, one.y, one.scale] for one in made.sprites],
            },
        )


def _regions(sprites: tuple[Sprite, ...], size: int) -> list[Region]:
    regions = []
    for sprite, mask_HW in zip(sprites, visible_masks(sprites, size), strict=True):
        if not mask_HW.any():
            continue
        rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
        box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        regions.append(Region(box, sprite.shape, attributes=(sprite.colour,), mask=encode(mask_HW)))
    return regions


def sprites(
    n: int = 1000,
    *,
    seed: int = 0,
    split: Split = "train",
    size: int = 64,
    task: Task = "random",
    objects: int = 5,
    colours: int = 4,
    shapes: int = 4,
    scales: tuple[float, ...] = (0.15, 0.22),
    overlap: float = 0.15,
    agent: bool = False,
    comparing: Literal["objects", "properties"] = "objects",
) -> RenderedDataset:
    """The first `n` scenes of one split: 5 objects of 4 colours, 4 shapes and 2 sizes that may hide each other, as those that OCR-RL's
    encoders learn from. The label is the quarter in which the target or the odd one lies.

    colours, shapes  how many of those there are, the first ones
    overlap          0: sprites stand apart
    """
    settings = SpriteSettings(
        objects=objects,
        colours=tuple(COLOURS)[:colours],
        shapes=tuple(SHAPES)[:shapes],
        scales=tuple(scales),
        overlap=overlap,
        comparing=comparing,
    )
    world = SpriteWorld(seed, size, task, agent, settings)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
