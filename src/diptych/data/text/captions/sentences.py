"""Rule-based sentence splitting of long captions.

A sentence ends at a new line, at a separator mark (`</s>`, `<s>`, `<br>`), at `.`, `!`, `?` or `…` before white space, and at the
full-width marks of Chinese and Japanese anywhere. It does not end inside a number (3.5), after an abbreviation that leads on (e.g.,
Dr., fig. 2), or after an initial (J. Smith). Abbreviations that may also close a sentence (etc., Inc., U.S.) close one only before a
word that commonly opens the next. Captions are often all in lower case, so a capital letter is not asked for.
"""

from __future__ import annotations

import re
from functools import lru_cache

MARKS = re.compile(r"</?s>|<br\s*/?>|<\|endoftext\|>|[\r\n\u2028\u2029]+", re.IGNORECASE)
END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+[」』”’）]*")
LAST_WORD = re.compile(r"[^\s(\[\"'“‘]+$")
NEXT_WORD = re.compile(r"[\s\"'“‘(\[]*([^\s]+)")
LETTERS = re.compile(r"\w")

LEADING = re.compile(r"e\.?g|i\.?e|vs|cf|viz|approx|ca|mr|mrs|ms|dr|prof|st|mt|ft|rev|gen|sgt|capt|lt|col|hon|messrs")
"""Never the end of a sentence."""
NUMBERED = re.compile(r"nos?|nr|figs?|eq|vol|ch|sec|pp?")
"""Not the end before a number."""
CLOSING = re.compile(r"etc|inc|ltd|co|corp|jr|sr|bros|dept|al")
"""The end only before an opener; so is every other word of letters and full stops (U.S., p.m.)."""
OPENERS = re.compile(r"an?|the|that|this|these|those|t?here|its?|s?he|they|we|you|i|[io]n|at|to|his|her|their")
DOTTED = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")


@lru_cache(maxsize=65536)
def sentences(text: str) -> tuple[str, ...]:
    """The sentences in order, with their own punctuation, stripped; pieces without a letter or digit are left out.

    >>> sentences("A dog, e.g. a poodle, 3.5 m away. it barks!</s>Dr. Smith listens")
    ('A dog, e.g. a poodle, 3.5 m away.', 'it barks!', 'Dr. Smith listens')
    """
    pieces = []
    for line in MARKS.split(text):
        start = 0
        for end in END.finditer(line):
            if _ends(line, start, end):
                pieces.append(line[start : end.end()])
                start = end.end()
        pieces.append(line[start:])
    return tuple(" ".join(piece.split()) for piece in pieces if LETTERS.search(piece))


def _ends(line: str, start: int, end: re.Match[str]) -> bool:
    """True if the sentence that starts at `start` ends at this punctuation."""
    before = LAST_WORD.search(line, start, end.start())
    after = NEXT_WORD.match(line, end.end())
    if end.group() != "." or before is None or after is None:
        return after is None or not (end.group()[0] == "…" or end.group().startswith("..")) or not after[1][0].islower()
    word, following = before.group().lower(), after[1]
    if LEADING.fullmatch(word) or (NUMBERED.fullmatch(word) and following[0].isdigit()):
        return False
    opens = following[0].isupper() and OPENERS.fullmatch(following.strip(".,!?").lower()) is not None
    if CLOSING.fullmatch(word) or DOTTED.fullmatch(word):
        return opens
    initial = len(word) == 1 and before.group().isupper() and following[0].isupper()
    return not initial or opens
