"""Plurals of English nouns, and mentions of a noun in either number, as whole words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from diptych.curate.text.ngram import words_of

IRREGULAR = {
    "man": "men",
    "woman": "women",
    "person": "people",
    "child": "children",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "mouse": "mice",
    "ox": "oxen",
    "leaf": "leaves",
    "knife": "knives",
    "wife": "wives",
    "life": "lives",
    "wolf": "wolves",
    "shelf": "shelves",
    "half": "halves",
    "loaf": "loaves",
    "calf": "calves",
    "scarf": "scarves",
    "thief": "thieves",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "hero": "heroes",
    "echo": "echoes",
    "torpedo": "torpedoes",
    "cactus": "cacti",
}
UNCHANGED = frozenset(
    {"sheep", "deer", "fish", "aircraft", "series", "species", "moose", "bison", "salmon", "trout", "shrimp", "swine", "people"}
    | {"scissors", "glasses", "jeans", "pants", "trousers", "shorts", "clothes", "furniture", "luggage", "equipment", "broccoli"}
)


def plural(noun: str) -> str:
    """Plural of a noun or of the last word of a phrase. A word that is plural already gets another ending.

    >>> [plural(noun) for noun in ("dog", "fire truck", "bus", "city", "toy", "policeman", "sheep", "leaf")]
    ['dogs', 'fire trucks', 'buses', 'cities', 'toys', 'policemen', 'sheep', 'leaves']
    """
    before, space, last = noun.rpartition(" ")
    return f"{before}{space}{_plural(last)}"


def _plural(word: str) -> str:
    if not word or word in UNCHANGED:
        return word
    if word in IRREGULAR:
        return IRREGULAR[word]
    for ending in ("woman", "man"):
        if word.endswith(ending) and word not in ("human", "german", "roman", "shaman", "caiman", "talisman"):
            return word.removesuffix(ending) + IRREGULAR[ending]
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    if re.search(r"(s|x|z|ch|sh)$", word):
        return word + "es"
    return word + "s"


def mention(text_words: Sequence[str], phrase: str) -> int:
    """Index among the words of a text where a phrase begins, in the singular or the plural; -1 where it is not.

    >>> mention(["two", "black", "dogs"], "dog"), mention(["a", "carpet"], "car")
    (2, -1)
    """
    for form in dict.fromkeys((phrase.lower(), plural(phrase.lower()))):
        form_words = words_of(form)
        if form_words:
            for index in _places(text_words, form_words):
                return index
    return -1


def _places(words: Sequence[str], phrase: Sequence[str]) -> Iterator[int]:
    size = len(phrase)
    return (index for index in range(len(words) - size + 1) if list(words[index : index + size]) == list(phrase))
