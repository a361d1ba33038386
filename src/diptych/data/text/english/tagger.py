"""Parts of speech of an English caption, by a lexicon and rules over neighbours: offline, deterministic, thousands of captions
per second.

What the rules know that a tagger of newspapers does not: captions are noun phrases more often than sentences, often without an article
or a capital letter, so a word that may be a noun or a verb ("park", "walks", "lights") is a noun unless its neighbours make it the verb
of the clause. Anything that turns a string into `Word`s can stand in its place; `spacy_tagger` is one.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from diptych.core.errors import ConfigError
from diptych.data.text.english.words import ADVERBS_TOO, BE, CLOSED, NUMBER, Tag, kinds

TOKEN = re.compile(
    r"\w+(?=n't\b)|n't\b|(?:[^\W\d_]\.){2,}|\.?\d[\d.,:/]*\w*|\w+(?:-\w+)*|['’](?:s|re|ve|ll|d|m)\b|[^\w\s]", re.IGNORECASE
)
OPENERS = ("DET", "ADJ", "NUM", "NOUN", "PROPN", "PRON")


@dataclass(frozen=True, slots=True)
class Word:
    """A token of a caption: `caption[start:stop] == text`. penn: its tag of the Penn Treebank, where a tagger gives one."""

    text: str
    tag: Tag
    start: int
    stop: int
    penn: str = ""

    @property
    def lower(self) -> str:
        return self.text.lower()


Tagger = Callable[[str], Sequence[Word]]


@lru_cache(maxsize=65536)
def tag(caption: str) -> tuple[Word, ...]:
    """The words of a caption in order, punctuation included.

    >>> [(word.text, word.tag) for word in tag("A woman rides a bike past parked cars.")]  # doctest: +NORMALIZE_WHITESPACE
    [('A', 'DET'), ('woman', 'NOUN'), ('rides', 'VERB'), ('a', 'DET'), ('bike', 'NOUN'), ('past', 'ADP'), ('parked', 'ADJ'),
     ('cars', 'NOUN'), ('.', 'PUNCT')]
    """
    tokens = [(match.group(), match.start(), match.end()) for match in TOKEN.finditer(caption)]
    tags = _tags([text for text, _, _ in tokens])
    return tuple(Word(text, tag, start, stop) for (text, start, stop), tag in zip(tokens, tags, strict=True))


@lru_cache(maxsize=2)
def spacy_tagger(name: str = "en_core_web_sm") -> Tagger:
    """The tagger of an installed spaCy model, which the published negatives were made with. Raises ConfigError if it is not there."""
    try:
        model = importlib.import_module("spacy").load(name, disable=("ner", "lemmatizer", "parser"))
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"the spaCy model '{name}' cannot be loaded: {error} (expected an installed model, or the built-in tagger)"
        ) from error

    @lru_cache(maxsize=65536)
    def tagged(caption: str) -> tuple[Word, ...]:
        return tuple(_from_spacy(token) for token in model(caption) if not token.is_space)

    return tagged


def _from_spacy(token: Any) -> Word:
    alike: dict[str, Tag] = {"CCONJ": "CONJ", "SCONJ": "CONJ", "SYM": "PUNCT", "INTJ": "NOUN", "X": "NOUN"}
    return Word(token.text, alike.get(token.pos_, token.pos_), token.idx, token.idx + len(token.text), token.tag_)


def _tags(texts: list[str]) -> list[Tag]:
    """Tags from left to right: earlier words are decided, later ones only guessed."""
    words = [text.lower().replace("’", "'") for text in texts]
    named = _names(texts, words)
    tags: list[Tag] = []
    for position, word in enumerate(words):
        if not re.search(r"\w", word):
            tags.append("CONJ" if word == "&" else "PUNCT")
        elif position in named and (word not in CLOSED or (texts[position].isupper() and len(word) > 1)):
            tags.append(_name(texts, words, position))
        elif NUMBER.fullmatch(word):
            tags.append("NUM")
        elif word in CLOSED:
            tags.append(_closed_class_tag(words, tags, position))
        else:
            tags.append(_open(words, tags, position))
    return tags


def _names(texts: list[str], words: list[str]) -> set[int]:
    """Places of capitalised words that are names; none in a caption whose words are mostly capitalised, as titles are."""
    letters = [
        position for position, word in enumerate(words) if word[0].isalpha() and (word not in CLOSED or texts[position].isupper())
    ]
    letters = [
        position
        for position in letters
        if len(words[position]) > 1 or (position and texts[position].isupper() and words[position] not in ("a", "i"))
    ]
    capital = [position for position in letters if texts[position][0].isupper()]
    if len(capital) > 0.7 * len(letters):
        return set()
    starts = {position for position in letters if position == 0 or texts[position - 1] in (".", "!", "?", '"', "“", ":")}
    return {position for position in capital if position not in starts}


def _name(texts: Sequence[str], words: Sequence[str], position: int) -> Tag:
    """Of a capitalised word: a single letter is a noun, "Canadian" in "a Canadian dollar" an adjective, else a name."""
    if len(texts[position]) == 1:
        return "NOUN"
    small = (
        position + 1 < len(texts) and texts[position + 1][0].islower() and _next_tag(words, position) in ("N", "A", "S", "V", "G")
    )
    small |= position + 1 < len(texts) and bool(NUMBER.fullmatch(words[position + 1]))
    return "ADJ" if small and re.search(r"(?:an|ish|ese)$", words[position]) else "PROPN"


def _next_tag(words: Sequence[str], position: int) -> str:
    """Likely tag of the following word: of a closed class, else its most usual kind; "" if the sentence ends."""
    if position + 1 >= len(words) or words[position + 1] in ".!?;:":
        return ""
    word = words[position + 1]
    if not re.search(r"\w", word):
        return "CONJ" if word == "&" else "PUNCT"
    if word in ("left", "right") and words[position + 2 : position + 3] == ["of"]:
        return "ADP"
    return "NUM" if NUMBER.fullmatch(word) else CLOSED.get(word) or kinds(word)[0]


def _closed_class_tag(words: Sequence[str], tags: Sequence[Tag], position: int) -> Tag:
    word, tag, after = words[position], CLOSED[words[position]], _next_tag(words, position)
    before = tags[position - 1] if position else ""
    if word == "'s" and before == "PRON":
        return "AUX"
    if word == "a" and after in ("ADP", "") and before == "NOUN":
        return "NOUN"
    if word == "to":
        return "PART" if _infinitive(words, position, before) else "ADP"
    if word == "like" and before in ("PRON", "AUX", "PART") and words[position - 1] not in BE:
        return "VERB"
    if word == "as" and (after in ("PRON", "A") or before == "PUNCT"):
        return "ADV" if after == "A" else "CONJ"
    if word in MAIN_VERBS and (after not in ("V", "P", "ADV", "R") or (after == "ADV" and _next_tag(words, position + 1) == "A")):
        return "VERB"
    if word in DOUBLE:
        return _determiner(words, before, after, position)
    if word in ("outside", "inside", "nearby", "back") and before in ("DET", "ADJ"):
        return "ADJ" if after in ("N", "S") else "NOUN"
    if word == "back":
        return "ADJ" if after == "N" and before not in ("VERB", "NOUN") else "NOUN" if before == "ADP" else "ADV"
    if word in ("outside", "inside", *ADVERBS_TOO):
        alone = after in ("", "PUNCT", "CONJ", "AUX") or (
            after == "ADP" and ((before == "VERB" and words[position + 1] != "of") or word == "out")
        )
        return "ADV" if alone and before else "ADP"
    return tag


MAIN_VERBS = frozenset(("have", "has", "had", "do", "does", "did"))
"""Auxiliaries that are verbs of their own unless another verb follows."""
DOUBLE = frozenset(
    ("that", "this", "these", "those", "all", "both", "one", "more", "some", "each", "another", "either", "half", "which")
)
"""Words that precede a noun or for one."""


def _determiner(words: Sequence[str], before: str, after: str, position: int) -> Tag:
    word = words[position]
    if word == "one":
        return "PRON" if before in ("DET", "ADJ") and after not in ("N", "A", "S") else "NUM"
    if word == "each" and position + 1 < len(words) and words[position + 1] == "other":
        return "PRON"
    if word in ("more", "half") and after == "A":
        return "ADV"
    if (word == "that" and before in ("NOUN", "PROPN", "VERB")) or (word == "which" and after != "N"):
        return "PRON"
    return "DET" if after in ("N", "A", "S", "P", "G", "NUM", "DET", "V", "R") else "PRON"


def _infinitive(words: Sequence[str], position: int, before: str) -> bool:
    """True if a verb follows "to"; a word that may be a noun too must be followed by an object or a preposition."""
    if position + 1 >= len(words) or words[position + 1] in CLOSED:
        return position + 1 < len(words) and words[position + 1] in ("be", "have", "do")
    next_kinds = kinds(words[position + 1])
    if before in ("ADJ", "VERB") and "V" in next_kinds and not words[position - 1].endswith(("ing", "ed", "en")):
        return True
    return next_kinds[0] == "V" or (
        "V" in next_kinds
        and position + 2 < len(words)
        and words[position + 2] in CLOSED
        and words[position + 2] not in ("and", "of")
    )


def _open(words: Sequence[str], tags: Sequence[Tag], position: int) -> Tag:
    word_kinds, before, after = kinds(words[position]), tags[position - 1] if position else "", _next_tag(words, position)
    first = word_kinds[0]
    if words[position] == "other" and position and words[position - 1] == "each":
        return "PRON"
    if first == "R":
        return "ADV"
    if first == "A" or word_kinds in ("NA", "NAP", "NAR", "NAV"):
        return _adjective(words, tags, position, word_kinds, before, after)
    if first == "S":
        return _third_person(words, tags, position, before, after)
    if first == "G":
        return _participle(words, tags, position, before, after)
    if first == "P":
        return (
            "ADJ" if after in ("N", "A", "S") and before != "PRON" and not _expects_verb(words, tags, position, after) else "VERB"
        )
    if words[position].endswith("ing") and after in ("DET", "PRON") and before in ("NOUN", "PROPN", "CONJ", "PUNCT", "ADV", ""):
        return "VERB"
    if "V" in word_kinds:
        return _base(words, tags, position, word_kinds, before, after)
    return "NOUN"


def _adjective(words: Sequence[str], tags: Sequence[Tag], position: int, word_kinds: str, before: str, after: str) -> Tag:
    nominal = "N" in word_kinds
    if before == "PART" and "V" in word_kinds:
        return "VERB"
    if nominal and (
        (before in ("ADJ", "PROPN") and after in ("", "PUNCT", "ADP", "AUX")) or (word_kinds[0] == "N" and after == "S")
    ):
        return "NOUN" if words[position] not in ("left", "right") else "ADV"
    if words[position] in ("left", "right"):
        if after == "ADP" and words[position + 1] == "of":
            return "NOUN" if before == "DET" else "ADP"
        return (
            "ADJ"
            if after in ("N", "A") and before in ("DET", "ADP", "")
            else "NOUN"
            if before in ("DET", "ADJ", "NOUN")
            else "ADV"
        )
    if after in ("N", "A", "S", "G", "P", "NUM") or (after == "V" and word_kinds[0] == "A"):
        return "ADJ"
    if (
        before == "AUX"
        or before == "ADV"
        or (not nominal and (after in ("CONJ", "PUNCT", "")) and before in ("NOUN", "ADJ", "VERB", "CONJ", "PUNCT"))
    ):
        return "ADJ"
    if before in ("DET", "ADP", "NUM") and (nominal or after in ("AUX", "ADP", "")) and words[position - 1] not in ("as", "very"):
        return "NOUN" if nominal or (before == "DET" and after in ("AUX", "", "ADP")) else "ADJ"
    return "NOUN" if nominal and word_kinds[0] == "N" else "ADJ"


def _third_person(words: Sequence[str], tags: Sequence[Tag], position: int, before: str, after: str) -> Tag:
    """A word in -s: the verb of a clause that has none yet, between its subject and what a verb takes; else a plural noun."""
    if before == "PRON" or (before == "CONJ" and after in ("DET", "PRON") and _has_verb(tags[:-1], words)):
        return "VERB"
    if before in ("NOUN", "PROPN", "ADV") and not _has_verb(tags, words):
        alone = before == "ADV" and after in ("", "CONJ", "PUNCT")
        return "VERB" if alone or _expects_verb(words, tags, position, after) else "NOUN"
    return "NOUN"


def _expects_verb(words: Sequence[str], tags: Sequence[Tag], position: int, after: str) -> bool:
    """True if a finite verb fits here: a subject before it, a complement after it."""
    before = tags[position - 1] if position else ""
    if before not in ("NOUN", "PROPN", "PRON", "ADV"):
        return False
    following = words[position + 1] if position + 1 < len(words) else ""
    return (
        after in ("DET", "PRON", "A", "NUM", "ADV", "G", "R", "P")
        or (after == "ADP" and following not in ("of", "with", "for"))
        or after == "N"
    )


def _has_verb(tags: Sequence[Tag], words: Sequence[str]) -> bool:
    """True if the clause so far has a finite verb."""
    for tag, word in zip(reversed(tags), reversed(words[: len(tags)]), strict=True):
        if tag == "CONJ" or tag == "PUNCT" or word in ("that", "who", "which"):
            return False
        if tag == "AUX" or (tag == "VERB" and not word.endswith("ing")):
            return True
    return False


def _participle(words: Sequence[str], tags: Sequence[Tag], position: int, before: str, after: str) -> Tag:
    if before in ("AUX", "PRON") or (position and words[position - 1] == "for"):
        return "VERB"
    if after in ("N", "S") and before in ("DET", "ADJ", "NUM", "ADP", "", "CONJ"):
        return "ADJ"
    if before in ("DET", "ADJ") and after in ("AUX", "", "PUNCT", "ADP", "CONJ"):
        return "NOUN"
    return "VERB"


def _base(words: Sequence[str], tags: Sequence[Tag], position: int, word_kinds: str, before: str, after: str) -> Tag:
    if before == "PART" and words[position - 1] == "to":
        return "VERB"
    if before == "AUX" and words[position - 1] not in BE:
        return "VERB"
    if before == "PRON" and words[position - 1] not in ("him", "her", "them", "us", "me"):
        return "VERB"
    if before in ("DET", "ADJ", "NUM", "ADP"):
        return "NOUN"
    plural = (position > 0 and words[position - 1].endswith("s") and before in ("NOUN",)) or (
        position > 0 and words[position - 1] in ("people", "men", "women", "children")
    )
    if plural and not _has_verb(tags, words) and _expects_verb(words, tags, position, after):
        return "VERB"
    if "N" not in word_kinds or (before == "CONJ" and after in ("DET", "PRON") and "VERB" in tags):
        return "VERB"
    if word_kinds[0] == "V" and not before and after in ("DET", "PRON"):
        return "VERB"
    return "NOUN"
