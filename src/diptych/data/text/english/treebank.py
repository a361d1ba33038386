"""Words as the Penn Treebank cuts them (MacIntyre's rules, 1995), in the form of `word_tokenize` of NLTK 3.8, which ARO shuffles.

"can't" is "ca n't", "dog's" is "dog 's", quotes become `` and '', signs stand alone; "well-known" stays one word, and so do stops within a
sentence. Sentences end where a stop, question or exclamation mark stands before white space and a capital or digit; NLTK has a learned
model for it, which knows abbreviations.
"""

from __future__ import annotations

import re

_SENTENCE = re.compile(r"(?<=[.?!])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])")
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
    return [word for sentence in _SENTENCE.split(text) for word in _cut(sentence)]


def _cut(sentence: str) -> list[str]:
    for pattern, new in _RULES:
        sentence = pattern.sub(new, sentence)
    return sentence.split()
