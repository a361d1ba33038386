"""Answer extractors: map a reply to the option it names. `EXTRACTORS` of `core.registry` holds this one and those of released
harnesses.

This extractor tries explicit forms in the following order, and returns None if two of the same form contradict each other: a
letter by itself on the first line; "the answer is B", "I choose B", a boxed letter; a conclusion at the end ("so (C)"); a letter
at the beginning ("B. a dog", "(B)") unless other bracketed letters follow; the only letter in brackets; the text of exactly one
option. "A" inside a sentence is an article, not an answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from diptych.tasks._scoring.answers.choices import LETTERS

Extractor = Callable[[str, Sequence[str]], int | None]
"""(reply, options in the order shown) -> index of the chosen option, or None if it cannot be determined."""


def strict(reply: str, options: Sequence[str]) -> int | None:
    """Index of the option that a reply names; None if it names none or several. The default extractor.

    >>> options = ["red", "a blue ring"]
    >>> tuple(strict(reply, options) for reply in ("B", "(A)", "The answer is B.", "It is a blue ring", "A ring", "(A) or (B)", ""))
    (1, 0, 1, 1, None, None, None)
    """
    letters = LETTERS[: len(options)]
    text = reply.strip()
    first_line = text.partition("\n")[0]
    alone = re.fullmatch(rf"\W*(?i:(?:option|choice)\s+)?([{letters}{letters.lower()}])\W*", first_line)
    if alone:
        return letters.index(alone[1].upper())
    for named in (_announced(text, letters), _concluded(text, letters)):
        if named:
            return letters.index(named.pop()) if len(named) == 1 else None
    bracketed = {one.upper() for one in re.findall(rf"\(([{letters}{letters.lower()}])\)", text)}
    start = re.match(rf"\W*(?:\(([{letters}{letters.lower()}])\)|([{letters}])[.):](?=\s|$))", text)
    if start:
        first, rest = (start[1] or start[2]).upper(), text[start.end() :].strip(" .*()")
        return letters.index(first) if bracketed <= {first} and rest not in {*letters} - {first} else None
    if bracketed:
        return letters.index(bracketed.pop()) if len(bracketed) == 1 else None
    return held_text(text, options)


def _announced(text: str, letters: str) -> set[str]:
    """Letters announced as the answer. A small letter only where nothing follows in its sentence: "a" is an article."""
    opening = r"(?<!not )(?i:\banswer(?:\s+is|\s+would\s+be)?(?:\s*:)?|\b(?:choose|pick|select)(?:\s+(?:option|answer))?)"
    option = r"(?i:(?:option|choice)\s+)?"
    big = rf"{opening}\s*[*_\"']*{option}[(\[]?[*_]*([{letters}])\b(?![’'])"
    small = rf"{opening}\s*[*_\"']*{option}[(\[]?[*_]*([{letters.lower()}])[)\]*_\"']*\s*(?:[.,;!]|$)"
    boxed = rf"\\boxed\{{\s*(?:\\text\{{)?\s*\(?([{letters}])\)?\s*\}}"
    return {one.upper() for pattern in (big, small, boxed) for one in re.findall(pattern, text)}


def _concluded(text: str, letters: str) -> set[str]:
    """Letter after "so", "therefore", "thus" or "hence" at the end of the reply."""
    return set(re.findall(rf"(?i:\b(?:so|therefore|thus|hence))\W+(?i:it\s+is\s+|it's\s+)?[(*]*([{letters}])\W*$", text))


def held_text(text: str, options: Sequence[str]) -> int | None:
    """Index of the option that occurs in the text, the longest where one contains the others ("blue ring", not "ring"); None if several."""
    held = [index for index, option in enumerate(options) if _holds(text, option)]
    longest = [index for index in held if not any(other != index and _holds(options[other], options[index]) for other in held)]
    return longest[0] if len(longest) == 1 else None


def _holds(text: str, option: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(option.strip().lower())}(?!\w)", text.lower()) is not None
