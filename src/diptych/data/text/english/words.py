"""Possible kinds of an English word, without its context: closed lists, a lexicon, and endings.

The lexicon (`lexicon.txt`) holds only words that their ending does not give away. It was taken from the lexicon of Brill's tagger
(Eric Brill, 1992, "A simple rule-based part of speech tagger"; MIT licence, in `LICENCE.txt` beside it).
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Literal

Tag = Literal["NOUN", "PROPN", "VERB", "AUX", "ADJ", "ADV", "ADP", "DET", "NUM", "PRON", "CONJ", "PART", "PUNCT"]
"""Universal parts of speech. Both kinds of conjunction are CONJ; possessives ("her hat") are DET; a participle that stands before its
noun ("a smiling woman") is ADJ, else VERB; interjections are NOUN."""

Kind = Literal["N", "A", "V", "P", "G", "S", "R"]
"""Noun, adjective, base form of a verb, past form or participle, -ing form, noun or verb in -s, adverb."""


def split(words: str) -> frozenset[str]:
    """A set from a line of words."""
    return frozenset(words.split())


AUXILIARIES = split(
    "is are was were be been being am 's 're 'm has have had do does did can could will would shall should may might must ca wo"
)
BE = split("is are was were be been being am 's 're 'm")
DETERMINERS = split(
    "a an the this that these those some any no every each either neither both all another my your his her its our their several many few "
    "more most much such half what which whose own"
)
PRONOUNS = split(
    "i you he she it we they me him us them himself herself itself themselves each-other everyone everybody someone somebody something "
    "anything nothing everything who whom there mine yours hers ours theirs anyone nobody"
)
PREPOSITIONS = split(
    "about above across after against along alongside amid among amongst around as at atop before behind below beneath beside besides "
    "between beyond by despite down during except for from in inside into like near of off on onto opposite out outside over past per "
    "since than through throughout till to toward towards under underneath until up upon via with within without versus"
)
ADVERBS_TOO = split(
    "about above across along around behind below by down in inside near off on out outside over past through under up"
)
"""Prepositions that are adverbs where nothing follows them ("a man looks up")."""
CONJUNCTIONS = split("and or but nor yet & plus while because if when where although though whether so unless whereas once")
NUMBERS = split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen "
    "twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million dozen"
)
ADVERBS = split(
    "not n't very too also just only even still again always never often then now here away together ahead apart back else how why "
    "maybe perhaps almost quite rather really right-side upside-down outdoors indoors outside inside nearby overhead forward backward "
    "backwards forwards sideways upwards downwards upside aside"
)
CLOSED: dict[str, Tag] = {
    **dict.fromkeys(ADVERBS, "ADV"),
    **dict.fromkeys(CONJUNCTIONS, "CONJ"),
    **dict.fromkeys(PREPOSITIONS, "ADP"),
    **dict.fromkeys(PRONOUNS, "PRON"),
    **dict.fromkeys(DETERMINERS, "DET"),
    **dict.fromkeys(AUXILIARIES, "AUX"),
    **dict.fromkeys(NUMBERS, "NUM"),
    "'s": "PART",
}
NUMBER = re.compile(r"[\d.,:/-]*\d[\d.,:/-]*(?:st|nd|rd|th|s)?")
ADJECTIVE = re.compile(r".{2,}(?:ous|ful|less|able|ible|ical|ive|ish|ese|most|esque)|.{3,}(?:al|ic|ary|ent|ant|ian|like)")
"""Endings of adjectives. Nouns that have one are in the lexicon."""


@cache
def lexicon() -> dict[str, str]:
    """Word -> its kinds, the most usual first, for words that `by_ending` gets wrong or only partly right."""
    lines = (files(__package__) / "lexicon.txt").read_text("utf8").splitlines()
    return dict(line.split("\t") for line in lines if line and not line.startswith("#"))


def kinds(word: str) -> str:
    """The kinds of an open-class word in lower case, the most usual first.

    >>> kinds("wooden"), kinds("ride"), kinds("parked"), kinds("rides"), kinds("slowly"), kinds("zebra")
    ('A', 'VN', 'P', 'S', 'R', 'N')
    """
    listed = lexicon().get(word)
    if listed is not None:
        return listed
    if "-" in word:
        return _compound(word)
    return by_ending(word)


def by_ending(word: str) -> str:
    """Kind of a word by its ending; "N" by default."""
    if word.endswith("ly") and any("A" in lexicon().get(stem, "") or ADJECTIVE.fullmatch(stem) for stem in _adjectives(word)):
        return "R"
    if word.endswith("ing") and len(word) > 4:
        return "G"
    if word.endswith("ed") and len(word) > 4:
        return "P"
    if (
        word.endswith("s")
        and not word.endswith(("ss", "us", "is"))
        and any("V" in lexicon().get(base, "") for base in singulars(word))
    ):
        return "S"
    return "A" if ADJECTIVE.fullmatch(word) else "N"


def singulars(word: str) -> tuple[str, ...]:
    """Possible base forms of a word in -s: plural of a noun, third person of a verb.

    >>> singulars("carries"), singulars("watches"), singulars("dogs")
    (('carrie', 'carry'), ('watche', 'watch'), ('dog',))
    """
    if word.endswith("ies"):
        return word[:-1], word[:-3] + "y"
    return (word[:-1], word[:-2]) if word.endswith(("ches", "shes", "xes", "sses", "oes", "zes")) else (word[:-1],)


def _adjectives(word: str) -> tuple[str, ...]:
    """Possible base forms of an adverb in -ly: "slow", "happy", "simple", and participles ("smilingly")."""
    stem = word[:-2]
    return (stem, stem[:-1] + "y", stem + "le", stem + "ly") if stem.endswith("i") else (stem, stem + "le", stem + "l")


def _compound(word: str) -> str:
    """A word with hyphens: "black-and-white", "brightly-coloured", "long-haired" are adjectives, else what its last part is."""
    last = word.rsplit("-", 1)[-1]
    if not last:
        return "N"
    last_kinds = kinds(last) if last not in CLOSED else "A"
    return "A" if last_kinds[0] in "APG" else last_kinds
