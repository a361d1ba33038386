"""Text normalisation of CLIP, open_clip and SigLIP before tokenising, and the original position of each character."""

from __future__ import annotations

import html
import string
from collections.abc import Callable
from typing import Literal

from diptych.core.errors import DataError
from diptych.data.text.captions.cleaning import cleaned as blip_cleaned

Clean = Literal["none", "clip", "whitespace", "canonicalize", "siglip", "blip", "ascii_lower"]
"""What is done to a text first: nothing; as CLIP reads it; mojibake and white space repaired; that, lower case and no punctuation (both
as open_clip has them); lower case and no punctuation (SigLIP as transformers has it); lower case and a blank for some marks (BLIP,
`data/text/captions/cleaning.py`); ASCII letters in lower case and nothing else (TIPS)."""

IOTA_BELOW = "\u0345"


def clip_clean(text: str) -> str:
    """Text as CLIP reads it: mojibake repaired, HTML entities resolved (twice), white space collapsed, lower case.

    The iota below (U+0345) is a blank: CLIP's pattern ignores case, to which this mark is as good as a letter, and finds it neither among
    letters nor among other signs. It is the only character that is lost so.
    """
    lower = whitespace_clean(text).lower()
    return " ".join(lower.replace(IOTA_BELOW, " ").split()) if IOTA_BELOW in lower else lower


def whitespace_clean(text: str) -> str:
    """Mojibake repaired, HTML entities resolved (twice), white space collapsed: open_clip's for text encoders of transformers."""
    if not (text.isascii() and text.isprintable() and "&" not in text):  # nothing to repair in what is skipped
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split())


def ascii_lower(text: str) -> str:
    """ASCII letters in lower case, all else as it is: `tf.strings.lower`.

    >>> ascii_lower("A RED Étage")
    'a red Étage'
    """
    return text.translate(_ASCII_LOWER)


def canonicalized(text: str) -> str:
    """That, underscores as spaces, no punctuation, lower case: open_clip's for SigLIP."""
    return siglip_clean(whitespace_clean(text).replace("_", " "))


def siglip_clean(text: str) -> str:
    """Lower case, no ASCII punctuation, white space collapsed: SigLIP's in transformers."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def cleaned_positions(text: str, cleaned: str) -> list[int]:
    """For each character of a cleaned text the place in `text` that it came from (blanks: of what was read last).

    Raises DataError if cleaning did more than change case and drop blanks and punctuation.
    """
    if text == cleaned:
        return list(range(len(text)))
    # One at a time, since lower case of "\u0130" is two characters; folded, since a sigma's depends on what follows it.
    lower = [(letter, position) for position, given in enumerate(text) for letter in given.lower()]
    positions, at = [], -1
    for letter in cleaned:
        if not letter.isspace():
            at += 1
            while at < len(lower) and not _same(lower[at][0], letter) and lower[at][0] in _SKIPPED:
                at += 1
            if at >= len(lower) or not _same(lower[at][0], letter):
                raise DataError(
                    f"cleaning makes {cleaned[:60]!r} of {text[:60]!r}: the positions of its words are lost",
                    field="text",
                    expected="a text that is clean already (composed letters, no HTML entities, no mojibake)",
                )
        positions.append(lower[max(at, 0)][1])
    return positions


def _same(one: str, other: str) -> bool:
    return one == other or one.casefold() == other.casefold()


_SKIPPED = frozenset(string.punctuation + string.whitespace + "\u00a0\u3000" + IOTA_BELOW)

_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_PUNCTUATION = str.maketrans("", "", string.punctuation)
CLEANERS: dict[str, Callable[[str], str]] = {
    "clip": clip_clean,
    "whitespace": whitespace_clean,
    "canonicalize": canonicalized,
    "siglip": siglip_clean,
    "blip": blip_cleaned,
    "ascii_lower": ascii_lower,
}
