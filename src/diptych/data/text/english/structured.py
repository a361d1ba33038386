"""Wrong captions by replacing one word, and right ones that put it differently: the texts of SVLC (Doveh et al., 2022, 2211.11733).

`replaced_by_rule`  a word of a list (colours, materials, sizes, states, relations) by another of the same list
`replaced_by_model` a word of an open class by what a fill-mask model or n-gram counts propose in its place
`analogies`         what the four examples say that the paper shows a language model: "a blue boat" is "a boat that is blue", a
cat left of
                    a dog is a dog right of a cat

What the published code gets wrong: a type is looked for inside words ("tan" in "standing"), after which nothing can be replaced and the
caption has no negative; a replacement hits every place where the word's letters stand; "big" becomes "large". `published` does so too.
The lists are ours, made for the same five types; a file of others can be given. A negative may by chance be true (a "dirty" thing that is
also "old").
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from diptych.core.errors import ConfigError, DataError
from diptych.data.text.english.phrases import NounPhrase, noun_phrases
from diptych.data.text.english.swaps import with_articles
from diptych.data.text.english.tagger import Tagger, Word, tag

Lists = Mapping[str, Sequence[str]]
"""Type -> its words, in lower case; a word may have several parts ("attached to")."""

Filler = Callable[[str, str], Sequence[str]]
"""What may stand between a left and a right context, the most likely first."""

MASKED = ("VERB", "NOUN", "ADP", "ADJ", "PROPN")
ALIKE = (
    ("grey", "gray"),
    ("big", "large", "huge", "giant", "enormous", "massive"),
    ("small", "little", "tiny", "miniature"),
    ("thin", "slim", "skinny", "narrow"),
    ("wide", "broad"),
    ("wool", "woolen"),
    ("left of", "to the left of"),
    ("right of", "to the right of"),
    ("beside", "next to", "near"),
    ("on", "on top of", "above", "over"),
    ("in", "inside"),
    ("below", "under"),
    ("watching", "looking at"),
)
"""Words that may be true of the same thing: none stands for another."""
INVERSES = (("left", "right"), ("above", "below"), ("in front of", "behind"), ("over", "under"), ("bigger than", "smaller than"))


@cache
def word_lists(path: str = "") -> Lists:
    """The lists of a JSON file {type: [words]}, ours without one. Raises DataError."""
    text = Path(path).read_text("utf8") if path else (files(__package__) / "structured.json").read_text("utf8")
    try:
        lists = json.loads(text)
    except ValueError as error:
        raise DataError(f"is not valid JSON: {error}", file=path, expected='{"colour": ["red", ...], ...}') from error
    good = isinstance(lists, dict) and all(
        isinstance(v, list) and len(set(v)) > 1 and all(map(str.strip, v)) for v in lists.values()
    )
    if not lists or not good:
        raise DataError(
            "contains no lists of words", file=path, expected='{"colour": ["red", ...], ...}, two words or more per type'
        )
    return {kind: tuple(dict.fromkeys(word.strip().lower() for word in words)) for kind, words in lists.items()}


def replaced_by_rule(
    caption: str,
    rng: np.random.Generator,
    *,
    count: int = 1,
    lists: Lists | None = None,
    published: bool = False,
    articles: bool = True,
) -> tuple[str, list[str]]:
    """A type that the caption has, one at random, and up to `count` captions in which a word of that type is another of its list; ("",
    []) if it has none. The new words differ from each other and from every word of the type that the caption has.

    published  look for types inside words too, where they give nothing; change every place where the word's letters stand; and take words
               that mean the same ("big" for "large") for wrong ones
    articles   "a" and "an" follow the new word

    >>> replaced_by_rule("a red bus", np.random.default_rng(0), lists={"colour": ("red", "blue")})
    ('colour', ['a blue bus'])
    """
    lists = word_lists() if lists is None else lists
    if published:
        spaced = caption.split()
        whole = {kind: [word for word in words if word in spaced] for kind, words in lists.items()}
        seen = {kind: [word for word in words if word in caption] for kind, words in lists.items()}
    else:
        seen = whole = {k: _longest([word for word in words if whole_word(word).search(caption)]) for k, words in lists.items()}
    kinds = [kind for kind, words in seen.items() if words]
    if not kinds:
        return "", []
    kind = kinds[int(rng.integers(len(kinds)))]
    present = whole[kind]
    others = [word for word in lists[kind] if word not in present and (published or not _alike(word, present))]
    made = []
    for _ in range(count if present else 0):
        if not others:
            break
        new = others.pop(int(rng.integers(len(others))))
        old = present[int(rng.integers(len(present)))]
        made.append(_put(caption, old, new, rng, every=published, articles=articles))
    return kind if made else "", made


def replaced_by_model(
    caption: str,
    rng: np.random.Generator,
    filler: Filler,
    *,
    count: int = 1,
    tags: Sequence[str] = MASKED,
    articles: bool = True,
    tagger: Tagger = tag,
) -> list[str]:
    """Up to `count` captions in which a word of these kinds, one at random, is what `filler` proposes in its place and not itself; fewer
    where it proposes nothing else."""
    words = [word for word in tagger(caption) if word.tag in tags]
    made: list[str] = []
    for _ in range(count if words else 0):
        word = words[int(rng.integers(len(words)))]
        left, right = caption[: word.start], caption[word.stop :]
        offered = [new for new in filler(left, right) if new.strip() and new.strip().lower() != word.lower]
        if offered:
            new = offered[int(rng.integers(len(offered)))].strip()
            text = f"{left}{new}{right}"
            made.append(with_articles(text, caption) if articles else text)
    return list(dict.fromkeys(made))


def masked_as_released(
    caption: str,
    rng: np.random.Generator,
    filler: Filler,
    *,
    count: int = 1,
    tags: Sequence[str] = MASKED,
    tagger: Tagger = tag,
) -> list[str]:
    """Negative captions as the released code makes them with a fill-mask model; compare `replaced_by_model`.

    Punctuation goes, and of more than 512 letters all but the first 100. A word is taken only where the caption has it between spaces,
    each word as likely, however often it stands there; one of its places is filled again, by a proposal that is not the word letter by
    letter. The same wrong text may come twice.
    """
    caption = caption[:100] if len(caption) > 512 else caption
    parts = caption.translate(str.maketrans("", "", string.punctuation)).split()
    spaced, clean = set(caption.split()), " ".join(parts)
    words = list(dict.fromkeys(word.text for word in tagger(clean) if word.tag in tags and word.text in spaced))
    made: list[str] = []
    for _ in range(count if words else 0):
        old = words[int(rng.integers(len(words)))]
        positions = [position for position, part in enumerate(parts) if part == old]
        if not positions:  # the tagger cut a word that stands whole elsewhere
            continue
        position = positions[int(rng.integers(len(positions)))]
        left, right = (" ".join([*parts[:position], ""]), " ".join(["", *parts[position + 1 :]]))
        offered = [new.strip() for new in filler(left, right) if new.strip() not in ("", old)]
        if offered:
            made.append(f"{left}{offered[int(rng.integers(len(offered)))]}{right}")
    return made


def replaced_at_random(caption: str, rng: np.random.Generator, words: Sequence[str], *, tagger: Tagger = tag) -> str | None:
    """The caption with one noun, adjective or verb replaced by any of `words`: the control of structured negatives. None if the
    caption has none of these, or `words` nothing else."""
    open_words = [word for word in tagger(caption) if word.tag in ("NOUN", "ADJ", "VERB")]
    if not open_words:
        return None
    old = open_words[int(rng.integers(len(open_words)))]
    others = [word for word in words if word.lower() != old.lower]
    if not others:
        return None
    return f"{caption[: old.start]}{others[int(rng.integers(len(others)))]}{caption[old.stop :]}"


def analogies(caption: str, *, tagger: Tagger = tag) -> tuple[str, ...]:
    """Captions with the same meaning: a relation inverted, an adjective moved after its noun. Empty where no rule applies.

    >>> analogies("a cat to the left of a dog")
    ('a dog to the right of a cat',)
    >>> analogies("a blue boat")
    ('a boat that is blue',)
    """
    words = tagger(caption)
    phrases = noun_phrases(words)
    made = [turned for turned in (_invert_relation(caption, words),) if turned]
    adjectives = [phrase for phrase in phrases if len(phrase.attributes) == 1 and _adjective_noun(phrase)]
    for phrase in adjectives:
        adjective, noun = phrase.words[-2:]
        verb = "are" if noun.lower.endswith("s") and not noun.lower.endswith("ss") else "is"
        text = f"{caption[: adjective.start]}{noun.text} that {verb} {adjective.lower}{caption[noun.stop :]}"
        made.append(with_articles(text, caption))
    return tuple(made)


def _adjective_noun(phrase: NounPhrase) -> bool:
    """True if a phrase ends in its one adjective and its noun, without a degree word ("very small")."""
    tags = [word.tag for word in phrase.words]
    return tags[-2:-1] == ["ADJ"] and phrase.head == phrase.words[-1] and "ADV" not in tags


def _invert_relation(caption: str, words: Sequence[Word]) -> str | None:
    """The caption, one relation between two phrases, inverted."""
    phrases = [p for p in noun_phrases(words) if not (p.head.lower in ("left", "right", "front") and p.start)]
    if len(phrases) != 2 or phrases[0].start > 1 or phrases[1].stop < len(words) - 1:
        return None
    one, two = (caption[p.words[0].start : p.words[-1].stop] for p in phrases)
    between = caption[phrases[0].words[-1].stop : phrases[1].words[0].start]
    for pair in INVERSES:
        for here, there in (pair, pair[::-1]):
            if len(whole_word(here).findall(between)) == 1 and not whole_word(there).search(between):
                other = whole_word(here).sub(there, between)
                tail = caption[phrases[1].words[-1].stop :]
                head = two[0].upper() + two[1:] if one[0].isupper() else two
                last = one[0].lower() + one[1:] if one[0].isupper() and phrases[0].words[0].tag != "PROPN" else one
                return f"{caption[: phrases[0].words[0].start]}{head}{other}{last}{tail}"
    return None


def _alike(word: str, present: Sequence[str]) -> bool:
    return any(word in group and not set(group).isdisjoint(present) for group in ALIKE)


def _longest(words: Sequence[str]) -> list[str]:
    """Without words that are part of a longer one: "left of" is not replaced inside "to the left of"."""
    return [word for word in words if not any(word != other and whole_word(word).search(other) for other in words)]


@cache
def whole_word(word: str) -> re.Pattern[str]:
    """Finds the word, or words, and not their letters inside others."""
    return re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])", re.IGNORECASE)


def _put(caption: str, old: str, new: str, rng: np.random.Generator, *, every: bool, articles: bool) -> str:
    if every:
        text = caption.replace(old, new)
    else:
        matches = list(whole_word(old).finditer(caption))
        match = matches[int(rng.integers(len(matches)))]
        word = new.capitalize() if match.group()[0].isupper() else new
        text = f"{caption[: match.start()]}{word}{caption[match.end() :]}"
    return with_articles(text, caption) if articles else text


def checked_lists(lists: Lists, types: Sequence[str]) -> Lists:
    """The lists of these types; all of them where none is named. Raises ConfigError."""
    unknown = [kind for kind in types if kind not in lists]
    if unknown:
        raise ConfigError(f"no list of words of type '{unknown[0]}' (expected {' | '.join(lists)})")
    return {kind: lists[kind] for kind in types} if types else lists
