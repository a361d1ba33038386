"""Answer extractors of released harnesses, bugs included, for results comparable with published ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from diptych.tasks._scoring.answers.choices import LETTERS

SIX = "ABCDEF"
REJECTIONS = (
    "Failed to obtain answer via API",
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
"""Phrases that VLMEvalKit treats as no answer wherever they occur."""


def ii_bench(reply: str, options: Sequence[str]) -> int | None:
    """II-Bench (2406.05862): the most frequent "(X)", else the most frequent X that is a separate word; on a tie the one whose
    first mention is last, so "The answer is (B) because (A) and (A) fail" gives A. Without any, the last option whose text
    contains the reply or is contained in it, so "d" gives F. The letters are always A to F; an empty reply gives None.

    >>> ii_bench("The answer is (B) because (A) and (A) fail", ["x"] * 6)
    0
    """
    if not reply:
        return None
    letters = re.findall(r"\(([A-F])\)", reply) or re.findall(r"\b([A-F])\b", reply)
    if letters:
        counts = Counter(letters)  # in the order of first mention
        most = max(counts.values())
        return SIX.index([letter for letter, count in counts.items() if count == most][-1])
    held = [index for index, option in enumerate(options) if option.strip() in reply or reply in option]
    return held[-1] if held else None


def vlmevalkit(reply: str, options: Sequence[str]) -> int | None:
    """VLMEvalKit's match without a judge: the only option letter that occurs as a word, among the last four words; else "answer
    is X" (A to D); else the text of exactly one option, in a reply of at most twice the length of all options. If nothing
    matches, VLMEvalKit asks a judge or draws an option; this function returns None.

    >>> vlmevalkit("It shows a dog. (B)", ["a cat", "a dog"]), vlmevalkit("B is what I would take for it", ["a cat", "a dog"])
    (1, None)
    """
    letters = LETTERS[: len(options)]
    if not any(words in reply for words in REJECTIONS):
        words = re.sub(r"[.()\[\],:;!*#{}]", " ", reply).split()
        named = [letter for letter in letters if letter in words]
        if len(named) == 1 and words.index(named[0]) > len(words) - 5:
            return letters.index(named[0])
        if not named and "Z" in words:
            return None
        announced = re.search(r"(?i)(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", reply)
        if announced and announced[1].upper() in letters:
            return letters.index(announced[1].upper())
    elif REJECTIONS[0] not in reply:
        return None
    small = [option.lower() for option in options]
    if len(reply) > 2 * sum(len(option) for option in options):
        return None
    held = [index for index, option in enumerate(small) if option in reply.lower()]
    return held[0] if len(held) == 1 else None


def muirbench(reply: str, options: Sequence[str]) -> int | None:
    """MUIRBench as lmms-eval has it: a capital letter and a full stop at the beginning, or nothing but the letter.

    >>> tuple(muirbench(reply, ["a cat", "a dog"]) for reply in ("B. a dog", " b ", "(B)"))
    (1, 1, None)
    """
    start = re.match(r"\s*([A-Z])\.", reply)
    text = (start[1] if start else reply).lower().strip()
    letters = LETTERS[: len(options)].lower()
    return letters.index(text) if len(text) == 1 and text in letters else None
