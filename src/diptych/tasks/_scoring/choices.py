"""Questions with lettered options: how they are shown, which option a reply means, and what rotating them tells.

A reply is read in this order, and stays unread where nothing fits: the letter alone; at the beginning the letter in brackets, or
with a full stop, bracket or colon behind it; "answer is B"; the text of exactly one option. A bare "A" inside of a sentence is an
article and no answer.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from diptych.core.errors import DataError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def shown(question: str, options: Sequence[str], instruction: str) -> str:
    """The question with its options, a line each.

    >>> print(shown("what colour ?", ["red", "blue"], "Answer with the letter."))
    what colour ?
    A. red
    B. blue
    Answer with the letter.
    """
    if len(options) > len(LETTERS):
        raise DataError(f"a question has {len(options)} options", field="questions", expected=f"at most {len(LETTERS)}")
    lines = [question, *(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)), instruction]
    return "\n".join(line for line in lines if line)


def option_of(reply: str, options: Sequence[str]) -> int | None:
    """Which option a reply means.

    >>> [option_of(reply, ["red", "a blue ring"]) for reply in ("B", "(A)", "The answer is B.", "It is a blue ring", "A ring", "")]
    [1, 0, 1, 1, None, None]
    """
    letters = LETTERS[: len(options)]
    text = reply.strip()
    if len(text) == 1 and text.upper() in letters:
        return letters.index(text.upper())
    at_start = re.match(rf"(?:\(([{letters}])\)|([{letters}])[.):](?=\s|$))", text)
    said = re.findall(rf"\b(?i:answer(?:\s+is)?)\s*:?\s*\(?([{letters}])\b(?![’'])", text)
    if at_start:
        return letters.index(at_start[1] or at_start[2])
    if len(set(said)) == 1:
        return letters.index(said[0])
    held = [place for place, option in enumerate(options) if _holds(text, option)]
    longest = [
        place
        for place in held
        if not any(other != place and _holds(options[other], options[place]) for other in held)  # "ring" in "blue ring"
    ]
    return longest[0] if len(longest) == 1 else None


def _holds(text: str, option: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(option.strip().lower())}(?!\w)", text.lower()) is not None


def rotations(options: Sequence[str], count: int) -> list[list[str]]:
    """The options turned by 0, 1, ... places; as many as there are options, or `count` if that is less."""
    return [[*options[turn:], *options[:turn]] for turn in range(min(count, len(options)))]


def entropy(chosen: Sequence[str], options: int) -> float:
    """How much the choice depends on the order: 0 for always the same option, 1 for as many different ones as there can be.

    chosen   what was chosen in each order; an unread reply is a choice of its own
    options  how many there are to choose from; the entropy is divided by the logarithm of the smaller of the two numbers
    """
    most = min(len(chosen), options)
    if most < 2:
        return 0.0
    shares = [count / len(chosen) for count in Counter(chosen).values()]
    return abs(sum(share * math.log(share) for share in shares)) / math.log(most)
