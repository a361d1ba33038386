"""Drawn pairs of persons whose relation shows in small things, and a planted model that sees every picture coarsely.

The model has no weights. Whatever picture it is shown it sees as a grid of `EYE` x `EYE` cells, so that of a whole picture it loses what it
sees in a crop: a tie, an instrument. As a captioner it says what it sees; as a storyteller it repeats the records in sentences; as a
reasoner it applies one rule to what is said, or, asked directly, to what it sees in the people's boxes. The same model answers both ways.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from diptych.claims.cell import Cell, Scores
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.prompt import PromptLike, as_dialogue
from diptych.core.randomness import keyed_rng
from diptych.core.scene_graph import Box
from diptych.data.media.decode import decode
from diptych.pipelines._social.perception import CAPTION
from diptych.pipelines.socialgpt import PairRequest, SocialGPT

RELATIONS = ("father-child", "sport team members", "band members", "colleagues")
SHIRTS = {"red": (200, 40, 40), "blue": (40, 60, 200), "green": (40, 150, 60), "grey": (130, 130, 130)}
TIE, GUITAR, SKIN = (10, 10, 10), (240, 210, 40), (230, 180, 150)
SIDE, EYE, PAIRS, SMOKE_PAIRS = 96, 12, 120, 4
MISSED = 0.08
"""Share of the looks in which the model overlooks ties and instruments."""
NOISE = 12.0
"""Standard deviation of what is added to every pixel."""

Pixels = npt.NDArray[np.uint8]
Mode = Literal["story", "direct", "whole", "other"]


@dataclass(frozen=True, slots=True)
class SocialPair:
    """A picture of two persons, their boxes, and how they are related."""

    pixels_HWC: Pixels
    boxes: tuple[Box, Box]
    relation: str


def social_pair(seed: int, number: int) -> SocialPair:
    """Equal shirts make a team, ties colleagues, instruments a band; a child beside a man is his."""
    rng = keyed_rng("social pair", seed, number)
    relation = RELATIONS[int(rng.integers(len(RELATIONS)))]
    names = rng.permutation(list(SHIRTS)).tolist()
    shirts = [names[0], names[0] if relation == "sport team members" else names[1]]
    thing = {"colleagues": "tie", "band members": "guitar"}.get(relation, "")
    heights = [int(rng.integers(52, 60)), int(rng.integers(26, 32)) if relation == "father-child" else int(rng.integers(52, 60))]
    if rng.random() < 0.5:
        heights.reverse()
    canvas = np.full((SIDE, SIDE, 3), rng.integers(170, 230), np.float64)
    boxes = []
    for middle, shirt, height in zip(
        (26 + int(rng.integers(-4, 5)), 70 + int(rng.integers(-4, 5))), shirts, heights, strict=True
    ):
        boxes.append(_draw(canvas, middle, height, SHIRTS[shirt], thing))
    noisy = np.clip(canvas + rng.normal(0, NOISE, canvas.shape), 0, 255).astype(np.uint8)
    return SocialPair(noisy, (boxes[0], boxes[1]), relation)


def _draw(canvas: Any, middle: int, height: int, shirt: tuple[int, int, int], thing: str) -> Box:
    top, wide, head = SIDE - 8 - height, max(5, height // 5), height // 4
    canvas[top : top + head, middle - wide // 2 : middle + wide // 2] = SKIN
    canvas[top + head : SIDE - 8, middle - wide : middle + wide] = shirt
    if thing == "tie":
        canvas[top + head : top + head + height // 3, middle - 2 : middle + 2] = TIE
    elif thing == "guitar":
        canvas[top + head + 8 : top + head + 20, middle + 2 : middle + 6] = GUITAR
    return float(middle - wide), float(top), float(middle + wide), float(SIDE - 8)


@dataclass(frozen=True, slots=True)
class Onlooker:
    """A `Generator` that sees coarsely, as its module says. `seed` is that of its guesses."""

    seed: int
    name: str = "onlooker"
    fingerprint: str = "1"

    def generate(self, images: Sequence[ImageSource | None], prompts: Sequence[PromptLike], *, max_tokens: int = 64) -> list[str]:
        return [self._reply(image, as_dialogue(prompt).turns[-1].text) for image, prompt in zip(images, prompts, strict=True)]

    def _reply(self, image: ImageSource, asked: str) -> str:
        if asked == CAPTION:
            words = recognised(decode(image, exact=True))
            overlooked = keyed_rng("look", self.seed, image.name).random() < MISSED
            return " ".join(("a person in", *(words[:1] if overlooked else words)))
        if "People and things:" in asked:
            return _story(asked.rpartition("People and things:")[2])
        if "The picture shows" in asked:
            pixels_HWC, boxes = coarse(decode(image, exact=True)), _boxes(asked.rpartition("The picture shows")[2])
            people = [(box[3] - box[1], recognised(part_of(pixels_HWC, box, SIDE))) for box in boxes]
            return self._answer(people)
        if "[1. image description]:" in asked:
            return self._answer(_people_of(asked.rpartition("[1. image description]:")[2]))
        return "unclear"

    def _answer(self, people: Sequence[tuple[float, Sequence[str]]]) -> str:
        heights, words = [height for height, _ in people], [set(some) for _, some in people]
        if len(people) < 2 or min(heights) <= 0.7 * max(heights):
            relation = RELATIONS[0]
        elif all("guitar" in some for some in words):
            relation = RELATIONS[2]
        elif all("tie" in some for some in words):
            relation = RELATIONS[3]
        elif words[0] & set(SHIRTS) == words[1] & set(SHIRTS):
            relation = RELATIONS[1]
        else:  # nothing tells: the two that remain are equally likely
            relation = RELATIONS[2 + int(keyed_rng("guess", self.seed, *map(str, heights)).integers(2))]
        return f"[The final answer is <{relation}>]."


def coarse(pixels_HWC: Pixels) -> Pixels:
    """Means over `EYE` x `EYE` cells."""
    return np.asarray(Image.fromarray(pixels_HWC).resize((EYE, EYE), Image.Resampling.BOX))


def part_of(grid_HWC: Pixels, box: Sequence[float], side: int) -> Pixels:
    """Cells of a grid whose middles lie within a box of a picture of that side, one at least."""
    x0, y0, x1, y1 = (value * EYE / side for value in box)
    columns, rows = (
        [cell for cell in range(EYE) if low <= cell + 0.5 <= high] or [min(EYE - 1, int(low))]
        for low, high in ((x0, x1), (y0, y1))
    )
    return grid_HWC[np.ix_(rows, columns)]


def recognised(pixels_HWC: Pixels) -> tuple[str, ...]:
    """The shirt's colour in the lower half, and tie or guitar where a cell has nearly its colour."""
    grid_HWC = coarse(pixels_HWC) if min(pixels_HWC.shape[:2]) > EYE else pixels_HWC
    cells_NC = grid_HWC.reshape(-1, 3).astype(np.float64)
    lower_NC = grid_HWC[len(grid_HWC) // 2 :].reshape(-1, 3).astype(np.float64)
    votes = [int((np.linalg.norm(lower_NC - np.array(rgb), axis=1) < 70).sum()) for rgb in SHIRTS.values()]
    words = [list(SHIRTS)[int(np.argmax(votes))]]
    words += [
        name for name, rgb in (("tie", TIE), ("guitar", GUITAR)) if (np.linalg.norm(cells_NC - np.array(rgb), axis=1) < 70).any()
    ]
    return tuple(words)


def _boxes(text: str) -> list[list[float]]:
    return [[float(value) for value in match.split(", ")] for match in re.findall(r"\[([\d., -]+)\]", text)]


def _story(records: str) -> str:
    records_found = re.findall(r"<symbol>:\[(\w+)\] , <coordinate>:\[([\d, -]+)\] , <caption>:\[([^\]]*)\]", records)
    return " ".join(f"<{symbol}> is {caption}, {where.split(', ')[3]} high." for symbol, where, caption in records_found)


def _people_of(story: str) -> list[tuple[float, Sequence[str]]]:
    return [(float(high), words.split()) for words, high in re.findall(r"<P\d> is ([^,]*), (\d+) high", story)]


@dataclass(frozen=True)
class Related:
    """Names the relations of drawn pairs.

    mode  "story" of the picture, "direct" question, story of captions of the "whole" picture in place of crops, or of an "other" picture
    """

    mode: Mode = "story"

    def __call__(self, cell: Cell) -> Scores:
        count = SMOKE_PAIRS if cell.smoke else PAIRS
        pairs = [social_pair(cell.seed, number) for number in range(count)]
        right = [self._relation(pairs, row, cell.seed) == pair.relation for row, pair in enumerate(pairs)]
        return {"accuracy": float(np.mean(right))}

    def _relation(self, pairs: Sequence[SocialPair], row: int, seed: int) -> str:
        pair = pairs[(row + 1) % len(pairs)] if self.mode == "other" else pairs[row]
        image = ArrayImage(pair.pixels_HWC, f"pair {row}")
        pipeline = SocialGPT(Onlooker(seed), how="direct" if self.mode == "direct" else "story")
        if self.mode != "whole":
            return pipeline.run(PairRequest(image, *pair.boxes)).relation
        records = pipeline.perceive(image, pair.boxes)
        alike = tuple(replace(one, caption=records.caption) for one in records.described)
        story = pipeline.story(replace(records, described=alike))
        reply = pipeline.reasoner.generate([image], [pipeline.reasoning_prompt(story)])[0]
        return re.sub(r".*<(.+)>.*", r"\1", reply)
