"""Texts with entity spans that survive joining, shuffling, dropping and cutting, down to the tokens.

A grounding query is put together from pieces: a caption and the descriptions that are added to it, the classes of a detector one after
the other, a word order that is shuffled. What is learned is which *tokens* a region answers to. `SpanText` carries the character spans of
each entity along, and `tokens` maps them through the tokenizer's own offsets.

What implementations get wrong: spans found again in the finished text by `str.find`, which answers the first of two equal phrases; a
token counted in because it begins with the blank before a span; offsets into a text that the tokenizer cleaned first.

Letters: L tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DataError, ShapeError
from diptych.core.grounding import PhraseQuery, Span

Entity = int | str
"""What a span belongs to: the number of a box, the name of a class."""


@dataclass(frozen=True, slots=True)
class SpanText:
    """A text with its entity spans, half-open: `text[start:stop]`. Spans may overlap, and an entity may have several.

    Raises DataError for a span that is empty or leaves the text.

    >>> red = SpanText.whole("a red cup", "cup")
    >>> query = SpanText.joined([SpanText("left of"), red, SpanText("beside"), SpanText.whole("a box", 7)], " ")
    >>> query.text, query.spans
    ('left of a red cup beside a box', {'cup': ((8, 17),), 7: ((25, 30),)})
    >>> query.words("cup")
    ['a red cup']
    """

    text: str
    spans: Mapping[Entity, tuple[Span, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kept: dict[Entity, tuple[Span, ...]] = {}
        for entity, spans in self.spans.items():
            for start, stop in spans:
                if not 0 <= start < stop <= len(self.text):
                    raise DataError(
                        f"{entity!r} has the span ({start}, {stop}) in a text of {len(self.text)} characters: {self.text[:60]!r}",
                        field="spans",
                        expected=f"0 <= start < stop <= {len(self.text)}",
                    )
            if spans:
                kept[entity] = tuple(sorted({(int(start), int(stop)) for start, stop in spans}))
        object.__setattr__(self, "spans", kept)

    # ------------------------------------------------------------ made from

    @classmethod
    def whole(cls, text: str, entity: Entity) -> Self:
        """A text that is all one entity."""
        return cls(text, {entity: ((0, len(text)),)})

    @classmethod
    def from_phrases(cls, text: str, phrases: Mapping[Entity, str], *, occurrence: int | None = None) -> Self:
        """Text with the span of each entity's phrase, found as whole words and in any case.

        Raises DataError for a phrase that is not there, and for one that is there more than once unless `occurrence` (from 0) says which.
        """
        return cls(text, {entity: (find(text, phrase, occurrence=occurrence),) for entity, phrase in phrases.items()})

    @classmethod
    def joined(cls, pieces: Iterable[SpanText | str], separator: str = "") -> Self:
        """Concatenation of pieces; an entity of several pieces has the spans of all of them."""
        texts: list[str] = []
        spans: dict[Entity, tuple[Span, ...]] = {}
        length = 0
        for number, piece in enumerate(pieces):
            piece = SpanText(piece) if isinstance(piece, str) else piece
            if number:
                texts.append(separator)
                length += len(separator)
            for entity, own in piece.spans.items():
                spans[entity] = spans.get(entity, ()) + tuple((start + length, stop + length) for start, stop in own)
            texts.append(piece.text)
            length += len(piece.text)
        return cls("".join(texts), spans)

    # ------------------------------------------------------------ changed

    def cut(self, start: int, stop: int) -> Self:
        """Characters from `start` up to `stop` with the spans completely inside; a span that is cut through is dropped."""
        start, stop, _ = slice(start, stop).indices(len(self.text))
        inside = {
            entity: tuple((one - start, other - start) for one, other in spans if start <= one and other <= stop)
            for entity, spans in self.spans.items()
        }
        return type(self)(self.text[start:stop], inside)

    def pieces(self, ends: Sequence[int]) -> list[Self]:
        """The text in pieces that end before these places, in order; the last reaches to the end. Blank pieces are left out."""
        bounds = [0, *ends, len(self.text)]
        parts = [self.cut(start, stop) for start, stop in itertools.pairwise(bounds) if stop > start]
        return [part for part in parts if part.text.strip()]

    def also(self, entity: Entity, *spans: Span) -> Self:
        """With further spans of an entity."""
        return type(self)(self.text, {**self.spans, entity: self.spans.get(entity, ()) + spans})

    def only(self, entities: Iterable[Entity]) -> Self:
        """The same text with the spans of these entities alone."""
        kept = set(entities)
        return type(self)(self.text, {entity: spans for entity, spans in self.spans.items() if entity in kept})

    def renamed(self, names: Mapping[Entity, Entity]) -> Self:
        """Entities under other names; two that get the same one are joined. Those without an entry keep theirs."""
        spans: dict[Entity, tuple[Span, ...]] = {}
        for entity, own in self.spans.items():
            name = names.get(entity, entity)
            spans[name] = spans.get(name, ()) + own
        return type(self)(self.text, spans)

    def merged(self, gap: int = 1) -> Self:
        """Spans of one entity with at most `gap` characters between them as one: "a" and "cup" become "a cup"."""
        spans: dict[Entity, tuple[Span, ...]] = {}
        for entity, own in self.spans.items():
            kept: list[Span] = []
            for start, stop in own:
                if kept and start - kept[-1][1] <= gap:
                    kept[-1] = kept[-1][0], max(kept[-1][1], stop)
                else:
                    kept.append((start, stop))
            spans[entity] = tuple(kept)
        return type(self)(self.text, spans)

    # ------------------------------------------------------------ read

    def words(self, entity: Entity) -> list[str]:
        """Text at the spans of an entity. Raises DataError for an entity that the text does not have."""
        if entity not in self.spans:
            raise DataError(f"{entity!r} has no span in {self.text[:60]!r}", field="spans", expected=f"one of {list(self.spans)}")
        return [self.text[start:stop] for start, stop in self.spans[entity]]

    def query(self, entities: Sequence[Entity] = ()) -> PhraseQuery:
        """These entities as phrases to look for; without any, all of them in the order of `spans`."""
        chosen = tuple(entities) or tuple(self.spans)
        for entity in chosen:
            self.words(entity)  # refuses one without a span
        return PhraseQuery(self.text, tuple(self.spans[entity] for entity in chosen))

    def tokens(self, offset_L2: npt.NDArray[np.int64]) -> dict[Entity, npt.NDArray[np.bool_]]:
        """For each entity its row of L, True at the tokens that share a character with one of its spans; all False where those were cut
        off. `offset_L2` is the result of `Tokenizer.offsets` for this text."""
        return {entity: tokens_of(spans, offset_L2) for entity, spans in self.spans.items()}


def tokens_of(spans: Iterable[Span], offset_L2: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """True at the tokens that share a character with one of the spans; marks and padding, whose offsets are empty, never do."""
    if offset_L2.ndim != 2 or offset_L2.shape[1] != 2:
        raise ShapeError(f"offsets must be [L, 2], got {list(offset_L2.shape)}")
    inside_L = np.zeros(len(offset_L2), np.bool_)
    some_L = offset_L2[:, 1] > offset_L2[:, 0]
    for start, stop in spans:
        inside_L |= some_L & (offset_L2[:, 0] < stop) & (offset_L2[:, 1] > start)
    return inside_L


def find(text: str, phrase: str, *, occurrence: int | None = None) -> Span:
    """Where a phrase occurs in a text, as whole words and in any case.

    Raises DataError if it does not, and where it occurs more than once unless `occurrence` (from 0) says which.

    >>> find("the red cup left of the plate", "plate")
    (24, 29)
    """
    if not phrase.strip():
        raise DataError("an empty phrase", field="phrase", expected="words that occur in the text")
    spans = list(occurrences(text, phrase))
    if not spans:
        raise DataError(f"the phrase {phrase!r} does not occur in {text[:80]!r}", field="phrase", expected="words of the text")
    if occurrence is None and len(spans) > 1:
        raise DataError(
            f"the phrase {phrase!r} occurs {len(spans)} times in {text[:80]!r}", field="phrase", expected="which of them is meant"
        )
    number = occurrence or 0
    if not 0 <= number < len(spans):
        raise DataError(f"occurrence {number} of {phrase!r} in {text[:80]!r}", field="phrase", expected=f"0 to {len(spans) - 1}")
    return spans[number]


def occurrences(text: str, phrase: str) -> Iterable[Span]:
    """Every place where a phrase occurs as whole words, in any case; they may overlap."""
    # Compared character by character, since lower-casing a whole text may change its length.
    lower, letters = [letter.lower() for letter in text], [letter.lower() for letter in phrase.strip()]
    size = len(letters)
    for start in range(len(lower) - size + 1):
        if lower[start : start + size] != letters:
            continue
        before, behind = text[start - 1 : start], text[start + size : start + size + 1]
        if not ((_joins(before) and _joins(text[start])) or (_joins(behind) and _joins(text[start + size - 1]))):
            yield start, start + size


def _joins(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


def from_json(value: Any, text: str, where: str) -> tuple[Span, ...]:
    """Spans as data sets store them, `[[start, stop], ...]` (MDETR's "tokens_positive"). Raises DataError that names `where`."""
    expected = "a list of [start, stop], one or more"
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: the spans are {str(value)[:60]}", field="tokens_positive", expected=expected)
    spans: list[Span] = []
    for entry in value:
        if not (isinstance(entry, list | tuple) and len(entry) == 2 and all(type(end) is int for end in entry)):
            raise DataError(f"{where}: a span is {str(entry)[:60]}", field="tokens_positive", expected=expected)
        start, stop = entry
        if not 0 <= start < stop <= len(text):
            raise DataError(
                f"{where}: the span [{start}, {stop}] is outside the text of {len(text)} characters",
                field="tokens_positive",
                expected=f"0 <= start < stop <= {len(text)}",
            )
        spans.append((start, stop))
    return tuple(spans)
