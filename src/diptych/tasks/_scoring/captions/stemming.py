"""Porter2 (Snowball) English stemmer (Porter, 2001, snowballstem.org), as implemented in NLTK; SITTA uses it to score retrieval.

>>> [stem(word) for word in ("Running", "skies", "generously", "relational", "happy", "cats'")]
['run', 'sky', 'generous', 'relat', 'happi', 'cat']
"""

from __future__ import annotations

import re
from functools import lru_cache

VOWELS = "aeiouy"
DOUBLES = ("bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt")
WHOLE = {
    "skis": "ski",
    "skies": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "idly": "idl",
    "gently": "gentl",
    "ugly": "ugli",
    "early": "earli",
    "only": "onli",
    "singly": "singl",
    **{word: word for word in ("sky", "news", "howe", "atlas", "cosmos", "bias", "andes")},
}
"""Exceptions: words that the rules would stem incorrectly."""
FIXED = {"inning", "outing", "canning", "herring", "earring", "proceed", "exceed", "succeed"}
"""Words left unchanged after plural removal."""
BEGINNINGS = ("gener", "commun", "arsen")
"""Prefixes after which region R1 begins."""
SECOND = {
    "ization": "ize",
    "ational": "ate",
    "fulness": "ful",
    "ousness": "ous",
    "iveness": "ive",
    "tional": "tion",
    "biliti": "ble",
    "lessli": "less",
    "entli": "ent",
    "ation": "ate",
    "alism": "al",
    "aliti": "al",
    "ousli": "ous",
    "iviti": "ive",
    "fulli": "ful",
    "enci": "ence",
    "anci": "ance",
    "abli": "able",
    "izer": "ize",
    "ator": "ate",
    "alli": "al",
    "bli": "ble",
    "ogi": "og",
    "li": "",
}
THIRD = {
    "ational": "ate",
    "tional": "tion",
    "alize": "al",
    "icate": "ic",
    "iciti": "ic",
    "ative": "",
    "ical": "ic",
    "ness": "",
    "ful": "",
}
FOURTH = [
    "ement",
    "ance",
    "ence",
    "able",
    "ible",
    "ment",
    "ant",
    "ent",
    "ism",
    "ate",
    "iti",
    "ous",
    "ive",
    "ize",
    "ion",
    "al",
    "er",
    "ic",
]


@lru_cache(maxsize=200_000)
def stem(word: str) -> str:
    """The stem of a word, in lower case. Words of two letters or less stay as they are."""
    word = word.lower()
    if len(word) <= 2:
        return word
    word = re.sub("[\u2019\u2018\u201b]", "'", word)
    if word in WHOLE:
        return WHOLE[word]
    word = word.removeprefix("'")
    word = re.sub(rf"(^|[{VOWELS}])y", r"\1Y", word)
    first, second = _regions(word)
    word = _without_possessive(word)
    word = _without_plural(word)
    if word in FIXED:
        return word.lower()
    before, word = word, _without_ed_and_ing(word, first)
    if word != before and word.endswith(("ate", "ble", "ize")) and (len(word) > 5 or len(word) - first >= 3):
        second = min(second, len(word) - 1)  # as NLTK has it, which counts the added e to the second region
    if len(word) > 2 and word[-1] in "yY" and word[-2] not in VOWELS:
        word = word[:-1] + "i"
    ending = next((ending for ending in ("ization", "izer") if word.endswith(ending)), "")
    if ending and first <= len(word) - len(ending) < second:
        second = len(word)  # as NLTK has it, which keeps the e of "quantize" from "quantizer"
    word = _second(word, first)
    word = _third(word, first, second)
    word = _fourth(word, second)
    word = _last(word, first, second)
    return word.replace("Y", "y")


def _regions(word: str) -> tuple[int, int]:
    """Starts of regions R1 and R2 of a word: after the first consonant that follows a vowel, and the same within R1."""
    begun = next((beginning for beginning in BEGINNINGS if word.startswith(beginning)), "")
    first = len(begun) if begun else _after(word, 0)
    return first, _after(word, first)


def _after(word: str, start: int) -> int:
    match = re.search(rf"[{VOWELS}][^{VOWELS}]", word[start:])
    return start + match.end() if match else len(word)


def _without_possessive(word: str) -> str:
    ending = next((ending for ending in ("'s'", "'s", "'") if word.endswith(ending)), "")
    return word[: len(word) - len(ending)]


def _without_plural(word: str) -> str:
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith(("ied", "ies")):
        return word[:-2] if len(word) > 4 else word[:-1]
    if word.endswith(("us", "ss")) or not word.endswith("s"):
        return word
    return word[:-1] if re.search(f"[{VOWELS}]", word[:-2]) else word


def _without_ed_and_ing(word: str, first: int) -> str:
    ending = next((ending for ending in ("eedly", "ingly", "edly", "eed", "ing", "ed") if word.endswith(ending)), "")
    if not ending:
        return word
    rest = word[: len(word) - len(ending)]
    if ending in ("eed", "eedly"):
        return rest + "ee" if len(rest) >= first else word
    if not re.search(f"[{VOWELS}]", rest):
        return word
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if rest.endswith(DOUBLES):
        return rest[:-1]
    return rest + "e" if len(rest) <= first and _short_end(rest) else rest


def _short_end(word: str) -> bool:
    """True if a word ends in a short syllable."""
    return bool(re.search(rf"(^[{VOWELS}][^{VOWELS}]|[^{VOWELS}][{VOWELS}][^{VOWELS}wxY])$", word))


def _second(word: str, first: int) -> str:
    ending = next((ending for ending in SECOND if word.endswith(ending)), "")
    rest = word[: len(word) - len(ending)]
    if not ending or len(rest) < first:
        return word
    if ending == "ogi" and not rest.endswith("l"):
        return word
    if ending == "li" and not re.search("[cdeghkmnrt]$", rest):
        return word
    return rest + SECOND[ending]


def _third(word: str, first: int, second: int) -> str:
    ending = next((ending for ending in THIRD if word.endswith(ending)), "")
    rest = word[: len(word) - len(ending)]
    if not ending or len(rest) < (second if ending == "ative" else first):
        return word
    return rest + THIRD[ending]


def _fourth(word: str, second: int) -> str:
    ending = next((ending for ending in FOURTH if word.endswith(ending)), "")
    rest = word[: len(word) - len(ending)]
    if not ending or len(rest) < second or (ending == "ion" and not rest.endswith(("s", "t"))):
        return word
    return rest


def _last(word: str, first: int, second: int) -> str:
    rest = word[:-1]
    if word.endswith("e") and (len(rest) >= second or (len(rest) >= first and not _short_end(rest))):
        return rest
    return rest if word.endswith("ll") and len(rest) >= second else word
