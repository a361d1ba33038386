"""Planted models on pairs of rendered scenes: a localiser that errs at a known rate, and a planner that goes by rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diptych.claims.cell import Cell, Scores
from diptych.core.contracts import Dataset
from diptych.core.grounding import PhraseBoxes, PhraseQuery
from diptych.core.image import ImageSource
from diptych.core.prompt import ImagePart, TextPart
from diptych.core.randomness import keyed_rng
from diptych.core.scene_graph import Region
from diptych.tasks.choice.mc_bench import MCBench
from diptych.worlds.scenes.layout import COLOURS, SHAPES
from diptych.worlds.scenes.pairs import Groups, colour_of, more, named, partners, scene_pairs, sharing

PAIRS, SMOKE_PAIRS = 200, 40
MISSED, FALSE, SHAKEN = 0.1, 0.1, 1.0
"""Share of things that are not found, share of phrases with a box on nothing, and pixels by which boxes are off."""


class Localiser:
    """Boxes of everything that a phrase may name: a colour and a shape in it bind, any other word binds nothing."""

    name = "planted localiser"

    def __init__(self, data: Dataset, seed: int) -> None:
        self.seed = seed
        self.known: dict[str, list[dict[str, Any]]] = {}
        for row in range(len(data)):
            sample = data[row]
            for part, things in zip(sample.media["images"].parts, sample.extras["scenes"], strict=True):
                self.known[part.name] = things

    def ground(
        self, images: Sequence[ImageSource], queries: Sequence[PhraseQuery], *, top: int = 100, batch_size: int = 16
    ) -> list[list[PhraseBoxes]]:
        return [[self._one(image, words) for words in query.words()] for image, query in zip(images, queries, strict=True)]

    def _one(self, image: ImageSource, phrase: str) -> PhraseBoxes:
        words = set(phrase.split())
        colours, shapes = words & set(COLOURS), {shape for shape in SHAPES if words & {shape, f"{shape}s"}}
        found: list[npt.NDArray[np.float64]] = []
        for place, thing in enumerate(self.known[image.name]):
            if (colours and thing["colour"] not in colours) or (shapes and thing["shape"] not in shapes):
                continue
            rng = keyed_rng("localiser", self.seed, image.name, place)
            if rng.random() >= MISSED:
                found.append(np.array(thing["box"]) + rng.normal(0, SHAKEN, 4))
        scores = [0.9] * len(found)
        rng = keyed_rng("localiser", self.seed, image.name, phrase)
        if rng.random() < FALSE:
            corner = rng.uniform(0, 40, 2)
            found.append(np.concatenate([corner, corner + rng.uniform(6, 20, 2)]))
            scores.append(0.5)
        boxes = np.array(found, np.float32).reshape(-1, 4)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        return PhraseBoxes(boxes, np.array(scores, np.float32))


class Planner:
    """Asks the localiser for every colour and shape in both pictures, and follows the rule of the text."""

    name = "rules"

    def __init__(self, localiser: Localiser) -> None:
        self.localiser = localiser

    def generate(self, images: Sequence[ImageSource | None], prompts: Sequence[Any], *, max_tokens: int = 64) -> list[str]:
        return [self._plan(image, prompt) for image, prompt in zip(images, prompts, strict=True)]

    def _plan(self, first: ImageSource, prompt: Any) -> str:
        pictures = [part.source or first for part in prompt if isinstance(part, ImagePart)]
        text = next(part.text for part in prompt if isinstance(part, TextPart)).rpartition("Text: ")[2]
        scenes = [self._things(picture) for picture in pictures]
        lines = []
        for side, groups in enumerate(meant((scenes[0], scenes[1]), text)):
            wanted = {
                (group, f"the {colour_of(thing)} {thing.label}")
                for thing, group in zip(scenes[side], groups, strict=True)
                if group
            }
            lines += [f"group {group}, image {side + 1}: {phrase}" for group, phrase in sorted(wanted)] or [
                f"image {side + 1}: none"
            ]
        return "\n".join(lines)

    def _things(self, picture: ImageSource) -> list[Region]:
        nouns = [(colour, shape) for colour in COLOURS for shape in SHAPES]
        found = []
        for colour, shape in nouns:
            answer = self.localiser.ground([picture], [PhraseQuery.of([f"the {colour} {shape}"], behind="")])[0][0]
            sure = answer.box_N4[answer.score_N > 0.7]
            found += [Region((float(b[0]), float(b[1]), float(b[2]), float(b[3])), shape, (colour,)) for b in sure]
        return found


def meant(pair: tuple[Sequence[Region], Sequence[Region]], text: str) -> Groups:
    """What a text of the world means in what was found."""
    words = text.split()
    if "colour" in words:
        return sharing(pair, colour_of, shared=True)
    if "group" in words:
        return partners(pair)
    if "shape" in words:
        return sharing(pair, lambda region: region.label, shared=False)
    if "more" in words:
        return more(pair, words[0].removesuffix("s"))
    return named(pair, words[1], words[2])


class Guesses(Localiser):
    """Boxes anywhere, whatever is asked."""

    name = "guesses"

    def _one(self, image: ImageSource, phrase: str) -> PhraseBoxes:
        rng = keyed_rng("guesses", self.seed, image.name, phrase)
        corner_N2 = rng.uniform(0, 50, (3, 2))
        boxes = np.concatenate([corner_N2, corner_N2 + rng.uniform(5, 20, (3, 2))], 1).astype(np.float32)
        return PhraseBoxes(boxes, rng.uniform(0.4, 1, 3).astype(np.float32))


@dataclass(frozen=True)
class Pairs:
    """MC-Bench on fresh pairs of the cell's seed, by the planted localiser picture by picture, with a plan, or by guessing."""

    how: Literal["single", "stepwise", "guesses"]

    def __call__(self, cell: Cell) -> Scores:
        data = scene_pairs(SMOKE_PAIRS if cell.smoke else PAIRS, seed=cell.seed)
        localiser = (Guesses if self.how == "guesses" else Localiser)(data, cell.seed)
        task = MCBench(how="stepwise" if self.how == "stepwise" else "single", draws=1)
        planner = Planner(localiser) if self.how == "stepwise" else None
        result = task.score(task.predict(localiser, data, planner=planner))
        return {name: metric.value for name, metric in result.metrics.items()}
