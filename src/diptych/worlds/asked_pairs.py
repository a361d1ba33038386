"""The small rendered pairs with questions about colour and shape at each position. `world:asked_pairs`.

A question names a place, and only what stands there answers it. Texts name things with their places, so that an image encoder that learns
from these pairs has a reason to tell places apart.

>>> len(asked_pairs(4, seed=0))
4
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from diptych.core.sample import Sample
from diptych.data.text.question_answering.questions import FIELD
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.small_pairs import PLACES, SmallPairsWorld, Split

NAME = "asked_pairs"


@dataclass(frozen=True)
class AskedPairsWorld(SmallPairsWorld):
    """A world of small pairs whose samples carry two questions about each thing."""

    @property
    def identity(self) -> Any:
        return {**super().identity, "world": NAME}

    def sample(self, split: str, index: int) -> Sample:
        made = super().sample(split, index)
        questions = questions_by_place(self._drawn(split, index).things)
        uid = uid_of(NAME, self.seed, split, index)
        return replace(made, uid=uid, extras={**made.extras, FIELD: questions}, source=f"world:{NAME}")


def questions_by_place(things: Sequence[tuple[str, int]]) -> list[dict[str, str]]:
    """Questions about the colour and the shape of every thing, (noun, cell), in the order of the things."""
    questions = []
    for noun, cell in things:
        for kind, answer in zip(("colour", "shape"), noun.split(), strict=True):
            questions.append({"question": f"what {kind} is {PLACES[cell]} ?", "answer": answer, "kind": kind})
    return questions


def asked_pairs(n: int = 6000, *, seed: int = 0, split: Split = "train") -> RenderedDataset:
    """The first `n` images of one split, each with its text and four questions."""
    world = AskedPairsWorld(seed, n)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
