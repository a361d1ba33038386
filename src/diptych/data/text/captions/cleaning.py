"""Captions as BLIP's authors clean them (Li et al., 2022, arXiv 2201.12086), and after them ARO, SNARE and PTP."""

from __future__ import annotations

import re

REMOVED = re.compile(r"[.!\"()*#:;~]")


def cleaned(caption: str, most_words: int = 0) -> str:
    """In small letters, a blank for each of . ! " ( ) * # : ; ~, and single blanks; cut after `most_words`, 0 for all.

    Commas, quotes and hyphens stay.

    >>> cleaned('A dog (brown), running:  fast!', 5)
    'a dog brown , running'
    """
    small = re.sub(r"\s{2,}", " ", REMOVED.sub(" ", caption.lower())).rstrip("\n").strip(" ")
    words = small.split(" ")
    return " ".join(words[:most_words]) if most_words and len(words) > most_words else small
