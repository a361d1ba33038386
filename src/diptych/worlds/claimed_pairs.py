"""The small rendered pairs with statements that are true or false, as yes/no questions. `world:claimed_pairs`.

One question for each thing: it is named as it is, or with its colour, its shape or its place changed, each in half of the cases and
independently, so that no answer follows from another.

>>> len(claimed_pairs(1, seed=0)[0].extras["questions"])
2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.data.text.question_answering.questions import FIELD
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.small_pairs import COLOURS, PLACES, SHAPES, SmallPairsWorld, Split

NAME = "claimed_pairs"


@dataclass(frozen=True)
class ClaimedPairsWorld(SmallPairsWorld):
    """A world of small pairs whose samples carry yes/no questions."""

    @property
    def identity(self) -> Any:
        return {**super().identity, "world": NAME}

    def sample(self, split: str, index: int) -> Sample:
        made = super().sample(split, index)
        things = self._drawn(split, index).things
        questions = claim_questions(things, keyed_rng(NAME, self.seed, split, index))
        uid = uid_of(NAME, self.seed, split, index)
        things_list = [f"{noun} {PLACES[cell]}" for noun, cell in things]
        extras = {**made.extras, FIELD: questions, "things": things_list}
        return replace(made, uid=uid, extras=extras, source=f"world:{NAME}")


def claim_questions(things: Sequence[tuple[str, int]], rng: np.random.Generator) -> list[dict[str, str]]:
    """A yes/no question about every thing, (noun, cell)."""
    questions = []
    for noun, cell in things:
        holds = bool(rng.random() < 0.5)
        claimed = (noun, cell) if holds else _changed((noun, cell), things, rng)
        words = f"is there a {claimed[0]} {PLACES[claimed[1]]} ?"
        questions.append({"question": words, "answer": "yes" if holds else "no", "kind": "claim"})
    return questions


def _changed(thing: tuple[str, int], things: Sequence[tuple[str, int]], rng: np.random.Generator) -> tuple[str, int]:
    """The thing with another colour, shape or place, as which nothing is there."""
    colour, shape = thing[0].split()
    while True:
        what = int(rng.integers(3))
        noun = f"{rng.choice(list(COLOURS)) if what == 0 else colour} {rng.choice(SHAPES) if what == 1 else shape}"
        changed = noun, int(rng.integers(len(PLACES))) if what == 2 else thing[1]
        if changed not in things:
            return changed


def claimed_pairs(n: int = 6000, *, seed: int = 0, split: Split = "train") -> RenderedDataset:
    """The first `n` images of one split, each with its text, which names both things and their places, and a yes/no question about each."""
    world = ClaimedPairsWorld(seed, n)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
