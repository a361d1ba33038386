"""Noun phrases of a tagged caption: a head, what is said of it, how many.

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
class Phrase:
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
        """Without a determiner in front: what can stand where another phrase's words stood."""
        return self.words[1:] if self.words[0].tag == "DET" and len(self.words) > 1 else self.words


def noun_phrases(words: Sequence[Word]) -> list[Phrase]:
    """The noun phrases in order; none overlap.

    >>> from diptych.data.text.english.tagger import tag
    >>> "; ".join(phrase.name for phrase in noun_phrases(tag("A girl in a red and white dress with two very small dogs.")))
    'girl; red and white dress; very small dogs'
    """
    found, place = [], 0
    while place < len(words):
        stop = _stop(words, place)
        if stop is None:
            place += 1
            continue
        found.append(Phrase(tuple(words[place:stop]), place, stop))
        place = stop
    return found


def _stop(words: Sequence[Word], start: int) -> int | None:
    """Where the phrase that begins at this word ends; None where none begins."""
    if not (words[start].tag in INSIDE or _adverb(words, start)):
        return None
    place, last = start, None
    while place < len(words):
        tag = words[place].tag
        if tag in NOUNS:
            last = place + 1
        elif (
            (tag == "DET" and place > start and words[place - 1].tag not in ("DET",))
            or (
                last is not None
                and not (tag == "NUM" and last == place)
                and not (tag == "PART" and words[place].text.endswith("s"))
            )
            or (tag not in INSIDE and tag != "PART" and not _adverb(words, place) and not _joins(words, place))
        ):
            break
        if tag == "NUM" and last == place:
            last = place + 1
        place += 1
    return last


def _adverb(words: Sequence[Word], place: int) -> bool:
    """ "very" of "very small", "second" of "second largest"."""
    return words[place].tag == "ADV" and place + 1 < len(words) and words[place + 1].tag in ("ADJ", "ADV")


def _joins(words: Sequence[Word], place: int) -> bool:
    """Between two adjectives of one noun."""
    joined = (words[place].tag == "CONJ" and words[place].lower in ("and", "or", "&")) or words[place].text == ","
    return joined and place > 0 and words[place - 1].tag == "ADJ" and place + 1 < len(words) and words[place + 1].tag == "ADJ"
