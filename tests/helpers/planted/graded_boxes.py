"""GroundVLP's grades on scenes whose maps are planted: a smooth bump on the thing that is meant, weaker ones on the others, and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.claims.cell import Cell, Scores
from diptych.core.box_iou import box_iou
from diptych.core.contracts import Dataset, MatchMap
from diptych.core.image import ImageSource
from diptych.core.randomness import keyed_rng
from diptych.core.scene_graph import Region, SceneGraph
from diptych.pipelines.groundvlp import GroundVLP, ReferringExpression, Weighing
from diptych.worlds.scenes.layout import COLOURS
from diptych.worlds.scenes.world import scenes

SCENES, SMOKE_SCENES = 300, 8
GRID = 16
"""Rows and columns of a map, as of ALBEF at 256 pixels."""
OTHERS, NOISE = 0.3, 0.05
"""How high the bump on a thing that is not meant is, and the mean of the noise, where the thing that is meant has 1: such maps are close to
0 nearly everywhere."""
BOXES, SMALLEST, LARGEST = 3, 0.6, 1.6
"""Proposals of a thing, and how large they are beside it, drawn evenly on a logarithmic scale."""


class Looks:
    """Maps of scenes by the name of their picture: every token has that of the whole text, with noise of its own."""

    name = "planted maps"

    def __init__(self, data: Dataset, seed: int) -> None:
        self.seed = seed
        self.known = {sample.image.name: sample.regions for sample in map(data.__getitem__, range(len(data))) if sample.image}

    def map_match(self, image: ImageSource, texts: Sequence[str], *, layer: int | None = None) -> list[MatchMap]:
        return [self._one(image, text) for text in texts]

    def _one(self, image: ImageSource, text: str) -> MatchMap:
        regions = self.known[image.name]
        offsets = [(0, 0)]
        at = 0
        for word in text.split():
            begin = text.index(word, at)
            at = begin + len(word)
            offsets.append((begin, at))
        rng = keyed_rng("looks", self.seed, image.name, text)
        heights = [1.0 if _name(region) in text else OTHERS for region in regions]
        grid = sum((height * _bump(region) for height, region in zip(heights, regions, strict=True)), np.zeros((GRID, GRID)))
        noise = rng.exponential(NOISE, (len(offsets), GRID, GRID))
        return MatchMap(1.0, (grid + noise).astype(np.float32), np.array(offsets, np.int64), (0.0, 0.0, 1.0, 1.0))


class Proposes:
    """Of every thing some boxes around its centre, smaller or larger than it is."""

    name = "planted proposals"

    def __init__(self, data: Dataset, seed: int) -> None:
        self.looks = Looks(data, seed)

    def detect(
        self,
        images: Sequence[ImageSource],
        *,
        objects: Sequence[str],
        relations: Sequence[str] = (),
        top: int = 100,
        threshold: float = 0.0,
        batch_size: int = 16,
    ) -> list[SceneGraph]:
        """No score says which is better: the first `top`."""
        return [SceneGraph(tuple(self._of(image)[:top])) for image in images]

    def _of(self, image: ImageSource) -> list[Region]:
        rng = keyed_rng("proposes", self.looks.seed, image.name)
        found = []
        for region in self.looks.known[image.name]:
            x0, y0, x1, y1 = region.box
            for scale in np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST), BOXES)):
                wide, tall = (x1 - x0) * scale / 2, (y1 - y0) * scale / 2
                x, y = (x0 + x1) / 2 + rng.normal(0, 0.5), (y0 + y1) / 2 + rng.normal(0, 0.5)
                box = np.clip([x - wide, y - tall, x + wide, y + tall], 0, 64)
                found.append(Region((float(box[0]), float(box[1]), float(box[2]), float(box[3])), "thing"))
        return found


@dataclass(frozen=True)
class Graded:
    """The share of things, one a scene, whose box is found at an overlap of .5, by GroundVLP with a weighing; `weighing` "random" takes
    any proposal, "anywhere" a box of a thing's size anywhere."""

    weighing: Weighing | str

    def __call__(self, cell: Cell) -> Scores:
        count = SMOKE_SCENES if cell.smoke else SCENES
        data = scenes(count, seed=cell.seed, split="test", lengths=("short",), paraphrases=0, negatives=False)
        looks, proposes = Looks(data, cell.seed), Proposes(data, cell.seed)
        weighing: Any = "weighted" if self.weighing in ("random", "anywhere") else self.weighing
        asks = GroundVLP(looks, proposes, weighing=weighing, names=("thing",))
        right = []
        for row in range(len(data)):
            sample = data[row]
            rng = keyed_rng("graded", cell.seed, row)
            region = sample.regions[int(rng.integers(len(sample.regions)))]
            assert sample.image is not None
            answer = asks.run(ReferringExpression(sample.image, f"the {_name(region)}"))
            best = int(rng.integers(len(answer.regions))) if self.weighing == "random" else answer.best
            assert best is not None
            box = np.array([answer.regions[best].box])
            if self.weighing == "anywhere":
                box = np.tile(rng.uniform(0, 64 - 16, 2), 2)[None] + np.array([[0, 0, 16, 16]])
            right.append(float(box_iou(box, np.array([region.box]))[0, 0] >= 0.5))
        return {"accuracy": float(np.mean(right))}


def _name(region: Region) -> str:
    return f"{next(word for word in region.attributes if word in COLOURS)} {region.label}"


def _bump(region: Region) -> npt.NDArray[np.float64]:
    """[GRID, GRID]: highest at the centre of a thing, half as high at the edge of its box."""
    x0, y0, x1, y1 = (end * GRID / 64 for end in region.box)
    place = np.arange(GRID) + 0.5
    x, y = (place - (x0 + x1) / 2) / max(x1 - x0, 1), (place - (y0 + y1) / 2) / max(y1 - y0, 1)
    bump: npt.NDArray[np.float64] = np.exp(-4 * np.log(2) * (x[None, :] ** 2 + y[:, None] ** 2))
    return bump
