"""Faithfulness of a rewritten caption, as far as words alone can tell: numbers, names and negations.

It catches what language models most often get wrong about captions, but no falsehood in other words. It errs on the strict side:
a rewrite that omits a number is also rejected.
"""

from __future__ import annotations

import re

NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
    "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
NUMBERS = {word: str(value) for value, word in enumerate(NUMBER_WORDS)}
NUMBER = re.compile(r"\d+(?:[.,]\d+)*|[a-z]+", re.IGNORECASE)
NEGATION = re.compile(r"\b(?:no|not|never|none|nobody|nothing|without|neither|nor)\b|n['’]t\b", re.IGNORECASE)
NAME = re.compile(r"(?<![.!?\"“(])(?<![.!?]\s)(?<=\s)([A-Z][\w’'-]*)")
PRONOUN = frozenset({"I", "TV", "A", "An", "The"})


def fault(original: str, rewritten: str) -> str:
    """Reason why a rewrite is not faithful, as "kind: reason"; "" if it is faithful.

    >>> fault("two dogs in Rome", "a pair of dogs in Rome")
    'number: 2 is missing'
    >>> fault("two dogs in Rome", "in Rome, 2 dogs")
    ''
    """
    before, after = numbers(original), numbers(rewritten)
    if before - after:
        return f"number: {min(before - after)} is missing"
    if after - before:
        return f"number: {min(after - before)} is new"
    if bool(NEGATION.search(original)) != bool(NEGATION.search(rewritten)):
        return f"negation: {'lost' if NEGATION.search(original) else 'new'}"
    lower = rewritten.lower()
    for name in NAME.findall(original):
        if name not in PRONOUN and name.lower() not in lower:
            return f"name: {name} is missing"
    return ""


def numbers(text: str) -> set[str]:
    """Numbers of a text, in digits; "one" is skipped, since it is mostly a pronoun.

    >>> sorted(numbers("Two dogs and 12 cats, one of them black"))
    ['12', '2']
    """
    digits = set()
    for word in NUMBER.findall(text.lower()):
        if word[0].isdigit():
            digits.add(word)
        elif word in NUMBERS and word != "one":
            digits.add(NUMBERS[word])
    return digits
