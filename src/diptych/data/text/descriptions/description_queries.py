"""Queries for detectors made of descriptions: the classes of a picture, or the nouns of its caption (DesCo, Li et al., 2023, 2306.14060).

A noun becomes "noun, a kind of TYPE, this, that. ", half of the time without the noun. Only its head, noun and type, is what a region has
to answer; what follows acts through the context that the detector reads.

What implementations get wrong, the release among them: whether the noun is left out is drawn again when the length is measured
(here once); more than eight classes in a picture ask for a negative number of others (here eight are drawn); a query may ask for
nothing (here for a class that is not there, or for one that is where the picture has every class); a noun whose phrase has two of them
keeps the head of the last one alone (`every_piece=False`), so the others count as wrong.

Entities of a query are what the caller calls them: names of classes, places of phrases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from diptych.core.errors import ConfigError
from diptych.data.text.captions.phrases import Sentence
from diptych.data.text.descriptions.knowledge import Knowledge, Noun
from diptych.data.text.tokens.spans import Entity, SpanText

Positive = Literal["partial", "all"]
Form = Literal["description", "name"]
Count = Callable[[str], int]
"""Number of tokens of a text, marks not counted."""

BEFORE = "Detect: "
CLASSES = 8
TOKENS = 254
WORDS = 180


def spoken_name(name: str) -> str:
    """The name of a class as it stands in a query: without what is in brackets, underscores as blanks, "whole:part" as "part of
    whole" (as released for COCO, LVIS and the rest; a blank that is left at an end is dropped).

    >>> spoken_name("aerosol_can"), spoken_name("bow_(weapon)"), spoken_name("Chair:Leg")
    ('aerosol can', 'bow', 'Leg of Chair')
    """
    if name.count(":") == 1:
        whole, part = name.split(":")
        return f"{spoken_name(part)} of {spoken_name(whole)}"
    return re.sub(r"\(.*\)", "", name).replace("_", " ").replace("  ", " ").strip() or name


def description_text(name: str, noun: Noun, entity: Entity, *, named: bool = True, positive: Positive = "partial") -> SpanText:
    """ "name, kind, this, that. " or, without the name, "kind, this, that. ". The entity stands at its head with the comma after it, as
    released, or with `positive` "all" everywhere.

    >>> cup = Noun("a kind of vessel", ("round", "has a handle"))
    >>> text = description_text("cup", cup, 0)
    >>> text.text, text.words(0)
    ('cup, a kind of vessel, round, has a handle. ', ['cup, a kind of vessel, '])
    >>> description_text("cup", cup, 0, named=False).words(0)
    ['a kind of vessel, ']
    """
    heads = [name] * named + [noun.kind]
    pieces = [*heads, *noun.description]
    texts = [piece + (", " if position < len(pieces) - 1 else ". ") for position, piece in enumerate(pieces)]
    shown = texts if positive == "all" else texts[: len(heads)]
    return SpanText("".join(texts), {entity: ((0, len("".join(shown))),)})


@dataclass(frozen=True, slots=True)
class ClassQueries:
    """Queries of the classes of a detection data set.

    form       "description" (published), or "name": names only, the baseline
    positive   which part of a description a region answers: its head ("partial", published) or all of it
    drop_name  share of the descriptions that leave the noun out (published 1/2)
    classes    in a query, at most
    before     what every query begins with
    missing    a class without an entry in the knowledge is refused, or asked for by its name
    """

    form: Form = "description"
    positive: Positive = "partial"
    drop_name: float = 0.5
    classes: int = CLASSES
    before: str = BEFORE
    missing: Literal["refuse", "name"] = "refuse"

    def __post_init__(self) -> None:
        if self.form not in ("description", "name") or self.positive not in ("partial", "all"):
            raise ConfigError(f"form is {self.form!r}, positive {self.positive!r} (expected description | name, partial | all)")
        if not 0 <= self.drop_name <= 1 or self.classes < 1:
            raise ConfigError(f"drop_name is {self.drop_name}, classes {self.classes} (expected a share, and one class or more)")

    def draw(
        self,
        present: Sequence[str],
        all_classes: Sequence[str],
        knowledge: Knowledge,
        rng: np.random.Generator,
        *,
        tokens: int = TOKENS,
        count: Count,
    ) -> SpanText:
        """A query for a picture with the classes `present`, filled up with others from `all_classes`; the entities are class
        names. Half of the queries ask for all classes that are present; a query may ask for none of them.

        tokens   the query is no longer, what precedes it not counted; a class that does not fit ends it
        """
        chosen = self.chosen(list(dict.fromkeys(present)), list(all_classes), rng)
        pieces: list[SpanText] = []
        for name in chosen:
            piece = self.piece(name, knowledge, named=bool(rng.random() >= self.drop_name))
            tokens -= count(piece.text)
            if tokens <= 0:
                break
            pieces.append(piece)
        order = rng.permutation(len(pieces))
        return SpanText.joined([self.before, *(pieces[int(position)] for position in order)])

    def chosen(self, present: list[str], all_classes: list[str], rng: np.random.Generator) -> list[str]:
        """The classes of a query in random order ("allow_zero")."""
        positives = min(len(present), self.classes)
        negatives = self.classes - positives
        kind = rng.random()
        if kind >= 0.6:
            positives = int(rng.integers(max(1, positives + 1)))
        elif kind >= 0.5:
            negatives = int(rng.integers(negatives + 1))
        here = set(present)
        others = [name for name in all_classes if name not in here]
        if positives + min(negatives, len(others)) == 0:
            # Nothing would be asked for: another class, or, where the picture has all there are, one of its own.
            positives, negatives = (0, 1) if others else (1, 0)
        names = [present[int(n)] for n in rng.permutation(len(present))[:positives]]
        names += [others[int(n)] for n in rng.permutation(len(others))[:negatives]]
        return [names[int(n)] for n in rng.permutation(len(names))]

    def piece(self, name: str, knowledge: Knowledge, *, named: bool = True) -> SpanText:
        """Query text for one class."""
        if self.form == "name" or (self.missing == "name" and name not in knowledge):
            return SpanText(f"{spoken_name(name)}. ", {name: ((0, len(spoken_name(name))),)})
        return description_text(spoken_name(name), knowledge[name], name, named=named, positive=self.positive)


@dataclass(frozen=True, slots=True)
class NounQueries:
    """Queries of the nouns of a caption, which itself is thrown away (the release calls it "v3").

    drop_name    share of the descriptions that leave the noun out
    words        of all descriptions together, at most
    every_piece  all descriptions of a phrase answer its regions; False: the last one alone, as released
    """

    drop_name: float = 0.5
    words: int = WORDS
    every_piece: bool = True

    def draw(self, sentence: Sentence, knowledge: Knowledge, rng: np.random.Generator) -> SpanText | None:
        """A description of every uncommon noun of the phrases, of what each could be taken for, and of others up to the budget, shuffled;
        the entities are the places of the phrases. None if no phrase has such a noun: the caption stays."""
        left, pieces = self.words, list[SpanText]()

        def add(noun: str, entity: Entity | None) -> bool:
            nonlocal left
            named = bool(rng.random() >= self.drop_name)
            piece = description_text(noun, knowledge[noun], 0 if entity is None else entity, named=named)
            left -= len(piece.text.split(" "))
            if left >= 0:
                pieces.append(piece if entity is not None else SpanText(piece.text))
            return left >= 0

        texts = _distinct(sentence)
        for position in rng.permutation(len(texts)):
            text, entity = texts[int(position)]
            for noun in [noun_name for word in text.split(" ") if (noun_name := knowledge.uncommon(word))]:
                if not add(noun, entity):
                    break
                for similar in knowledge[noun].similar:
                    if (other := knowledge.uncommon(similar)) and not add(other, None):
                        break
        if not pieces:
            return None
        others = [noun for noun in knowledge if knowledge.uncommon(noun)]
        while left > 0 and add(others[int(rng.integers(len(others)))], None):
            pass
        return self._joined([pieces[int(position)] for position in rng.permutation(len(pieces))], sentence)

    def _joined(self, pieces: Sequence[SpanText], sentence: Sentence) -> SpanText:
        if not self.every_piece:
            last = {entity: position for position, piece in enumerate(pieces) for entity in piece.spans}
            pieces = [
                piece.only([entity for entity in piece.spans if last[entity] == position])
                for position, piece in enumerate(pieces)
            ]
        query = SpanText.joined(pieces)
        # Phrases of the same words mean the same description.
        first = dict(_distinct(sentence))
        for position, words in _words(sentence).items():
            if (entity := first[words]) != position and entity in query.spans:
                query = query.also(position, *query.spans[entity])
        return query


def _words(sentence: Sentence) -> Mapping[int, str]:
    marked = sentence.marked
    return {position: " ".join(marked.words(position)) for position in range(len(sentence.phrases))}


def _distinct(sentence: Sentence) -> list[tuple[str, int]]:
    """The words of the phrases, each once, with the place of the first phrase that has them."""
    first: dict[str, int] = {}
    for position, words in _words(sentence).items():
        first.setdefault(words, position)
    return list(first.items())
