"""Variants of query words in the vocabulary of an index: singular and plural forms, and words that are spelled alike."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

LIKENESS = 0.8
"""Least `difflib` ratio of two words that may be the same: one letter of five may differ."""


def number_forms(word: str) -> list[str]:
    """Regular English singulars and plurals that a word may have, likely ones first.

    >>> number_forms("cherry"), number_forms("boxes"), number_forms("bus")
    (['cherries', 'cherrys'], ['box', 'boxe', 'boxeses'], ['bu', 'buses'])
    """
    if not word.endswith("s"):
        irregular = [word[:-1] + "ies"] if word.endswith("y") else [word + "es"] if word.endswith(("x", "z", "ch", "sh")) else []
        return [*irregular, word + "s"]
    singulars = [word[:-3] + "y"] if word.endswith("ies") else [word[:-2]] if word.endswith("es") else []
    return [*singulars, word[:-1], word + "es"]


def nearest_word(word: str, terms: Iterable[str]) -> str | None:
    """The term that is spelled most like a word: of the same first letter, accents aside, and a `difflib` ratio of at least `LIKENESS`.

    >>> nearest_word("strawbery", ["straw", "strawberry"]), nearest_word("cafe", ["café"]), nearest_word("zebra", ["apple"])
    ('strawberry', 'café', None)
    """
    plain = without_accents(word)
    term_by_plain: dict[str, str] = {}
    for term in terms:
        spelled = without_accents(term)
        if spelled[:1] == plain[:1]:
            term_by_plain.setdefault(spelled, term)
    near = difflib.get_close_matches(plain, list(term_by_plain), n=1, cutoff=LIKENESS)
    return term_by_plain[near[0]] if near else None


def without_accents(word: str) -> str:
    """A word with its base letters alone.

    >>> without_accents("forêt"), without_accents("bücher")
    ('foret', 'bucher')
    """
    return "".join(letter for letter in unicodedata.normalize("NFD", word) if not unicodedata.combining(letter))
