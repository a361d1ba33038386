"""Pairs of scenes with a statement that is true of them or not: `world:statements`, in the manner of NLVR2 (Suhr et al., 2019, 1811.00491).

"the left picture has more circles than the right one"
"something red is in both pictures"
"one of the pictures has exactly three things"
"the right picture has something blue and the left one has not"

Half of the statements are true; which, is computed from what was drawn. A statement and its truth are a question with the answer "True" or
"False".

>>> pair = statements(3)[2]
>>> len(pair.media["images"].parts), pair.extras["questions"][0]["choices"]
(2, ['True', 'False'])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from diptych.core.image import ImageSource
from diptych.core.media import MediaItem
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region
from diptych.data.text.question_answering.questions import FIELD
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.scenes.layout import COLOURS, SHAPES
from diptych.worlds.scenes.pairs import TRIES, TwoScenes, colour_of
from diptych.worlds.scenes.world import Split

NAME = "statements"
KINDS = ("more", "both", "exactly", "something")
PLURALS = {"cross": "crosses"}
SIDES, NUMBERS = ("left", "right"), ("zero", "one", "two", "three", "four", "five", "six")

Scene = Sequence[Region]


def make_statement(pair: tuple[Scene, Scene], kind: str, rng: Any) -> tuple[str, bool]:
    """A statement of that kind, and whether it is true of these scenes."""
    colour, shape, side = str(rng.choice(COLOURS)), str(rng.choice(SHAPES)), int(rng.integers(2))
    here, there = pair[side], pair[1 - side]
    if kind == "more":
        text = f"the {SIDES[side]} picture has more {PLURALS.get(shape, f'{shape}s')} than the {SIDES[1 - side]} one"
        return text, sum(r.label == shape for r in here) > sum(r.label == shape for r in there)
    if kind == "both":
        thing = here[int(rng.integers(len(here)))]
        if rng.integers(2):
            return f"a {thing.label} is in both pictures", any(r.label == thing.label for r in there)
        colour = colour_of(thing)
        return f"something {colour} is in both pictures", any(colour_of(r) == colour for r in there)
    if kind == "exactly":
        count = len(here) + int(rng.integers(-1, 2))
        number = NUMBERS[count] if count < len(NUMBERS) else str(count)
        return f"one of the pictures has exactly {number} things", count in (len(pair[0]), len(pair[1]))
    text = f"the {SIDES[side]} picture has something {colour} and the {SIDES[1 - side]} one has not"
    return text, any(colour_of(r) == colour for r in here) and not any(colour_of(r) == colour for r in there)


@dataclass(frozen=True)
class StatementWorld(TwoScenes):
    """Pairs of scenes with a statement."""

    named: ClassVar[str] = NAME

    def sample(self, split: str, index: int) -> Sample:
        rng = keyed_rng(NAME, self.seed, split, index)
        kind, answer = KINDS[int(rng.integers(len(KINDS)))], bool(rng.integers(2))
        for scenes in self.tries(split, index):
            text, true = make_statement((scenes[0].regions, scenes[1].regions), kind, rng)
            if true == answer:
                return self._made(split, index, scenes, text, kind, true)
        raise AssertionError(f"none of {TRIES} statements of kind {kind} is {answer}")

    def _made(self, split: str, index: int, scenes: Sequence[Sample], text: str, kind: str, true: bool) -> Sample:
        pictures: list[ImageSource] = [scene.image for scene in scenes if scene.image is not None]
        question = {"question": text, "answer": str(true), "choices": ["True", "False"], "kind": kind}
        return Sample(
            uid_of(NAME, self.seed, split, index),
            media={"images": MediaItem("images", tuple(pictures))},
            group=self.group(split, index),
            licence="CC0-1.0",
            source=f"world:{NAME}",
            extras={"split": split, FIELD: [question]},
        )


def statements(n: int = 2000, *, seed: int = 0, split: Split = "train", size: int = 64, max_objects: int = 4) -> RenderedDataset:
    """The first `n` pairs of one split."""
    world = StatementWorld(seed=seed, size=size, max_objects=max_objects, lengths=("short",), paraphrases=0, negatives=False)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
