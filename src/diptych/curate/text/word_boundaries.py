"""Word boundaries: texts and entries encoded as bytes, so that entry matching is a substring test on bytes.

There are three rules:

"tokens"      The default. A text is split into runs of letters, digits and marks, single punctuation characters, and spaces (runs
              of white space count as one); an entry matches where its tokens are adjacent. "U.S." matches in "the U.S. army",
              "dog" in "(dog)", and "猫" in a sentence without spaces, where every character is a token; "car" does not match in
              "carpet".
"released"    As in MetaCLIP's code: `, . ; : ? !` and the backtick are surrounded by spaces, tabs and newlines become spaces, and
              " entry " must occur in " text ". An entry with one of those characters never matches, nor does a word in brackets
              or quotes.
"multilingual" The same, but no space is required at an end of an entry that is a punctuation character or a script listed in
MetaCLIP 2's
              code: ASCII's and 25 others; Han, Thai, Lao, Burmese, Khmer and Tibetan. Kana are not among them, nor "…" or "–".

For entries without punctuation, "tokens" matches everything that "released" does. Letters: N texts, S characters, U bytes.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Rule = Literal["tokens", "released", "multilingual"]
RULES: tuple[Rule, ...] = ("tokens", "released", "multilingual")

BLANK, WORD, SIGN, END = range(4)
EDGE, LINE = 0x1F, 0x0A
"""Separator bytes that occur nowhere else in a prepared text: Python treats both as white space, which is written as a space."""

NOWHERE = b"\xff"
"""A byte that no UTF-8 has."""

WITHOUT_BLANKS = (
    (0x0E00, 0x0EFF), (0x0F00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F), (0xF900, 0xFAFF), (0xFF66, 0xFF9D), (0x20000, 0x3134F),
)  # fmt: skip
"""Thai and Lao, Tibetan, Burmese, Khmer, kana, Han and their extensions."""
OPEN_SCRIPTS = (
    (0x0E00, 0x0EFF), (0x0F00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x2FDF), (0x2FF0, 0x2FFF), (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2EBEF),
)  # fmt: skip
OPEN_SIGNS = frozenset(string.punctuation + "，。、；：？！“”‘’（）【】《》〈〉「」『』～—")
"""Characters next to which the rule "multilingual" requires no space, as released."""
SPACED = str.maketrans({sign: f" {sign} " for sign in ",.;:?!`"} | {"\t": " ", "\n": " ", "\r": " "})
NO_LINE = str.maketrans({"\n": " "})


def prepared(texts: Sequence[str], rule: Rule) -> tuple[bytes, npt.NDArray[np.int64]]:
    """Concatenated bytes of all texts, and the end of each: a match that begins at u lies in text searchsorted(end_N, u)."""
    if rule == "tokens":
        content = _mark_edges(texts)
    else:
        content = "".join(f" {text.translate(SPACED)} \n" for text in texts).encode("utf-8", "replace")
    end_N = np.flatnonzero(np.frombuffer(content, np.uint8) == LINE)
    return content, end_N


def pattern(entries: Sequence[str], rule: Rule) -> list[bytes]:
    """Byte patterns of the entries for search in `prepared` texts, one an entry."""
    if rule == "tokens":
        content = _mark_edges([entry.strip() for entry in entries])
        edge = bytes([EDGE])
        return [line if line.startswith(edge) else edge + line for line in content.split(b"\n")[: len(entries)]]
    if rule == "released":
        spelled = [f" {entry} " for entry in entries]
    else:
        spelled = [("" if _open(entry[0]) else " ") + entry + ("" if _open(entry[-1]) else " ") for entry in entries]
    # Prepared texts contain no newline, so an entry with one matches nothing, and must not match across two texts.
    return [entry.encode("utf-8", "replace").replace(b"\n", NOWHERE) for entry in spelled]


def _open(character: str) -> bool:
    return character in OPEN_SIGNS or any(low <= ord(character) <= high for low, high in OPEN_SCRIPTS)


def _mark_edges(texts: Sequence[str]) -> bytes:
    """Bytes with an edge marker around every token, shared by neighbours; a newline after every text."""
    joined = "\n".join(text.translate(NO_LINE) for text in texts) + "\n"
    if not joined.isascii():
        joined = unicodedata.normalize("NFC", joined)
    point_S = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4")
    kind_S = _kinds()[point_S]
    before_S = np.concatenate([[END], kind_S[:-1]])
    again_S = (kind_S == BLANK) & (before_S == BLANK)
    point_S, kind_S = point_S[~again_S], kind_S[~again_S]
    before_S = np.concatenate([[END], kind_S[:-1]])
    starts_S = (kind_S != before_S) | (kind_S == SIGN)
    written_S = np.where(kind_S == BLANK, 0x20, point_S)
    written_S[(written_S >= 0xD800) & (written_S < 0xE000)] = 0xFFFD  # half a surrogate pair
    place_S = np.arange(len(written_S)) + np.cumsum(starts_S)
    out = np.full(len(written_S) + int(starts_S.sum()), EDGE, "<u4")
    out[place_S] = written_S
    if len(out) and out.max() < 0x80:
        return out.astype(np.uint8).tobytes()
    return out.tobytes().decode("utf-32-le").encode()


def _is_word(character: str) -> bool:
    return character.isalnum() or character in "_\u200c\u200d" or unicodedata.category(character)[0] == "M"


@lru_cache(maxsize=1)
def _kinds() -> npt.NDArray[np.uint8]:
    """Class of every code point. Planes without letters count as punctuation."""
    kinds = np.full(0x110000, SIGN, np.uint8)
    for low, high in ((0, 0xD800), (0xE000, 0x20000), (0xE0000, 0xE0200)):
        for point in range(low, high):
            character = chr(point)
            if character.isspace():
                kinds[point] = BLANK
            elif _is_word(character):
                kinds[point] = WORD
    for low, high in WITHOUT_BLANKS:
        kinds[low : high + 1] = SIGN
    kinds[LINE] = END
    return kinds
