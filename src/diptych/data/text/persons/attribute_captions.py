"""A sentence from the six attributes of a person, by one of 1,664 templates: the third caption of SYNTH-PEDES (PLIP, 2305.08386).

The published templates were not released; these are ours, as many: 13 openings, 8 orders of clauses, 4 wordings of clothes and 4
to say what is carried. Each has a number, so that it is known which one a caption came from. What is unknown leaves no trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from diptych.core.errors import ConfigError

PLACES = ("gender", "head", "upper", "lower", "shoes", "belongings")
UNKNOWN = "unknown"
BANK = "person_captions"
"""Template 17 of these goes by the name "person_captions/17"."""
OPENINGS = (
    "{}.", "A picture of {}.", "A photo of {}.", "There is {}.", "This is {}.", "Here is {}.", "The picture shows {}.",
    "The photo shows {}.", "In the picture there is {}.", "One can see {}.", "The camera shows {}.", "The pedestrian is {}.",
    "The person is {}.",
)  # fmt: skip
WORN = ("wearing", "dressed in", "in", "who wears")
CARRIED = ("carrying", "with", "and has", "who carries")
ORDERS = tuple(
    (order, worn)
    for order in (("head", "worn", "held"), ("worn", "head", "held"), ("head", "held", "worn"), ("held", "head", "worn"))
    for worn in (("upper", "lower", "shoes"), ("lower", "upper", "shoes"))
)
COUNT = len(OPENINGS) * len(ORDERS) * len(WORN) * len(CARRIED)
HELD_OUT = 3
"""This many openings, the last ones, are left to evaluation."""
UNCOUNTED = frozenset(("hair", "luggage", "clothing", "footwear"))
Wordings = Literal["all", "training", "held_out"]


def numbers_of(wordings: Wordings) -> range:
    """The templates of all wordings, of those that training may draw, or of those that it never does.

    >>> [len(numbers_of(part)) for part in ("all", "training", "held_out")]
    [1664, 1280, 384]
    """
    border = COUNT // len(OPENINGS) * (len(OPENINGS) - HELD_OUT)
    ranges = {"all": range(COUNT), "training": range(border), "held_out": range(border, COUNT)}
    if wordings not in ranges:
        raise ConfigError(f"wordings are {wordings!r} (expected {' | '.join(ranges)})")
    return ranges[wordings]


def person_caption(attributes: Sequence[str], number: int) -> str:
    """The sentence of template `number` about gender, head, upper and lower clothes, shoes and belongings.

    >>> shown = ("woman", "long black hair", "red coat", "blue trousers", "unknown", "handbag")
    >>> person_caption(shown, 0)
    'A woman with long black hair wearing a red coat and blue trousers, carrying a handbag.'
    >>> person_caption(("unknown",) * 6, 130)
    'A picture of a person.'
    """
    if len(attributes) != len(PLACES):
        raise ConfigError(f"{len(attributes)} attributes (expected six: {', '.join(PLACES)})")
    if not 0 <= number < COUNT:
        raise ConfigError(f"template {number} (expected 0..{COUNT - 1})")
    rest, carried = divmod(number, len(CARRIED))
    rest, worn = divmod(rest, len(WORN))
    opening, at = divmod(rest, len(ORDERS))
    order, garments = ORDERS[at]
    of = {
        attribute: phrase.strip()
        for attribute, phrase in zip(PLACES, attributes, strict=True)
        if phrase.strip() not in ("", UNKNOWN)
    }
    clothes = [_with_article(of[name]) for name in garments if name in of]
    clauses = {
        "head": f"with {_with_article(of['head'])}" if "head" in of else "",
        "worn": f"{WORN[worn]} {_enumerate_parts(clothes)}" if clothes else "",
        "held": f"{CARRIED[carried]} {_with_article(of['belongings'])}" if "belongings" in of else "",
    }
    ordered = [clauses[name] for name in order if clauses[name]]
    who = _with_article(of.get("gender", "person"))
    whole = " ".join([who, *ordered[:2]]) + "".join(f", {clause}" for clause in ordered[2:])
    text = OPENINGS[opening].format(whole)
    return text[0].upper() + text[1:]


def _with_article(phrase: str) -> str:
    last = phrase.rsplit(" ", 1)[-1].lower()
    if last in UNCOUNTED or (last.endswith("s") and not last.endswith("ss")) or phrase.lower().startswith(("a ", "an ", "the ")):
        return phrase
    return f"{'an' if phrase[0].lower() in 'aeiou' else 'a'} {phrase}"


def _enumerate_parts(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
