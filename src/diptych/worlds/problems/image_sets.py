"""Ten pictures that differ little, and a text about one of them, in the manner of ImageCoDe: `world:image_sets`.

"there is a red circle and no blue star and a green square"

Every picture of a set has four things in the same four of nine cells, each of them one of three that belong to its cell, so that the
pictures are made alike and none of them is the model of the others. The text makes two to four statements, some of them negated
(`negated`), which hold together of one picture alone.

>>> sample = image_sets(2, seed=0)[1]
>>> len(sample.media["images"].parts), len(sample.extras["image_set"]["propositions"]) in (2, 3, 4)
(10, True)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.core.media import MediaItem
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.read.image_sets import FIELD
from diptych.worlds.rendered import RenderedDataset, SceneRandom, rows_of, uid_of
from diptych.worlds.shapes import mask_of
from diptych.worlds.small_pairs import CELL, COLOURS, JITTER, NOUNS, PLACES, SIDE

NAME = "image_sets"
Split = Literal["train", "val", "test"]
PICTURES, THINGS, OPTIONS = 10, 4, 3
Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Scene = tuple[tuple[str, int], ...]
"""Nouns and their cells; no noun twice."""


@dataclass(frozen=True)
class ImageSetWorld:
    """Sets of pictures. kind: "sets", or "captions", pictures of the same sort alone with what is in them, for an encoder to learn."""

    seed: int = 0
    least: int = 2
    most: int = 4
    negated: float = 0.4
    kind: Literal["sets", "captions"] = "sets"

    @property
    def splits(self) -> tuple[str, ...]:
        return get_args(Split)

    @property
    def identity(self) -> Any:
        return {"world": NAME, **{name: getattr(self, name) for name in ("seed", "least", "most", "negated", "kind")}}

    def group(self, split: str, index: int) -> str:
        return uid_of(NAME, self.seed, split, index)

    def sample(self, split: str, index: int) -> Sample:
        dice, uid = SceneRandom.of_scene(f"{NAME} {self.kind}", self.seed, split, index), uid_of(NAME, self.seed, split, index)
        rng = keyed_rng(NAME, self.kind, self.seed, split, index)
        if self.kind == "captions":
            (scene,) = _scenes(dice, 1)
            nouns = dice.shuffled([noun for noun, _ in scene])[: dice.between(1, THINGS)]
            caption = Text(f"there is {' and '.join(f'a {noun}' for noun in nouns)}", "en")
            picture = ArrayImage(draw([scene], rng)[0], uid)
            return Sample(uid, picture, (caption,), licence="CC0-1.0", source=f"world:{NAME}", extras={"split": split})
        while True:
            scenes, target = _scenes(dice, PICTURES), dice.below(PICTURES)
            statements = self._statements(dice, [{noun for noun, _ in scene} for scene in scenes], target)
            if self.least <= len(statements) <= self.most:
                break
        entry = {
            "text": f"there is {' and '.join(statements)}",
            "target": target,
            "ordered": False,
            "propositions": [f"there is {one}" for one in statements],
        }
        pictures = tuple(ArrayImage(pixels, f"{uid}, picture {number}") for number, pixels in enumerate(draw(scenes, rng)))
        return Sample(
            uid,
            media={"images": MediaItem("images", pictures)},
            licence="CC0-1.0",
            source=f"world:{NAME}",
            extras={"split": split, FIELD: entry},
        )

    def _statements(self, dice: SceneRandom, scenes: Sequence[set[str]], target: int) -> list[str]:
        """Statements that are true of the target, each of which is false of a picture of which all before it are true; in random order."""
        left = [scene for number, scene in enumerate(scenes) if number != target]
        statements: list[str] = []
        while left:
            shown = sorted(noun for noun in scenes[target] if any(noun not in scene for scene in left))
            absent = sorted({noun for scene in left for noun in scene - scenes[target]})
            if absent and (dice.uniform() < self.negated or not shown):
                noun = str(dice.pick(absent))
                statements.append(f"no {noun}")
                left = [scene for scene in left if noun not in scene]
            else:
                noun = str(dice.pick(shown))
                statements.append(f"a {noun}")
                left = [scene for scene in left if noun in scene]
        return dice.shuffled(statements)


def _scenes(dice: SceneRandom, count: int) -> list[Scene]:
    """Different scenes, in which each of four cells holds one of three nouns of its own."""
    cells = sorted(dice.shuffled(range(len(PLACES)))[:THINGS])
    nouns = dice.shuffled(NOUNS)
    options = [nouns[OPTIONS * group : OPTIONS * (group + 1)] for group in range(THINGS)]
    scenes: dict[Scene, None] = {}
    while len(scenes) < count:
        scenes[tuple((str(dice.pick(own)), cell) for own, cell in zip(options, cells, strict=True))] = None
    return list(scenes)


def draw(scenes: Sequence[Scene], rng: np.random.Generator) -> list[Pixels]:
    """Pictures of 48 pixels; noise and places are those of the set."""
    noise_HWC = np.clip(rng.normal(64, 30, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    shift_N2 = rng.integers(-JITTER, JITTER + 1, (len(PLACES), 2))
    pictures = []
    for scene in scenes:
        pixels_HWC = noise_HWC.copy()
        for noun, cell in scene:
            colour, shape = noun.split()
            y, x = np.ogrid[:SIDE, :SIDE]
            y = y - (cell // 3 * CELL + CELL / 2 + shift_N2[cell, 0])
            x = x - (cell % 3 * CELL + CELL / 2 + shift_N2[cell, 1])
            pixels_HWC[mask_of(shape, y, x, radius=6, side=5, arm=2)] = COLOURS[colour]
        pictures.append(pixels_HWC)
    return pictures


def image_sets(
    n: int = 2000,
    *,
    seed: int = 0,
    split: Split = "train",
    least: int = 2,
    most: int = 4,
    negated: float = 0.4,
    kind: Literal["sets", "captions"] = "sets",
) -> RenderedDataset:
    """The first `n` sets of one split, with `least` to `most` statements, of which that share is negated."""
    if not 1 <= least <= most <= THINGS or not 0 <= negated <= 1 or kind not in ("sets", "captions"):
        raise ConfigError(
            f"least is {least}, most {most}, negated {negated}, kind {kind!r} (expected 1 <= least <= most <= {THINGS}; a share; "
            "sets | captions)"
        )
    world = ImageSetWorld(seed, least, most, negated, kind)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
