"""Which option a reply means. `EXTRACTORS` of `core.registry` holds ours and those of released harnesses.

Ours goes by what a reply says outright, in this order, and leaves it unread where two of one kind contradict each other: the
letter alone in its first line; "the answer is B", "I choose B", a boxed letter; a conclusion at the end ("so (C)"); a letter at
the beginning ("B. a dog", "(B)") unless others stand in brackets behind it; the one letter in brackets; the text of exactly one
option. "A" inside of a sentence is an article and no answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from diptych.tasks._scoring.answers.choices import LETTERS

Extractor = Callable[[str, Sequence[str]], int | None]
"""Of a reply and the options in the order in which they were shown: the place of the one that is meant, None where none can be
read."""


def strict(reply: str, options: Sequence[str]) -> int | None:
    """Ours.

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
    for found in (_announced(text, letters), _concluded(text, letters)):
        if found:
            return letters.index(found.pop()) if len(found) == 1 else None
    bracketed = {one.upper() for one in re.findall(rf"\(([{letters}{letters.lower()}])\)", text)}
    start = re.match(rf"\W*(?:\(([{letters}{letters.lower()}])\)|([{letters}])[.):](?=\s|$))", text)
    if start:
        first, rest = (start[1] or start[2]).upper(), text[start.end() :].strip(" .*()")
        return letters.index(first) if bracketed <= {first} and rest not in {*letters} - {first} else None
    if bracketed:
        return letters.index(bracketed.pop()) if len(bracketed) == 1 else None
    return held_text(text, options)


def _announced(text: str, letters: str) -> set[str]:
    """Letters that are said to be the answer. A small letter only where nothing follows in its sentence: "a" is an article."""
    said = r"(?<!not )(?i:\banswer(?:\s+is|\s+would\s+be)?(?:\s*:)?|\b(?:choose|pick|select)(?:\s+(?:option|answer))?)"
    option = r"(?i:(?:option|choice)\s+)?"
    big = rf"{said}\s*[*_\"']*{option}[(\[]?[*_]*([{letters}])\b(?![’'])"
    small = rf"{said}\s*[*_\"']*{option}[(\[]?[*_]*([{letters.lower()}])[)\]*_\"']*\s*(?:[.,;!]|$)"
    boxed = rf"\\boxed\{{\s*(?:\\text\{{)?\s*\(?([{letters}])\)?\s*\}}"
    return {one.upper() for pattern in (big, small, boxed) for one in re.findall(pattern, text)}


def _concluded(text: str, letters: str) -> set[str]:
    """A letter behind "so", "therefore", "thus" or "hence" that ends the reply."""
    return set(re.findall(rf"(?i:\b(?:so|therefore|thus|hence))\W+(?i:it\s+is\s+|it's\s+)?[(*]*([{letters}])\W*$", text))


def held_text(text: str, options: Sequence[str]) -> int | None:
    """The option whose words stand in the text, alone or holding those of others that do ("ring" in "blue ring")."""
    held = [place for place, option in enumerate(options) if _holds(text, option)]
    longest = [place for place in held if not any(other != place and _holds(options[other], options[place]) for other in held)]
    return longest[0] if len(longest) == 1 else None


def _holds(text: str, option: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(option.strip().lower())}(?!\w)", text.lower()) is not None
