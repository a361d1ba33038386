"""Queries made of a caption and what a language model wrote about it: descriptions of its phrases, of things that could be taken for them,
and captions that are wrong (DesCo, 2306.14060; the release calls it "v4").

What implementations get wrong, the release among them: a phrase looked up by `str.find`, which answers the first of two places and -1 for
none; "man" found in "mango"; a right and a wrong text that read the same (here the wrong one goes).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from diptych.core.grounding import Span
from diptych.data.text.captions.phrases import PhraseTexts, Sentence
from diptych.data.text.descriptions.description_queries import TOKENS, Count
from diptych.data.text.descriptions.positive_rate import PositiveRate
from diptych.data.text.tokens.spans import Entity, SpanText, occurrences

PEOPLE = re.compile(r"\b(man|woman|child|men|women|children|people|person)\b", re.IGNORECASE)
"""Phrases with these words are not described."""
ENDS = ".?"
MANY_WORDS, FEWER_WORDS = 200, 180


@dataclass(frozen=True, slots=True)
class Group:
    """A right text and the wrong ones that belong to it."""

    right: SpanText
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CaptionQueries:
    """Queries of captions with what was written about them.

    describe    share of the queries that hold descriptions beside the caption and wrong captions (published 0.8)
    keep_phrase share of the descriptions that begin with the phrase (published 1/2); the others begin with what kind of thing it is
    rate        numbers of right and wrong texts in a query
    """

    describe: float = 0.8
    keep_phrase: float = 0.5
    rate: PositiveRate = field(default_factory=PositiveRate)

    def draw(self, sentence: Sentence, rng: np.random.Generator, *, tokens: int = TOKENS, count: Count) -> SpanText:
        """A shuffled query of at most `tokens`; the entities are the places of the phrases. The caption itself where nothing was written.

        A query that comes out without a text is the caption, as released."""
        marked = sentence.marked.merged()
        if sentence.written is None:
            return marked
        groups = self.groups(marked, sentence.written, rng)
        wrong = [text for group in groups for text in group.wrong]
        words = sum(len(text.split(" ")) for text in (*(group.right.text for group in groups), *wrong))
        most = int(FEWER_WORDS // (words / (len(groups) + len(wrong)))) if words > MANY_WORDS else None
        kept_right, kept_wrong = self.rate.draw(len(groups), len(wrong), rng, most)
        right = [groups[int(position)] for position in rng.permutation(len(groups))[:kept_right]]
        texts: list[SpanText] = [group.right for group in right]
        texts += [SpanText(text) for text in self._wrong(right, wrong, kept_wrong, rng)]
        kept: list[SpanText] = []
        for position in rng.permutation(len(texts)):
            text = with_full_stop(texts[int(position)])
            tokens -= count(text.text)
            if tokens < 0:
                break
            kept.append(text)
        return SpanText.joined(kept) if kept else marked

    def groups(self, marked: SpanText, written: PhraseTexts, rng: np.random.Generator) -> list[Group]:
        """The parts of the caption with the wrong captions, and the descriptions of phrases that regions answer with what could be taken
        for them."""
        ends = [position + 1 for position, letter in enumerate(marked.text) if letter in ENDS]
        right = [Group(part, tuple(written.captions)) for part in marked.pieces(ends)]
        if rng.random() < self.describe:
            for phrase, description in written.descriptions.items():
                named = bool(rng.random() < self.keep_phrase)
                if PEOPLE.search(phrase) or not (entities := overlapping_entities(marked, phrase)):
                    continue
                text = f"{phrase}, {description}" if named else description
                head = len(",".join(text.split(",")[: 2 if named else 1]))
                spans: dict[Entity, tuple[Span, ...]] = dict.fromkeys(entities, ((0, head),))
                right.append(Group(SpanText(text, spans), tuple(written.confusable.values())))
        true = {with_full_stop(group.right).text for group in right}
        return [
            Group(group.right, tuple(text for text in group.wrong if with_full_stop(SpanText(text)).text not in true))
            for group in right
        ]

    def _wrong(self, right: Sequence[Group], every: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
        """First some of those that belong to the right texts, then any."""
        kept: dict[str, None] = {}
        for group in right:
            if len(kept) < count:
                kept |= dict.fromkeys(group.wrong[: int(rng.integers(len(group.wrong) + 1))])
        others = [text for text in dict.fromkeys(every) if text not in kept]
        kept |= dict.fromkeys(others[int(position)] for position in rng.permutation(len(others))[: max(0, count - len(kept))])
        names = list(kept)
        return [names[int(position)] for position in rng.permutation(len(names))[:count]]


def overlapping_entities(marked: SpanText, phrase: str) -> list[Entity]:
    """The entities whose span lies within a place of the phrase, or the other way round."""
    matches = list(occurrences(marked.text, phrase))

    def meets(spans: Sequence[Span]) -> bool:
        return any(
            (start <= one and other <= stop) or (one <= start and stop <= other)
            for start, stop in matches
            for one, other in spans
        )

    return [entity for entity, spans in marked.spans.items() if meets(spans)]


def with_full_stop(text: SpanText) -> SpanText:
    """With a full stop, where it ends without one, and a blank."""
    bare = text.text.rstrip()
    tail = " " if bare.endswith(tuple(ENDS)) else ". "
    return SpanText(bare + tail, text.spans)
