"""Rule-based caption rewriting: synonyms, converse relations, passive voice, reordering, framing. No model; thousands per second.

The meaning is preserved: numbers, names and negations are kept, and only the requested details are added. Four styles differ in
how much they change:

plain    other words for the same things
turned   that, and the other way round: "a cup left of a plate" is "a plate right of a cup", "and" changes its sides, a verb turns passive
framed   that, in a presenting sentence: "here you can see a dog on a beach"
short    other words, and a third of the attributes that are not needed to name a thing are dropped; losing a detail adds no error

The rules are for English. A caption that no rule matches is returned unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from diptych.core.config import config_hash
from diptych.core.contracts import Reply
from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng
from diptych.curate.writing.backends.paraphrases import (
    CONVERSE,
    DROPPED,
    FRAMES,
    NEUTRAL_PASSIVE,
    OPENINGS,
    SYNONYMS,
)
from diptych.curate.writing.requests import PUBLISHED, Sampling, TextRequest

STYLES = ("plain", "turned", "framed", "short")
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
ARTICLE = re.compile(r"\b(a|an)(\s+)(?=(\w))", re.IGNORECASE)
NOUN_PHRASE = r"(?:(?:a|an|the|two|three|four|five|some|several)\s+)?[^\s,.;]+(?:\s+[^\s,.;]+){0,2}?"
MOST_LETTERS = 2_000
"""Longest text that is rewritten, in characters: a longer caption is rewritten only up to the last word within it."""


@dataclass(frozen=True)
class RewriteRates:
    """turned    probability that a sentence is turned, if it can be
    replaced  probability that a word with synonyms is replaced
    dropped   probability that an attribute that is not needed is dropped
    """

    turned: float
    replaced: float
    dropped: float


OFTEN, ALWAYS = RewriteRates(0.7, 0.5, 1 / 3), RewriteRates(1.0, 1.0, 1.0)


@dataclass(frozen=True)
class GrammarRewriter:
    """Text backend by rules: answers at once, and the same on every machine."""

    sampling: Sampling = PUBLISHED

    name = "grammar"
    terms = ""
    at_once = 4096
    calls = 1
    kept = False

    @cached_property
    def identity(self) -> str:
        return config_hash(["grammar", SYNONYMS, CONVERSE, NEUTRAL_PASSIVE, FRAMES, OPENINGS, sorted(DROPPED)])

    def tokens(self, text: str) -> int:
        return len(text.split())

    def write(self, requests: Sequence[TextRequest]) -> list[Reply]:
        replies = []
        for request in requests:
            text = rewritten(request.caption, request.style or "plain", keyed_rng("grammar", request.seed), request.details)
            replies.append(Reply(text, self.tokens(request.caption), self.tokens(text)))
        return replies


def rewritten(caption: str, style: str, rng: np.random.Generator, details: Sequence[str] = ()) -> str:
    """Rewrites a caption and appends the details.

    >>> rewritten("a cup left of a plate", "turned", np.random.default_rng(1))
    'a plate right of a cup'
    """
    if style not in STYLES:
        raise ConfigError(f"style is {style!r} (expected {' | '.join(STYLES)})")
    head, tail = _first_letters(" ".join(caption.split()))
    if not head:
        return ""
    ends = head[-1] if head[-1] in ".!" and not tail else ""
    whole = head.removesuffix(ends) if ends else head
    text = whole
    for often in (OFTEN, ALWAYS):
        text = _replace_words(_restyled(whole, style, rng, often), rng, often)
        if text != whole:
            break  # otherwise every applicable rule is applied
    if details:
        text = f"{text}, with {listed(details)}"
    if style == "framed":
        text = FRAMES[int(rng.integers(len(FRAMES)))].format(_lowered(text))
    return with_articles(text) + ends + tail


def _restyled(text: str, style: str, rng: np.random.Generator, often: RewriteRates) -> str:
    if style == "turned":
        return _turn_around(text, rng, often)
    if style == "short":
        return _drop_attributes(text, rng, often)
    return _without_opening(text) if style == "framed" else text


def listed(phrases: Sequence[str]) -> str:
    """Joins unique phrases with commas and "and".

    >>> listed(["a red bus", "two trees", "a dog"])
    'a red bus, two trees and a dog'
    """
    different = list(dict.fromkeys(phrases))
    return different[0] if len(different) == 1 else f"{', '.join(different[:-1])} and {different[-1]}"


def with_articles(text: str) -> str:
    """Text with "a" before a consonant and "an" before a vowel, as spelled; "the", numbers and names are left alone.

    >>> with_articles("a orange and an bus")
    'an orange and a bus'
    """

    def right(match: re.Match[str]) -> str:
        article = "an" if match[3].lower() in "aeio" else "a" if match[3].lower() not in "uh" else match[1].lower()
        return (article.capitalize() if match[1][0].isupper() else article) + match[2]

    return ARTICLE.sub(right, text)


def _first_letters(text: str) -> tuple[str, str]:
    if len(text) <= MOST_LETTERS:
        return text, ""
    end = text.rfind(" ", 0, MOST_LETTERS)
    end = end if end > 0 else MOST_LETTERS
    return text[:end], text[end:]


def _turn_around(text: str, rng: np.random.Generator, often: RewriteRates) -> str:
    """Caption with the converse relation, else in the passive, else with the sides of the only "and" exchanged."""
    if rng.random() >= often.turned:
        return text
    for pattern, others in _converse():
        if len(matches := list(pattern.finditer(text))) == 1:
            before, after = text[: matches[0].start()].strip(), text[matches[0].end() :].strip()
            if _one_thing(before) and _one_thing(after):
                return f"{_lowered(after)} {others[int(rng.integers(len(others)))]} {_lowered(before)}"
    words = text.split()
    verbs = [index for index, word in enumerate(words) if word.lower() in NEUTRAL_PASSIVE]
    if len(verbs) == 1:
        before, after = " ".join(words[: verbs[0]]), " ".join(words[verbs[0] + 1 :])
        before = re.sub(r"\s+(is|are)$", "", before)
        if _one_thing(before) and _one_thing(after):
            return f"{_lowered(after)} {NEUTRAL_PASSIVE[words[verbs[0]].lower()]} by {_lowered(before)}"
    sides = re.split(r"\s+and\s+", text)
    if (
        len(sides) == 2
        and all(re.match(r"(a|an|the|one|two|three|some)\b", side, re.IGNORECASE) for side in sides)
        and "," not in text
    ):
        return f"{_lowered(sides[1])} and {_lowered(sides[0])}"
    return text


@lru_cache(maxsize=1)
def _converse() -> tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]:
    longest_first = sorted(CONVERSE.items(), key=lambda pair: -len(pair[0]))
    return tuple(
        (re.compile(rf"\s+(?:(?:is|are)\s+)?{re.escape(phrase)}\s+", re.IGNORECASE), others) for phrase, others in longest_first
    )


def _one_thing(text: str) -> bool:
    """True if these words form one noun phrase, so that they can be moved as a unit."""
    return bool(re.fullmatch(NOUN_PHRASE, text, re.IGNORECASE)) and not re.search(r"\b(and|or|with|is|are|of|in|on|at)\b", text)


def _drop_attributes(text: str, rng: np.random.Generator, often: RewriteRates) -> str:
    """Caption without some attributes, where a word follows that they stand before."""
    words = text.split()
    stays = [
        not (
            word.lower() in DROPPED and index + 1 < len(words) and words[index + 1][:1].isalpha() and rng.random() < often.dropped
        )
        for index, word in enumerate(words)
    ]
    return " ".join(word for word, kept in zip(words, stays, strict=True) if kept)


def _replace_words(text: str, rng: np.random.Generator, often: RewriteRates) -> str:
    def other(match: re.Match[str]) -> str:
        words = _synonyms()[1][match[0].lower()]
        if rng.random() >= often.replaced:
            return match[0]
        word = words[int(rng.integers(len(words)))]
        return word[:1].upper() + word[1:] if match[0][:1].isupper() and match.start() == 0 else word

    return _synonyms()[0].sub(other, text)


@lru_cache(maxsize=1)
def _synonyms() -> tuple[re.Pattern[str], dict[str, tuple[str, ...]]]:
    """Pattern of every word and phrase that has synonyms, longest first; and the synonyms."""
    phrases = sorted(SYNONYMS, key=lambda phrase: (-len(phrase), phrase))
    # a capital inside a sentence is a name, and stays
    pattern = re.compile(
        r"\b(?:" + "|".join(f"(?:{re.escape(p)}|(?<![^.!?]\\s){re.escape(p.capitalize())})" for p in phrases) + r")\b"
    )
    return pattern, SYNONYMS


def _without_opening(text: str) -> str:
    """Caption without "a photo of" and the like, which the frame adds again."""
    for opening in OPENINGS:
        if text.lower().startswith(opening):
            return text[len(opening) :].lstrip()
    return text


def _lowered(text: str) -> str:
    """Caption with a lower-case first letter if its first word is an article or a number, not a name."""
    first = text.split(" ", 1)[0]
    return (
        text[:1].lower() + text[1:]
        if first in ("A", "An", "The", "One", "Two", "Three", "Four", "Some", "Several", "There")
        else text
    )
