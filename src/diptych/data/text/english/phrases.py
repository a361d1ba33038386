"""Noun phrases of a tagged caption: head, modifiers and number.

A phrase is a longest run of determiners, numbers, adjectives and nouns that ends in a noun; adjectives may be joined ("a red and white
flower", "a ripe, red tomato"). A number or letter after its noun belongs to it ("letter F", "number 5").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diptych.data.text.english.tagger import Word

INSIDE = ("DET", "NUM", "ADJ", "NOUN", "PROPN")
NOUNS = ("NOUN", "PROPN")


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """Words `start` to `stop - 1` of a caption; `words` are theirs, determiners included."""

    words: tuple[Word, ...]
    start: int
    stop: int

    @property
    def head(self) -> Word:
        """The last noun."""
        return next(word for word in reversed(self.words) if word.tag in NOUNS)

    @property
    def attributes(self) -> tuple[str, ...]:
        """Adjectives in lower case, and nouns before the head ("computer" of "computer games") not among them."""
        return tuple(word.lower for word in self.words if word.tag == "ADJ")

    @property
    def name(self) -> str:
        """Without determiners and numbers in front, as it is written."""
        words = list(self.words)
        while len(words) > 1 and words[0].tag in ("DET", "NUM") and words[0] is not self.head:
            words = words[1:]
        return " ".join(word.text for word in words)

    @property
    def bare(self) -> tuple[Word, ...]:
        """Words without a determiner in front: these can replace another phrase's words."""
        return self.words[1:] if self.words[0].tag == "DET" and len(self.words) > 1 else self.words


def noun_phrases(words: Sequence[Word]) -> list[NounPhrase]:
    """The noun phrases in order; none overlap.

    >>> from diptych.data.text.english.tagger import tag
    >>> "; ".join(phrase.name for phrase in noun_phrases(tag("A girl in a red and white dress with two very small dogs.")))
    'girl; red and white dress; very small dogs'
    """
    phrases, position = [], 0
    while position < len(words):
        stop = _stop(words, position)
        if stop is None:
            position += 1
            continue
        phrases.append(NounPhrase(tuple(words[position:stop]), position, stop))
        position = stop
    return phrases


def _stop(words: Sequence[Word], start: int) -> int | None:
    """Where the phrase that begins at this word ends; None if none begins."""
    if not (words[start].tag in INSIDE or _adverb(words, start)):
        return None
    position, last = start, None
    while position < len(words):
        tag = words[position].tag
        if tag in NOUNS:
            last = position + 1
        elif (
            (tag == "DET" and position > start and words[position - 1].tag not in ("DET",))
            or (
                last is not None
                and not (tag == "NUM" and last == position)
                and not (tag == "PART" and words[position].text.endswith("s"))
            )
            or (tag not in INSIDE and tag != "PART" and not _adverb(words, position) and not _joins(words, position))
        ):
            break
        if tag == "NUM" and last == position:
            last = position + 1
        position += 1
    return last


def _adverb(words: Sequence[Word], position: int) -> bool:
    """ "very" of "very small", "second" of "second largest"."""
    return words[position].tag == "ADV" and position + 1 < len(words) and words[position + 1].tag in ("ADJ", "ADV")


def _joins(words: Sequence[Word], position: int) -> bool:
    """Between two adjectives of one noun."""
    joined = (words[position].tag == "CONJ" and words[position].lower in ("and", "or", "&")) or words[position].text == ","
    return (
        joined
        and position > 0
        and words[position - 1].tag == "ADJ"
        and position + 1 < len(words)
        and words[position + 1].tag == "ADJ"
    )
