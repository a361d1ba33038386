"""Wrong captions by exchanging two words or phrases of one kind: the hard negatives of NegCLIP (Yuksekgonul et al., 2022, 2210.01936).

The words stay the same, only what they say changes, so a model that reads a caption as a bag of words cannot tell the two apart. Every
function is pure: the caption and the generator decide. A caption without two different words of a kind has no negative of that kind, and
a result that equals the caption up to case does not count.

What the published negatives get wrong, and what is left out here unless `published`: pairs that leave the meaning, joined by
"and" ("a blue and yellow hydrant" says what "a yellow and blue hydrant" says) or on both sides of a relation that holds both ways
("a sink next to a toilet"); and pairs that leave no sentence: nouns that are no head of their phrase ("a hydrant fire"), verbs of
different forms, particles and negations, phrases with no verb or preposition between them. Their articles stay where they were
("a orange"), a hint that needs no picture; `articles` puts them right.

What the paper calls nouns, verbs and noun phrases is narrower in the released captions: singular nouns change places among themselves and
plural ones among themselves, names not at all, of verbs only forms in -ing, and of noun phrases only those of three words or more. Those
are kinds of their own (`RELEASED`), by the tags of the Penn Treebank, which the built-in tagger guesses from the ending.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Literal, get_args

import numpy as np

from diptych.core.errors import UnknownName
from diptych.data.text.english.phrases import NOUNS, noun_phrases
from diptych.data.text.english.tagger import Tagger, Word, tag
from diptych.data.text.english.words import CLOSED, split

Swap = Literal[
    "nouns", "adjectives", "verbs", "adverbs", "noun_phrases", "singular_nouns", "plural_nouns", "gerunds", "long_phrases"
]
EVERY: tuple[Swap, ...] = get_args(Swap)
SWAPS = EVERY[:5]
RELEASED: tuple[Swap, ...] = ("long_phrases", "singular_nouns", "plural_nouns", "gerunds", "adverbs", "adjectives")
"""The kinds of the released captions."""
TAGS: dict[str, tuple[str, ...]] = {"nouns": NOUNS, "adjectives": ("ADJ",), "verbs": ("VERB",), "adverbs": ("ADV",)}
PENN = {"singular_nouns": "NN", "plural_nouns": "NNS", "gerunds": "VBG"}
PARTS: dict[str, Swap] = {"singular_nouns": "nouns", "plural_nouns": "nouns", "gerunds": "verbs", "long_phrases": "noun_phrases"}
"""What each is a part of."""
LONG = 3
"""Words of a long phrase at least."""
PLURALS = split("men women children people feet teeth geese mice")
BOTH_WAYS = split(
    "next to near beside by with and or & , alongside touching opposite nearby close adjacent facing meeting joining "
    "called named known"
)
"""Words between two things that say the same in the other direction."""
EMPTY = split("a an the is are was were some two three four of same colour color as in contact from also very side each other")
VOWELS = tuple("aeiou")

Span = tuple[int, int]
"""Words start..stop-1 of a caption."""


def swapped(
    caption: str,
    kind: Swap,
    rng: np.random.Generator,
    *,
    published: bool = False,
    articles: bool = True,
    tagger: Tagger = tag,
) -> str | None:
    """The caption with two words or phrases of that kind exchanged, one of all such pairs at random; None if there is none.

    published  every pair of the kind, also such that leave the meaning or no sentence
    articles   "a" and "an" follow the new word

    >>> swapped("A dog chases an orange cat.", "nouns", np.random.default_rng(0))
    'A cat chases an orange dog.'
    >>> swapped("A sink next to a toilet.", "nouns", np.random.default_rng(0)) is None
    True
    """
    candidates = every_swap(caption, kind, published=published, articles=articles, tagger=tagger)
    return candidates[int(rng.integers(len(candidates)))] if candidates else None


def every_swap(
    caption: str, kind: Swap, *, published: bool = False, articles: bool = True, tagger: Tagger = tag
) -> tuple[str, ...]:
    """All captions that exchanging one pair of that kind can make, in order of the pairs; each differs from the caption."""
    if kind not in EVERY:
        raise UnknownName("kind of swap", kind, EVERY)
    words, whole = tagger(caption), PARTS.get(kind, kind)
    made = []
    for one, two in combinations(_units(words, kind), 2):
        if _same(words, one, two) or not (
            published or (_makes_sense(words, one, two, whole) and _changes(words, one, two, whole))
        ):
            continue
        new = _exchange_spans(caption, words, one, two, articles=articles)
        if new.casefold() != caption.casefold():
            made.append(new)
    return tuple(dict.fromkeys(made))


def swaps(
    caption: str,
    rng: np.random.Generator,
    *,
    kinds: Sequence[Swap] = SWAPS,
    published: bool = False,
    articles: bool = True,
    tagger: Tagger = tag,
) -> dict[str, str]:
    """At most one wrong caption of each kind, by kind; kinds of which the caption has none are not there."""
    text_by_kind = {kind: swapped(caption, kind, rng, published=published, articles=articles, tagger=tagger) for kind in kinds}
    return {kind: text for kind, text in text_by_kind.items() if text is not None}


def _units(words: Sequence[Word], kind: Swap) -> list[Span]:
    if kind in ("noun_phrases", "long_phrases"):
        least = LONG if kind == "long_phrases" else 1
        return [(phrase.start, phrase.stop) for phrase in noun_phrases(words) if phrase.stop - phrase.start >= least]
    if kind in PENN:
        return [(position, position + 1) for position, word in enumerate(words) if (word.penn or _penn(word)) == PENN[kind]]
    return [(position, position + 1) for position, word in enumerate(words) if word.tag in TAGS[kind]]


def _penn(word: Word) -> str:
    """The Penn Treebank's tag of a common noun or a form in -ing, by its letters; "" of others."""
    if word.tag == "NOUN":
        many = word.lower in PLURALS or (word.lower.endswith("s") and not word.lower.endswith(("ss", "us", "is")))
        return "NNS" if many else "NN"
    return "VBG" if word.tag == "VERB" and word.lower.endswith("ing") else ""


def _same(words: Sequence[Word], one: Span, two: Span) -> bool:
    return [word.lower for word in words[slice(*one)]] == [word.lower for word in words[slice(*two)]]


def _makes_sense(words: Sequence[Word], one: Span, two: Span, kind: Swap) -> bool:
    """True if the swapped sentence is likely to be well formed."""
    first, second = words[one[0]], words[two[0]]
    between = words[one[1] : two[0]]
    if not any(word.tag not in NOUNS for word in between):
        return False  # side by side, or parts of one name
    if kind == "verbs":
        return _form(first.lower) == _form(second.lower) and not {first.lower, second.lower} & CLOSED.keys()
    if kind == "adverbs":
        return not {first.lower, second.lower} & CLOSED.keys()
    if kind == "adjectives":
        return not {first.lower, second.lower} & {"same", "other"}
    if kind == "nouns" and not {first, second} <= {phrase.head for phrase in noun_phrases(words)}:
        return False
    return any(word.tag in ("VERB", "ADP", "AUX") for word in between)


def _form(verb: str) -> str:
    """Ending of a verb: verbs with the same ending can replace each other."""
    return next((ending for ending in ("ing", "ed", "en", "s") if verb.endswith(ending)), "")


def _changes(words: Sequence[Word], one: Span, two: Span, kind: Swap) -> bool:
    """False where the exchange is known to leave the meaning: between the two stands only what holds both ways, and nothing else is said
    of either."""
    if kind in ("adjectives", "adverbs", "verbs"):
        return not all(word.tag in ("CONJ", "ADV") or word.text == "," for word in words[one[1] : two[0]])
    first, second = (_phrase_of(words, unit) for unit in (one, two)) if kind == "nouns" else (one, two)
    if kind == "nouns" and (first == second or _rest(words, first, one) != _rest(words, second, two)):
        return True
    content_words = [
        word.lower for word in words[first[1] : second[0]] if word.lower not in EMPTY and word.tag not in ("AUX", "PUNCT")
    ]
    return not all(word in BOTH_WAYS for word in content_words)


def _rest(words: Sequence[Word], phrase: Span, unit: Span) -> list[str]:
    return [
        words[position].lower for position in range(*phrase) if words[position].tag != "DET" and not unit[0] <= position < unit[1]
    ]


def _phrase_of(words: Sequence[Word], unit: Span) -> Span:
    return next(((p.start, p.stop) for p in noun_phrases(words) if p.start <= unit[0] and unit[1] <= p.stop), unit)


def _exchange_spans(caption: str, words: Sequence[Word], one: Span, two: Span, *, articles: bool) -> str:
    """The caption with the texts of both spans in each other's place; a capital that only the place gave stays with the place."""
    first, second = (caption[words[start].start : words[stop - 1].stop] for start, stop in (one, two))
    if one[0] == 0 and words[0].tag != "PROPN" and first[:1].isupper() and not first[1:2].isupper():
        first, second = first[0].lower() + first[1:], second[0].upper() + second[1:]
    begin, middle, end = words[one[0]].start, slice(words[one[1] - 1].stop, words[two[0]].start), words[two[1] - 1].stop
    new = f"{caption[:begin]}{second}{caption[middle]}{first}{caption[end:]}"
    return with_articles(new, caption) if articles else new


def with_articles(new: str, old: str) -> str:
    """Text with "a" or "an" as the next word requires, if the articles of `old` are correct.

    >>> with_articles("a orange cat and an dog", "a cat and an orange dog")
    'an orange cat and a dog'
    """
    parts = new.split(" ")
    if _wrong_articles(old.split(" ")):
        return new  # its spelling is its own: an European, a hour
    for position in _wrong_articles(parts):
        article = "an" if parts[position + 1].lower().startswith(VOWELS) else "a"
        parts[position] = article.capitalize() if parts[position][0].isupper() else article
    return " ".join(parts)


def _wrong_articles(parts: Sequence[str]) -> list[int]:
    return [
        position
        for position, (part, after) in enumerate(pairwise(parts))
        if part.lower() in ("a", "an") and after[:1].isalpha() and (part.lower() == "an") != after.lower().startswith(VOWELS)
    ]
