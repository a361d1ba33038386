"""Triplets of a caption (subject span, predicate, object span), and linking of spans to the labels of an image.

`TemplateGrammar` parses captions of the form "a red ring near left of a star and a dog chasing a ball" with given relation
phrases: exact on rendered captions, and sufficient for short alt texts. Any other parser from a string to triplets of strings can
be used instead (a dependency parser, a language model).

What implementations get wrong: labels matched inside other words ("car" in "carpet"), which is the published linking; the shorter
of two labels ("dog" for "a hot dog"). Here whole words are matched, the longest first; `rule="substring"` is the published one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

from diptych.core.errors import ConfigError

Spans = tuple[str, str, str]

CLAUSE = re.compile(r"\s*[,;.]\s*(?:and\s+)?|\s+(?:and|while)\s+")
DETERMINERS = frozenset(("a", "an", "the", "some", "two", "three", "his", "her", "its", "their", "this", "that"))


class CaptionParser(Protocol):
    """Parser of captions into triplets: a frozen dataclass, so that a run can record its configuration."""

    def __call__(self, caption: str) -> Sequence[Spans]: ...


@dataclass(frozen=True)
class TemplateGrammar:
    """Template parser: noun phrase, relation phrase, noun phrase; the longest of the given phrases wins.

    >>> TemplateGrammar(("left of", "far left of", "holding"))("A red ring far left of a star, and a man holding the big cup.")
    [('red ring', 'far left of', 'star'), ('man', 'holding', 'big cup')]
    """

    relations: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.relations or not all(name.strip() for name in self.relations):
            raise ConfigError("a template grammar needs relation phrases, each a word or more")

    def __call__(self, caption: str) -> list[Spans]:
        return [spans for clause in CLAUSE.split(caption.lower()) if (spans := self._clause(clause.split()))]

    @cached_property
    def _places(self) -> dict[tuple[str, ...], int]:
        """Index of each phrase, longest first; a lookup for lists of tens of thousands of phrases."""
        phrases = dict.fromkeys(tuple(name.lower().split()) for name in self.relations)
        return {phrase: index for index, phrase in enumerate(sorted(phrases, key=len, reverse=True))}

    @cached_property
    def _longest(self) -> int:
        """Number of words of the longest phrase."""
        return max(map(len, self._places))

    def _clause(self, words: list[str]) -> Spans | None:
        spans = (
            (self._places[phrase], start, phrase)
            for start in range(1, len(words) - 1)
            for stop in range(start + 1, min(start + self._longest, len(words) - 1) + 1)
            if (phrase := tuple(words[start:stop])) in self._places
        )
        for _, start, phrase in sorted(spans):
            subject, other = _bare(words[:start]), _bare(words[start + len(phrase) :])
            if subject and other:
                return subject, " ".join(phrase), other
        return None


@dataclass(frozen=True)
class LabelLinker:
    """Links noun phrases to an image's labels: labels at the end of the phrase as whole words (singular or plural), longest
    first; else labels with a paraphrase there.

    paraphrases  (label, its other names), as ("person", ("man", "woman", "rider"))
    rule         "head" as above; "substring" takes the last of the labels that, or a paraphrase of which, occurs anywhere in the
                 phrase, inside words too (published; so the order of the boxes of an image decides between two)
    """

    paraphrases: tuple[tuple[str, tuple[str, ...]], ...] = ()
    rule: Literal["head", "substring"] = "head"

    def __post_init__(self) -> None:
        if self.rule not in ("head", "substring"):
            raise ConfigError(f"LabelLinker.rule is {self.rule!r} (expected head | substring)")

    def __call__(self, span: str, labels: Iterable[str]) -> tuple[str, ...]:
        """Labels that the phrase can mean, in the given order; empty if none matches.

        >>> LabelLinker((("person", ("man",)),))("old man", ["person", "dog"]), LabelLinker()("hot dogs", ["dog", "hot dog"])
        (('person',), ('hot dog',))
        """
        distinct = dict.fromkeys(labels)
        others: Mapping[str, tuple[str, ...]] = dict(self.paraphrases)
        if self.rule == "substring":
            return tuple(label for label in distinct if any(name in span for name in (label, *others.get(label, ()))))[-1:]
        for names in ({label: (label,) for label in distinct}, {label: others.get(label, ()) for label in distinct}):
            ends = {label: max((len(n) for n in each if _ends_with(span, n)), default=0) for label, each in names.items()}
            longest = max(ends.values(), default=0)
            if longest:
                return tuple(label for label, length in ends.items() if length == longest)
        return ()


def _bare(words: list[str]) -> str:
    while words and words[0] in DETERMINERS:
        words = words[1:]
    while words and words[-1] in ("is", "are"):
        words = words[:-1]
    return " ".join(words)


def _ends_with(span: str, name: str) -> bool:
    have, want = span.lower().split(), name.lower().split()
    tail = have[-len(want) :]
    return tail[:-1] == want[:-1] and bool(tail) and tail[-1] in (want[-1], f"{want[-1]}s", f"{want[-1]}es")
