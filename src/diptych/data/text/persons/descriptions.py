"""Descriptions of persons from attributes: phrases to choose among, sentences with places for them, synonyms (UniPT, 2309.01420).

*Divide*: fourteen attributes, each a list of phrases. *Combine*: a sentence with a place for each, filled with the phrases that were
found, and words exchanged for synonyms. Choosing the phrases by a model's eye is the curation step `pseudo_texts`.

The published lists and the 456 published templates were not released; these are ours, as many, made by a small grammar. Each has
a number, so that a text's template is known, and training and testing can have wordings of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import permutations, product

import numpy as np

from diptych.core.errors import ConfigError

BANK = "persons"
"""Template 17 of these goes by the name "persons/17"."""
COLOURS = ("black", "white", "grey", "red", "green", "blue", "yellow", "purple", "orange", "pink", "brown")
REQUIRED: dict[str, tuple[str, ...]] = {
    "age": ("child", "young", "middle-aged", "elderly"),
    "gender": ("man", "woman"),
    "upper": tuple(f"wearing a {colour} {kind}" for colour in COLOURS for kind in ("t-shirt", "striped shirt", "jacket", "coat")),
    "lower": tuple(f"wearing {colour} {kind}" for colour in COLOURS for kind in ("trousers", "shorts"))
    + tuple(f"wearing a {colour} skirt" for colour in COLOURS),
    "action": ("walking", "standing", "running", "riding"),
    "hair": tuple(
        f"with {length} {colour} hair" for length in ("short", "long") for colour in ("black", "brown", "blond", "grey")
    ),
}
OPTIONAL: dict[str, tuple[str, ...]] = {
    "bag": ("carrying a backpack", "carrying a handbag", "carrying a shoulder bag", "pulling a suitcase"),
    "glasses": ("wearing glasses", "wearing sunglasses"),
    "smoke": ("smoking a cigarette", "holding a cigarette"),
    "hat": ("wearing a cap", "wearing a hat", "wearing a helmet"),
    "phone": ("talking on a phone", "looking at a phone"),
    "umbrella": ("holding an umbrella", "carrying a folded umbrella"),
    "gloves": ("wearing gloves", "wearing mittens"),
    "vehicle": ("with a bicycle", "with a motorbike", "with a stroller"),
}
ABSENT: dict[str, str] = {name: f"without {thing}" for name, thing in {
    "bag": "a bag", "glasses": "glasses", "smoke": "a cigarette", "hat": "a hat", "phone": "a phone", "umbrella": "an umbrella",
    "gloves": "gloves", "vehicle": "a vehicle",
}.items()}  # fmt: skip
"""What may stand among the choices of an optional attribute and is never written."""
PLACES = tuple(name for name in (*REQUIRED, *OPTIONAL))

SYNONYMS: dict[str, tuple[str, ...]] = {
    "man": ("man", "guy", "gentleman", "male"),
    "woman": ("woman", "lady", "female"),
    "trousers": ("trousers", "pants"),
    "jacket": ("jacket", "windbreaker"),
    "t-shirt": ("t-shirt", "tee"),
    "backpack": ("backpack", "rucksack"),
    "handbag": ("handbag", "purse"),
    "wearing": ("wearing", "dressed in"),
    "carrying": ("carrying", "with"),
    "walking": ("walking", "strolling"),
    "cap": ("cap", "baseball cap"),
}
_WORD = re.compile(r"[\w-]+")


def prompt(attribute: str, phrase: str) -> str:
    """Text prompt of an attribute value for zero-shot classification.

    >>> prompt("gender", "man"), prompt("hair", "with long black hair"), prompt("age", "elderly")
    ('A photo of a man', 'A photo of a person with long black hair', 'A photo of an elderly person')
    """
    if attribute == "gender":
        return f"A photo of a {phrase}"
    if attribute == "age":
        return f"A photo of {'an' if phrase[0] in 'aeiou' else 'a'} {phrase}{'' if phrase == 'child' else ' person'}"
    return f"A photo of a person {phrase}"


@lru_cache(maxsize=4)
def templates(count: int = 456) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The opening and the order of clauses of each template, the first `count` of all that the grammar has."""
    openings = ("{who} {clauses}.", "A picture of {who} {clauses}.", "There is {who} {clauses}.", "The person is {who} {clauses}.",
                "In the picture, {who} is seen {clauses}.")  # fmt: skip
    orders = list(permutations(("action", "hair", "upper", "lower")))
    every = [
        (opening, order + tail) for order, opening, tail in product(orders, openings, (tuple(OPTIONAL), tuple(OPTIONAL)[::-1]))
    ]
    every += [
        (opening, tail + order) for order, opening, tail in product(orders, openings, (tuple(OPTIONAL), tuple(OPTIONAL)[::-1]))
    ]
    if not 1 <= count <= len(every):
        raise ConfigError(f"{count} templates requested (expected 1..{len(every)})")
    return tuple(every[:count])


def combine(
    phrases: Mapping[str, str], number: int, rng: np.random.Generator, *, count: int = 456, exchanged: float = 0.5
) -> str:
    """The sentence of template `number` about what was found; attributes without a phrase leave no trace.

    phrases    phrase of each known attribute
    exchanged  the chance of each word that has synonyms to be redrawn among them

    >>> found = {"gender": "woman", "age": "young", "hair": "with long black hair", "upper": "wearing a red coat"}
    >>> combine(found, 0, np.random.default_rng(0), exchanged=0.0)
    'a young woman with long black hair and wearing a red coat.'
    """
    if unknown := [name for name in phrases if name not in PLACES]:
        raise ConfigError(f"unknown attribute {unknown[0]!r} (expected {' | '.join(PLACES)})")
    opening, order = templates(count)[number]
    clauses = [phrases[name] for name in order if name in phrases]
    age, gender = phrases.get("age", ""), phrases.get("gender", "person")
    who = " ".join(word for word in (("" if age == "child" else age), "child" if age == "child" else gender) if word)
    who = f"{'an' if who[0] in 'aeiou' else 'a'} {who}"
    text = opening.format(who=who, clauses=_joined(clauses)).replace(" .", ".")
    return _WORD.sub(lambda match: _other(match[0], rng, exchanged), text)


def _other(word: str, rng: np.random.Generator, chance: float) -> str:
    if word not in SYNONYMS or rng.random() >= chance:
        return word
    return SYNONYMS[word][int(rng.integers(len(SYNONYMS[word])))]


def _joined(parts: Sequence[str]) -> str:
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
