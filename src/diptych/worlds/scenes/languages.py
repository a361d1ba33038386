"""Scenes with captions in three languages that order their words differently. `world:languages`.

English, and two that are made up: "qaa" puts what qualifies after what it qualifies and the relation last; "qab" begins with the
relation, names the other thing first, and qualifies before. Each has words of its own. Tags are of the range that ISO 639-2
leaves for such uses.

>>> [text.string for text in languages(1, seed=0)[0].texts][0].split()[0]
'a'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.text.question_answering.questions import FIELD
from diptych.worlds.rendered import RenderedDataset, SceneRandom, rows_of, uid_of
from diptych.worlds.scenes.captions import SURFACES, Mention, Statement, statement
from diptych.worlds.scenes.layout import COLOURS, SHAPES, layout
from diptych.worlds.scenes.world import SceneWorld, Split

NAME = "languages"
TAGS = ("en", "qaa", "qab")
NAMES = {"en": "english", "qaa": "qaan", "qab": "qaban"}
"""What the languages are called in a request."""
REQUEST = "caption in {language} :"
JOINED = "and"
"""Conjunction between two things without a relation."""
SOUNDS = {"qaa": (("l", "m", "n", "r", "v"), ("a", "e", "u")), "qab": (("k", "t", "p", "z", "sh"), ("i", "o", "ai"))}


@dataclass(frozen=True)
class LanguagesWorld(SceneWorld):
    """A scenes world with flat looks whose texts are the same statement in each of `TAGS`, and whose questions ask for each."""

    @property
    def identity(self) -> Any:
        return {**super().identity, "world": NAME}

    def sample(self, split: str, index: int) -> Sample:
        made = super().sample(split, index)
        stated = statement(layout(SceneRandom.of_scene("scenes", self.seed, split, index), self._rules(split)))
        texts = tuple(Text(sentence(stated, tag), tag) for tag in TAGS)
        uid = uid_of(NAME, self.seed, split, index)
        return replace(
            made, uid=uid, texts=texts, extras={**made.extras, FIELD: language_questions(texts)}, source=f"world:{NAME}"
        )


def language_questions(texts: Sequence[Text]) -> list[dict[str, str]]:
    """A question for each text, which names its language."""
    return [
        {"question": REQUEST.format(language=NAMES[text.language]), "answer": text.string, "kind": text.language}
        for text in texts
    ]


def sentence(stated: Statement, tag: str) -> str:
    """The statement in a language."""
    one, two = (named(thing, tag) for thing in (stated.subject, stated.other))
    if tag == "en":
        return stated.words
    relation = _words(tag)[stated.predicate]
    return f"{one} {two} {relation}" if tag == "qaa" else f"{relation} {two} {one}"


def named(thing: Mention, tag: str) -> str:
    """A thing in a language, by colour and shape in its order."""
    if tag == "en":
        return thing.words
    colour, label = _words(tag)[thing.colour], _words(tag)[thing.label]
    return f"{label} {colour}" if tag == "qaa" else f"{colour} {label}"


def word(meaning: str, tag: str) -> str:
    """A word for a colour, a shape, a predicate or `JOINED`, in a language."""
    return meaning if tag == "en" else _words(tag)[meaning]


@lru_cache(maxsize=len(TAGS))
def _words(tag: str) -> dict[str, str]:
    """English words to those of a made-up language, of two syllables each, no two alike."""
    rng = keyed_rng(NAME, tag)
    onsets, vowels = SOUNDS[tag]
    syllables = [onset + vowel for onset in onsets for vowel in vowels]
    pairs = [first + second for first in syllables for second in syllables]
    drawn = rng.permutation(len(pairs))
    meanings = [*COLOURS, *SHAPES, *SURFACES, "white", JOINED]
    return {meaning: pairs[position] for meaning, position in zip(meanings, drawn, strict=False)}


def languages(n: int = 2000, *, seed: int = 0, split: Split = "train", size: int = 64, max_objects: int = 2) -> RenderedDataset:
    """The first `n` scenes of one split, of two things (up to `max_objects`), each with a short caption in English, "qaa" and "qab"."""
    world = LanguagesWorld(seed=seed, size=size, max_objects=max_objects, lengths=("short",), paraphrases=0, negatives=False)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
