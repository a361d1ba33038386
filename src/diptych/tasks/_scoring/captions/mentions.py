"""Objects mentioned in captions: words and phrases of a vocabulary, in singular and plural.

A vocabulary is a file with a line an object: its name, then other words for it, with commas between them, as CHAIR has them. A line whose
name is "-" holds phrases that name nothing, so that "home plate" is no plate. The longest phrase at a place counts, once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from diptych.core.disk.paths import read_file
from diptych.core.errors import DataError

NOTHING = "-"
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_PLURALS = (
    "men:man women:woman children:child people:person feet:foot teeth:tooth geese:goose mice:mouse oxen:ox knives:knife wives:wife "
    "lives:life leaves:leaf loaves:loaf shelves:shelf scarves:scarf wolves:wolf calves:calf halves:half dice:die"
)
_IRREGULAR = dict(pair.split(":") for pair in _PLURALS.split())


@dataclass(frozen=True)
class ObjectVocabulary:
    """names  object by word or phrase, in lower case"""

    names: Mapping[str, str]

    @classmethod
    def of(cls, labels: Iterable[str]) -> ObjectVocabulary:
        """Vocabulary of labels without synonyms."""
        return cls({" ".join(words_in(label)): label for label in labels})

    @classmethod
    def read(cls, path: Path) -> ObjectVocabulary:
        """Vocabulary from a file. Raises DataError that names the line."""
        names: dict[str, str] = {}
        try:
            lines = read_file(path).decode("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"the vocabulary cannot be read: {error}", file=path, expected="a line an object, in UTF-8"
            ) from error
        for number, line in enumerate(lines, 1):
            parts = [part.strip() for part in line.split(",")]
            if not line.strip():
                continue
            if not all(words_in(part) for part in parts[1:]) or not (parts[0] == NOTHING or words_in(parts[0])):
                raise DataError(f"{line.strip()[:60]!r} holds an empty word", file=path, row=number, expected="name, word, word")
            for part in parts if parts[0] != NOTHING else parts[1:]:
                names[" ".join(words_in(part))] = parts[0]
        if not names:
            raise DataError("the vocabulary is empty", file=path, expected="a line an object: name, word, word")
        return cls(names)

    def named(self, label: str) -> str:
        """Canonical object name of a label; the label itself where the vocabulary has none."""
        return self.names.get(" ".join(words_in(label)), label)

    def mentions(self, text: str) -> list[str]:
        """Objects mentioned in a text, in order, repeats included."""
        words = words_in(text)
        mentioned: list[str] = []
        at = 0
        while at < len(words):
            size, name = next(
                (
                    (size, name)
                    for size in range(min(self._longest, len(words) - at), 0, -1)
                    if (name := self._at(words, at, size))
                ),
                (1, NOTHING),
            )
            if name != NOTHING:
                mentioned.append(name)
            at += size
        return mentioned

    def _at(self, words: list[str], at: int, size: int) -> str | None:
        """Object named by the `size` words from index `at`, or None; the last word may be a plural."""
        *before, last = words[at : at + size]
        return next((self.names[phrase] for form in singulars(last) if (phrase := " ".join([*before, form])) in self.names), None)

    @cached_property
    def _longest(self) -> int:
        return max((name.count(" ") + 1 for name in self.names), default=1)


def words_in(text: str) -> list[str]:
    """Lower-case words; hyphens and apostrophes inside of a word belong to it."""
    return [word.lower() for word in _WORD.findall(text)]


def singulars(word: str) -> list[str]:
    """Singular forms that a word may be the plural of, and the word itself.

    >>> singulars("buses"), singulars("cherries"), singulars("men")
    (['buses', 'buse', 'bus'], ['cherries', 'cherrie', 'cherri', 'cherry'], ['men', 'man'])
    """
    forms = [word]
    if word in _IRREGULAR:
        forms.append(_IRREGULAR[word])
    if word.endswith("s") and len(word) > 2:
        forms.append(word[:-1])
    if word.endswith("es") and len(word) > 3:
        forms.append(word[:-2])
    if word.endswith("ies") and len(word) > 4:
        forms.append(f"{word[:-3]}y")
    return forms
