"""Knowledge about nouns: the kind of thing, its description, and things confused with it (DesCo, 2306.14060).

A knowledge file is JSON in one of three forms:

    {"cup": {"type": "vessel", "description": "round; has a handle", "similar objects": ["mug"], "frequency": 120}}
    [{"object": "cup", "gpt3_output": ANSWER}]      published, for classes
    {"cup": [ANSWER, 120]}                          published, for captions; the number is how often it occurs

where ANSWER is the text of such an object as a language model wrote it.

An answer of the language model that is no JSON is, as released, a thing of the type "object" without a description; `unread` counts them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.core.disk.json_text import parse_json
from diptych.core.errors import DataError, UnknownName
from diptych.core.sample import Sample
from diptych.data.text.captions.stop_words import STOP_WORDS

FIELD = "nouns"
"""Where the samples of a data set may carry entries of the first form themselves: `extras["nouns"]`."""
COMMON = 10_000
"""Nouns that occur more often are not described in captions (published)."""


@dataclass(frozen=True, slots=True)
class Noun:
    """kind  how its description begins, "a kind of vessel"; description  its parts; similar  nouns that it could be taken for; frequency
    how often it occurs in the captions, 0 where nobody counted"""

    kind: str
    description: tuple[str, ...]
    similar: tuple[str, ...] = ()
    frequency: int = 0


UNREAD = Noun("object", ())
"""Knowledge recorded for a noun whose answer is not valid JSON, as released."""


@dataclass(frozen=True)
class Knowledge(Mapping[str, Noun]):
    """Nouns and what is known about them. unread  those whose answer could not be read"""

    nouns: Mapping[str, Noun]
    unread: tuple[str, ...] = field(default=())

    def __getitem__(self, noun: str) -> Noun:
        if noun not in self.nouns:
            raise UnknownName("noun", noun, self.nouns, hint="the knowledge file has to describe every class")
        return self.nouns[noun]

    def __iter__(self) -> Iterator[str]:
        return iter(self.nouns)

    def __len__(self) -> int:
        return len(self.nouns)

    def __contains__(self, noun: object) -> bool:
        return noun in self.nouns

    def uncommon(self, phrase: str) -> str:
        """The noun that words of a caption name, stop words left out; "" for one that is unknown, uncounted, or too common."""
        noun = " ".join(word for word in phrase.split(" ") if word not in STOP_WORDS)
        return noun if noun in self.nouns and 0 < self.nouns[noun].frequency <= COMMON else ""

    def to_json(self) -> str:
        """One line; `parse_knowledge` reads it."""
        plain = {
            name: {
                "type": noun.kind.removeprefix("a kind of ") if noun.kind.startswith("a kind of ") else None,
                "description": "; ".join(noun.description),
                "similar objects": list(noun.similar),
                "frequency": noun.frequency,
            }
            for name, noun in self.nouns.items()
        }
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))


def read_knowledge(path: Path) -> Knowledge:
    """A knowledge file. Raises DataError that names file and entry."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", file=path, expected="a knowledge file, in JSON") from error
    return parse_knowledge(text, str(path))


def parse_knowledge(text: str, where: str) -> Knowledge:
    """The text of a knowledge file that came from `where`."""
    try:
        value = parse_json(text)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}", expected="a knowledge file") from error
    nouns: dict[str, Noun] = {}
    unread: list[str] = []
    for row, (name, answer, frequency) in enumerate(_entries(value, where)):
        noun = _noun(answer, frequency, f"{where}, entry {row} ({name!r})")
        nouns[name] = noun or Noun(UNREAD.kind, (), (), frequency)
        if noun is None:
            unread.append(name)
    if not nouns:
        raise DataError(f"{where} describes nothing", expected="one noun or more")
    return Knowledge(nouns, tuple(unread))


def knowledge_of(samples: Iterable[Sample]) -> Knowledge | None:
    """Knowledge that samples carry about the nouns of their regions; None if there is none. Raises DataError naming the sample."""
    nouns: dict[str, Noun] = {}
    for sample in samples:
        entries = sample.extras.get(FIELD)
        if entries is None:
            continue
        where = f"sample '{sample.uid}', {FIELD}"
        for row, (name, answer, frequency) in enumerate(_entries(entries, where)):
            nouns[name] = _noun(answer, frequency, f"{where}, entry {row} ({name!r})") or UNREAD
    return Knowledge(dict(sorted(nouns.items()))) if nouns else None


def parse_noun(text: str) -> Noun | None:
    """Parse a language model's answer about a noun; None for a text that is no such JSON.

    >>> parse_noun('{"type": "vessel", "description": "round; has a handle"}')
    Noun(kind='a kind of vessel', description=('round', 'has a handle'), similar=(), frequency=0)
    >>> parse_noun("a vessel") is None
    True
    """
    return _noun(text, 0, "the answer")


def _entries(value: Any, where: str) -> Iterator[tuple[str, Any, int]]:
    expected = '{noun: {"type", "description", "similar objects"}}, {noun: [answer, frequency]} or [{"object", "gpt3_output"}]'
    if isinstance(value, list):
        for row, entry in enumerate(value):
            if not isinstance(entry, dict) or not isinstance(entry.get("object"), str) or "gpt3_output" not in entry:
                raise DataError(f"{where}, entry {row} is {str(entry)[:60]}", expected=expected)
            yield entry["object"], entry["gpt3_output"], 0
        return
    if not isinstance(value, dict):
        raise DataError(f"{where} holds a {type(value).__name__}", expected=expected)
    for name, entry in value.items():
        if isinstance(entry, list):
            if len(entry) != 2 or not isinstance(entry[0], str) or type(entry[1]) is not int:
                raise DataError(f"{where}: {name!r} is {str(entry)[:60]}", expected=expected)
            yield name, entry[0], entry[1]
        elif isinstance(entry, dict):
            yield name, entry, int(entry.get("frequency", 0))
        else:
            raise DataError(f"{where}: {name!r} is {str(entry)[:60]}", expected=expected)


def _noun(answer: Any, frequency: int, where: str) -> Noun | None:
    """An answer of a language model, in JSON or read already; None for a text that is no JSON or lacks a part."""
    plain = answer
    if isinstance(answer, str):
        try:
            plain = parse_json(answer.strip("\n"))
        except ValueError:
            return None
        if not isinstance(plain, dict) or not {"type", "description"} <= set(plain):
            return None
    description, similar = plain.get("description"), plain.get("similar objects", [])
    if not isinstance(description, str) or not isinstance(similar, list) or not isinstance(plain.get("type"), str | None):
        if isinstance(answer, str):
            return None
        raise DataError(
            f"{where} is {str(plain)[:80]}", expected='{"type": words, "description": "a; b", "similar objects": [words]}'
        )
    kind = f"a kind of {plain['type']}" if plain.get("type") is not None else UNREAD.kind
    parts = tuple(part for part in description.split("; ") if part)
    return Noun(kind, parts, tuple(str(name) for name in similar), frequency)
