"""Noun helpers for questions: countable nouns, plural labels, and numbers in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from diptych.curate.text.plurals import IRREGULAR, UNCHANGED

_MASS = (
    "air bread butter cheese clothing dirt dust equipment fabric fire fog food foliage furniture garbage glassware grass gravel "
    "ground hair ice jewelry juice land lettuce light luggage meat mist money mud music oil paint pavement pepper plastic rain rice "
    "salad salt sand scenery sea shade shadow silverware sky smoke snow soil sugar sunlight traffic vegetation water weather wind "
    "wood wool background floor ceiling wall field beach ocean street road sidewalk crowd"
)
MASS = frozenset(_MASS.split())
"""Mass nouns, and nouns for things that fill an image."""
_PLURALS = frozenset(IRREGULAR.values()) | (
    UNCHANGED - {"sheep", "deer", "fish", "aircraft", "moose", "bison", "salmon", "trout"}
)
_SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_LARGE = "twenty thirty forty fifty sixty seventy eighty ninety"
_ONES, _TENS = _SMALL.split(), _LARGE.split()


def is_plural(label: str) -> bool:
    """True for a label with a plural form.

    >>> [is_plural(label) for label in ("dogs", "dog", "bus", "glass", "children", "red apples", "cactus")]
    [True, False, False, False, True, True, False]
    """
    last = label.rpartition(" ")[2].lower()
    return last in _PLURALS or (last.endswith("s") and not last.endswith(("ss", "us", "is", "as")) and len(last) > 3)


def countable(label: str, given: frozenset[str] = frozenset()) -> bool:
    """True if "how many" can be asked: a label of `given`, or without such a list a singular that is no mass noun."""
    if given:
        return label in given
    return not is_plural(label) and label.rpartition(" ")[2].lower() not in MASS


def number_words(count: int) -> str:
    """A count in words, below 100; in digits from there.

    >>> number_words(3), number_words(42), number_words(120)
    ('three', 'forty-two', '120')
    """
    if not 0 <= count < 100:
        return str(count)
    if count < len(_ONES):
        return _ONES[count]
    ten, one = divmod(count, 10)
    return _TENS[ten - 2] + (f"-{_ONES[one]}" if one else "")


def ordinal(count: int) -> str:
    """The ordinal of a count from 1.

    >>> [ordinal(count) for count in (1, 2, 3, 4, 11, 12, 21, 112)]
    ['1st', '2nd', '3rd', '4th', '11th', '12th', '21st', '112th']
    """
    ending = "th" if 11 <= count % 100 <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th")
    return f"{count}{ending}"


def near_counts(count: int, options: int = 4) -> tuple[int, ...]:
    """The count and its distractors: c, c-1, c+1, c+2; for one 1, 2, 3, 4; with more options c+3 and so on.

    >>> near_counts(1), near_counts(3), near_counts(3, 2)
    ((1, 2, 3, 4), (3, 2, 4, 5), (3, 2))
    """
    if count == 1:
        return tuple(range(1, 1 + options))
    return (count, count - 1, *range(count + 1, count + max(1, options - 1)))[:options]


def listed(names: Iterable[str]) -> str:
    """Names joined by commas and "and".

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b, and c')
    """
    every: Sequence[str] = list(names)
    if len(every) < 3:
        return " and ".join(every)
    return ", ".join(every[:-1]) + f", and {every[-1]}"


def with_article(phrase: str) -> str:
    """A phrase with "a" or "an", by its first letter.

    >>> with_article("orange cup"), with_article("red cup")
    ('an orange cup', 'a red cup')
    """
    return f"{'an' if phrase[:1].lower() in 'aeiou' else 'a'} {phrase}"
