"""Scene graph parser: objects, attributes and relations of a caption, by rules over noun phrases.

A relation is what stands between two phrases of a sentence: a verb, a preposition, or both ("sitting on"). What attaches to what is
decided by three rules, good for captions and wrong for some sentences: a preposition belongs to the phrase before it, unless that one was
reached by "of" or "for", then to the one that has it; a verb belongs to the subject of a prepositional phrase before it ("a man
on a horse holding a flag": the man holds); what "and" leads on belongs to the subject of the clause. Pronouns are no things. "A
pair of scissors" is scissors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from diptych.data.text.english.phrases import NounPhrase, noun_phrases
from diptych.data.text.english.tagger import Tagger, Word, tag
from diptych.data.text.english.words import split

MEASURES = split(
    "pair couple group set bunch lot row herd flock crowd series variety kind type sort picture photo photograph image view cup glass "
    "bottle bowl plate piece slice string roll quarter stack pile shot collection half"
)
"""Nouns that say how much or how shown when "of" follows."""
PLACES = split("left right top front back side middle center centre bottom edge contact")
"""Nouns inside prepositions of several words ("to the left of", "in contact with")."""
ENDS = frozenset(".!?;:—–")


@dataclass(frozen=True, slots=True)
class ParsedRelation:
    """A relation between two phrases: their words without determiners, and the words of the relation."""

    subject: str
    predicate: str
    object: str


@dataclass(frozen=True)
class ParsedCaption:
    """things: name and attributes of each phrase in order, relations between them by place."""

    things: tuple[tuple[str, tuple[str, ...]], ...] = ()
    relations: tuple[tuple[int, str, int], ...] = ()

    @property
    def named_relations(self) -> tuple[ParsedRelation, ...]:
        return tuple(ParsedRelation(self.things[a][0], predicate, self.things[b][0]) for a, predicate, b in self.relations)


@dataclass(frozen=True)
class SceneParser:
    """Caption to (subject, predicate, object) spans; a `CaptionParser` for relation tagging.

    >>> SceneParser()("A dog chasing a red ball on the grass")
    [('dog', 'chasing', 'red ball'), ('red ball', 'on', 'grass')]
    """

    tagger: Tagger = field(default=tag, repr=False)

    def __call__(self, caption: str) -> list[tuple[str, str, str]]:
        return [(one.subject, one.predicate, one.object) for one in self.parse(caption).named_relations]

    def parse(self, caption: str) -> ParsedCaption:
        words = self.tagger(caption)
        phrases = [phrase for phrase in noun_phrases(words) if not _in_preposition(words, phrase)]
        phrases = [phrase for phrase in phrases if not _measures(words, phrase, phrases)]
        things = tuple((phrase.name, phrase.attributes + _predicate_adjectives(words, phrase)) for phrase in phrases)
        return ParsedCaption(things, tuple(_relations(words, phrases)))


def _relations(words: Sequence[Word], phrases: Sequence[NounPhrase]) -> Iterator[tuple[int, str, int]]:
    subjects: list[int] = []  # of the clause
    reached: dict[int, tuple[list[int], str, str]] = {}  # phrase -> subjects, predicate and kind of the relation that led to it
    for number, phrase in enumerate(phrases):
        between = words[phrases[number - 1].stop if number else 0 : phrase.start]
        if number == 0 or any(word.text in ENDS for word in between):
            subjects = [number]
            continue
        predicate, kind = _predicate(between)
        before = number - 1
        if not predicate:
            joined = any(word.tag == "CONJ" or word.text == "," for word in between)
            if joined and before in reached:
                reached[number] = reached[before]
                owners, predicate, _ = reached[number]
                yield from ((owner, predicate, number) for owner in owners)
            elif joined:
                subjects.append(number)
            elif any(word.tag == "AUX" for word in between):
                reached[number] = ([before], "", "copula")
            else:
                subjects = [number]
            continue
        owners = [before] if before not in subjects else list(subjects)
        leads_on = between[0].tag == "CONJ" or between[0].text == ","
        if before in reached:
            others, earlier, how = reached[before]
            if leads_on:
                owners = list(subjects)
            elif (kind == "verb" and how in ("preposition", "of")) or (kind != "verb" and how == "of"):
                owners = others
            elif kind == "preposition" and how == "passive":
                owners, predicate = others, f"{earlier.rsplit(' ', 1)[0]} {predicate}"
        if any(word.tag == "PRON" and word.lower not in ("that", "which", "who", "there") for word in between):
            subjects = [number]  # the clause is about a pronoun
            continue
        reached[number] = (owners, predicate, kind)
        yield from ((owner, predicate, number) for owner in owners)


def _predicate(between: Sequence[Word]) -> tuple[str, str]:
    """Predicate between two phrases and its kind: "verb", "passive" (a participle with its preposition), "of", "preposition"; both empty
    if there is none.
    """
    kept = [
        word
        for position, word in enumerate(between)
        if _in_predicate(between, position) and not _names_a_measure(between, position)
    ]
    if not any(word.tag in ("VERB", "ADP") for word in kept) or (any(word.tag == "VERB" for word in kept) and _purpose(kept)):
        return "", ""
    verbs = [word for word in kept if word.tag == "VERB"]
    if verbs:
        passive = kept[-1].tag == "ADP" and verbs[0].lower.endswith(("ed", "en")) and any(word.tag == "AUX" for word in between)
        kind = "passive" if passive else "verb"
    else:
        kind = "of" if kept[0].lower in ("of", "for") and len(kept) == 1 else "preposition"
    return " ".join(word.lower for word in kept), kind


def _in_predicate(between: Sequence[Word], position: int) -> bool:
    """True if a word is part of the predicate: verbs, prepositions and the nouns inside; adjectives and adverbs that lead to one."""
    word, later = between[position], between[position + 1 :]
    if word.tag in ("VERB", "ADP", "PART"):
        return True
    if word.tag == "NOUN":
        return word.lower in PLACES or any(other.lower == "as" for other in later[:1])
    if word.tag == "DET":
        return any(other.lower in PLACES for other in later[:2]) or any(other.lower == "same" for other in later)
    if any(other.tag == "VERB" for other in later) or not any(other.tag == "ADP" for other in later):
        return False
    return word.tag == "ADJ" or (word.tag == "ADV" and not word.lower.endswith("ly"))


def _names_a_measure(between: Sequence[Word], position: int) -> bool:
    """True for "of" after a measure: in "from a photograph of" the preposition is "from"."""
    return between[position].lower == "of" and position > 0 and between[position - 1].lower in MEASURES


def _purpose(kept: Sequence[Word]) -> bool:
    """ "for taking", "for": what a thing is for, not what it does."""
    return kept[0].lower in ("for", "by") and len(kept) > 1 and kept[1].lower.endswith("ing")


def _in_preposition(words: Sequence[Word], phrase: NounPhrase) -> bool:
    """True if a phrase is inside a preposition: "the left" of "to the left of", "the same colour" of "of the same colour as"."""
    before = words[phrase.start - 1].tag if phrase.start else ""
    after = words[phrase.stop].lower if phrase.stop < len(words) else ""
    if phrase.head.lower in PLACES:
        return before in ("ADP", "VERB") and after in ("of", "with")
    return "same" in phrase.attributes and after == "as"


def _measures(words: Sequence[Word], phrase: NounPhrase, phrases: Sequence[NounPhrase]) -> bool:
    follows = phrase.stop < len(words) and words[phrase.stop].lower == "of"
    return follows and phrase.head.lower in MEASURES and any(other.start == phrase.stop + 1 for other in phrases)


def _predicate_adjectives(words: Sequence[Word], phrase: NounPhrase) -> tuple[str, ...]:
    """Adjectives after the phrase and a form of "be": "the bar is small and tilted"."""
    position = phrase.stop
    if position >= len(words) or words[position].tag != "AUX":
        return ()
    adjectives: list[str] = []
    for at in range(position + 1, len(words)):
        if words[at].tag == "ADJ" or (words[at].tag == "VERB" and words[at].lower.endswith("ed")):
            adjectives.append(words[at].lower)
        elif words[at].tag not in ("ADV", "CONJ"):
            return tuple(adjectives) if words[at].tag == "PUNCT" else ()
    return tuple(adjectives)
