"""Concepts in captions: n-grams of whole words that a gallery lists, singular or plural."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from diptych.core.errors import DataError
from diptych.curate.text.ngram import words_of
from diptych.curate.text.plurals import plural
from diptych.data.text.english.treebank import treebank_words

Words = Literal["plain", "treebank"]
LONGEST = 4
"""Maximum number of words in a concept."""


@dataclass(frozen=True)
class Gallery:
    """Unique lower-case concepts, in order: all singulars, then their plurals, as in the released code."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str], *, plurals: bool = True) -> Self:
        """Builds a gallery from names; names longer than four words cannot match and are dropped."""
        concepts = dict.fromkeys(" ".join(words_of(name)) for name in names)
        single = [name for name in concepts if name and len(name.split()) <= LONGEST]
        return cls(tuple(dict.fromkeys((*single, *(map(plural, single) if plurals else ())))))

    @classmethod
    def load(cls, path: Path, *, plurals: bool = True) -> Self:
        """Reads a gallery from a file: one concept per line, or a JSON object of lists. Raises an error for an empty file."""
        try:
            text = path.expanduser().read_text(encoding="utf-8")
            plain = json.loads(text) if path.suffix == ".json" else text.splitlines()
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(
                f"is not a readable gallery ({error})", file=path, expected="one concept per line, or JSON of lists"
            ) from error
        lists = plain.values() if isinstance(plain, dict) else [plain]
        if not all(isinstance(some, list) and all(isinstance(name, str) for name in some) for some in lists):
            raise DataError("holds something else than lists of names", file=path, expected='{"concept": ["cat", ...]}')
        made = cls.of((name for some in lists for name in some), plurals=plurals)
        if not made.names:
            raise DataError("does not name a concept", file=path, expected="one concept per line, or JSON of lists")
        return made

    def concepts_in(self, text: str, words: Words = "plain") -> tuple[str, ...]:
        """Unique concepts in a text, ordered by start position, shorter ones first.

        words  tokenisation: "plain", or Penn "treebank", which finds "dog" in "dog's" and nothing in "cat/dog".

        >>> Gallery.of(["car", "red car", "cat"]).concepts_in("Two red cars, a carpet and a red car")
        ('red cars', 'cars', 'red car', 'car')
        """
        cut, concepts = treebank_words(text.lower()) if words == "treebank" else words_of(text), self._set()
        grams = (" ".join(cut[start : start + size]) for start in range(len(cut)) for size in range(1, LONGEST + 1))
        return tuple(dict.fromkeys(gram for gram in grams if gram in concepts))

    def _set(self) -> frozenset[str]:
        made: frozenset[str] | None = self.__dict__.get("_known")
        if made is None:
            made = frozenset(self.names)
            object.__setattr__(self, "_known", made)
        return made


def row_of_name(names: Sequence[str]) -> dict[str, int]:
    """Row of each name."""
    return {name: row for row, name in enumerate(names)}
