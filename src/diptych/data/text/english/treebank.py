"""Words as the Penn Treebank cuts them (MacIntyre's rules, 1995), in the form of `word_tokenize` of NLTK 3.8, which ARO shuffles.

"can't" is "ca n't", "dog's" is "dog 's", quotes become `` and '', signs stand alone; "well-known" stays one word, and so do stops
within a sentence. A sentence ends where a stop, question or exclamation mark stands before white space, regardless of what
follows, but not after an ellipsis, a single letter but I or an abbreviation. NLTK has learned its abbreviations from newspapers;
ours are those of captions among them: of the 4,839 captions of NegCLIP's validation file all are cut alike.
"""

from __future__ import annotations

import re
from itertools import pairwise

from diptych.data.text.english.words import split

_END = re.compile(r"(\S*)([.?!])[\"')\]]*\s+")
_ABBREVIATIONS = split(
    "mr mrs ms dr prof gen sen st ave jr sr vs ft mg inc ltd co corp cos bros u.s u.s.a u.k u.n d.c l.a n.y n.j a.m p.m ph.d "
    "jan feb aug sep sept oct nov dec"
)
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        # quotes that open
        (r"([«“‘„]|`+)", r" \1 "),
        (r"^\"", r"``"),
        (r"(``)", r" \1 "),
        (r"([ (\[{<])(\"|'{2})", r"\1 `` "),
        (r"(?i)(')(?!re|ve|ll|m|t|s|d|n)(\w)\b", r"\1 \2"),
        # signs
        (r"([^.])(\.)([\])}>\"'»”’ ]*)\s*$", r"\1 \2 \3 "),
        (r"([:,])([^\d])", r" \1 \2"),
        (r"([:,])$", r" \1 "),
        (r"(\.{2,})", r" \1 "),
        (r"([;@#$%&])", r" \1 "),
        (r"([^.])(\.)([\])}>\"']*)\s*$", r"\1 \2\3 "),
        (r"([?!])", r" \1 "),
        (r"([^'])'\s", r"\1 ' "),
        (r"(\*)", r" \1 "),
        (r"([\]\[(){}<>])", r" \1 "),
        (r"--", r" -- "),
        (r"^|$", r" "),
        # quotes that close, and what hangs at a word
        (r"([»”’])", r" \1 "),
        (r"''", r" '' "),
        (r"\"", r" '' "),
        (r"\s+", r" "),
        (r"([^' ])('[sS]|'[mM]|'[dD]|') ", r"\1 \2 "),
        (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 "),
        (r"(?i)\b(can)(not)\b", r" \1 \2 "),
        (r"(?i)\b(d)('ye)\b", r" \1 \2 "),
        (r"(?i)\b(gim|lem)(me)\b", r" \1 \2 "),
        (r"(?i)\b(gon)(na)\b", r" \1 \2 "),
        (r"(?i)\b(got)(ta)\b", r" \1 \2 "),
        (r"(?i)\b(more)('n)\b", r" \1 \2 "),
        (r"(?i)\b(wan)(na)(?=\s)", r" \1 \2 "),
        (r"(?i) ('t)(is|was)\b", r" \1 \2 "),
    )
)


def treebank_words(text: str) -> list[str]:
    """The words of a text, signs included.

    >>> treebank_words("A dog's well-known trick, isn't it?")
    ['A', 'dog', "'s", 'well-known', 'trick', ',', 'is', "n't", 'it', '?']
    """
    ends = [end.end() for end in _END.finditer(text) if end[2] != "." or not _is_abbreviation(end[1].lower())]
    return [word for start, stop in pairwise([0, *ends, len(text)]) for word in _cut(text[start:stop])]


def _is_abbreviation(word: str) -> bool:
    """True if a full stop after this word does not end a sentence."""
    bare = word.lstrip("\"'([")
    return bare in _ABBREVIATIONS or bare.endswith(".") or (len(bare) == 1 and bare.isalpha() and bare != "i")


def _cut(sentence: str) -> list[str]:
    for pattern, new in _RULES:
        sentence = pattern.sub(new, sentence)
    return sentence.split()
