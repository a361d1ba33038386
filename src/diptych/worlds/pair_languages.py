"""The small rendered pairs with captions in three languages that order their words differently. `world:pair_languages`.

The languages are those of `world:languages`: English; "qaa", which puts the colour after the shape; and "qab", which says first
that there are two and names the second thing first.

>>> [text.language for text in pair_languages(1, seed=0)[0].texts]
['en', 'qaa', 'qab']
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from diptych.core.sample import Sample, Text
from diptych.data.text.question_answering.questions import FIELD
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.scenes.captions import Mention
from diptych.worlds.scenes.languages import JOINED, TAGS, language_questions, named, word
from diptych.worlds.small_pairs import SmallPairsWorld, Split

NAME = "pair_languages"


@dataclass(frozen=True)
class PairLanguagesWorld(SmallPairsWorld):
    """A world of small pairs whose texts say what they show in each language, and whose questions ask for each.

    The extra "things" has the two nouns ("red circle") in reading order.
    """

    @property
    def identity(self) -> Any:
        return {**super().identity, "world": NAME}

    def sample(self, split: str, index: int) -> Sample:
        made = super().sample(split, index)
        nouns = [noun for noun, _ in self._drawn(split, index).things]
        texts = tuple(Text(sentence(nouns, tag), tag) for tag in TAGS)
        uid = uid_of(NAME, self.seed, split, index)
        extras = {**made.extras, "things": nouns, FIELD: language_questions(texts)}
        return replace(made, uid=uid, texts=texts, extras=extras, source=f"world:{NAME}")


def sentence(nouns: Sequence[str], tag: str) -> str:
    """Sentence about two nouns, in reading order, in a language."""
    first, second = (noun_in(noun, tag) for noun in nouns)
    joined = word(JOINED, tag)
    return f"{joined} {second} {first}" if tag == "qab" else f"{first} {joined} {second}"


def noun_in(noun: str, tag: str) -> str:
    """A noun, "red circle", in a language: "a red circle" in English."""
    colour, shape = noun.split()
    thing = named(Mention(shape, colour), tag)
    return f"a {thing}" if tag == "en" else thing


def pair_languages(n: int = 6000, *, seed: int = 0, split: Split = "train") -> RenderedDataset:
    """The first `n` images of one split, each with a caption in English, "qaa" and "qab"."""
    world = PairLanguagesWorld(seed, n)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
