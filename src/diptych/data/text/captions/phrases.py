"""Grounding of phrases: words of a sentence and the regions of its picture, stored in `extras["grounding"]`.

[{"text": "a red cup left of a plate",
  "phrases": [{"spans": [[2, 9]], "regions": [0]}, {"spans": [[20, 25]], "regions": [1, 2], "kind": "other"}],
  "written": {"descriptions": {"cup": "a kind of vessel, round, with a handle"}, "confusable": {"bowl": "a kind of vessel, without a
              handle"}, "captions": ["a red cup right of a plate"]}}]

`regions` are places in the sample's regions; [] is a phrase that the picture does not show. `written`, which may be left out, is what a
language model wrote about the sentence: of phrases in it, of things that could be taken for them, and captions that are wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diptych.core.errors import DataError
from diptych.core.grounding import Span
from diptych.core.sample import Sample
from diptych.data.text.tokens.spans import SpanText, from_json

FIELD = "grounding"


@dataclass(frozen=True, slots=True)
class GroundedPhrase:
    """Characters of a sentence, and the regions that they mean.

    kind  a coarse category ("people"), several with slashes between them ("people/clothing"), "" for none
    """

    spans: tuple[Span, ...]
    regions: tuple[int, ...]
    kind: str = ""


@dataclass(frozen=True, slots=True)
class PhraseTexts:
    """Texts that a language model wrote about a sentence.

    descriptions  of phrases that stand in it
    confusable    of things that could be taken for them and are not there
    captions      wrong ones
    """

    descriptions: Mapping[str, str] = field(default_factory=dict)
    confusable: Mapping[str, str] = field(default_factory=dict)
    captions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence about a picture with its phrases; as a `SpanText` the entities are their places."""

    text: str
    phrases: tuple[GroundedPhrase, ...]
    written: PhraseTexts | None = None

    @property
    def marked(self) -> SpanText:
        return SpanText(self.text, {position: phrase.spans for position, phrase in enumerate(self.phrases)})


def sentences_of(sample: Sample) -> list[Sentence]:
    """The sentences of a sample; none if it has no such field. Raises DataError that names sample and sentence."""
    value = sample.extras.get(FIELD, ())
    if isinstance(value, str | Mapping) or not hasattr(value, "__iter__"):
        raise DataError(f"sample '{sample.uid}': {FIELD} is a {type(value).__name__}", field=FIELD, expected="a list")
    where = f"sample '{sample.uid}', sentence"
    return [_sentence(entry, len(sample.regions), f"{where} {number}") for number, entry in enumerate(value)]


def _sentence(entry: Any, regions: int, where: str) -> Sentence:
    text = entry.get("text") if isinstance(entry, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where} is {str(entry)[:60]}", field=FIELD, expected='{"text": words, "phrases": [...]}')
    phrases = entry.get("phrases")
    if not isinstance(phrases, list | tuple) or not phrases:
        raise DataError(f"{where} has no phrase", field=FIELD, expected='"phrases": a list of {"spans", "regions"}')
    read = tuple(_phrase(phrase, text, regions, f"{where}, phrase {number}") for number, phrase in enumerate(phrases))
    return Sentence(text, read, _parse_written(entry["written"], where) if entry.get("written") else None)


def _phrase(entry: Any, text: str, regions: int, where: str) -> GroundedPhrase:
    if not isinstance(entry, Mapping):
        raise DataError(f"{where} is {str(entry)[:60]}", field=FIELD, expected='{"spans": [[start, stop]], "regions": [number]}')
    region_numbers = entry.get("regions")
    if not isinstance(region_numbers, list | tuple) or not all(
        type(number) is int and 0 <= number < regions for number in region_numbers
    ):
        expected = f"places among the {regions} regions of the sample; [] for an absent thing"
        raise DataError(f"{where} has the regions {str(region_numbers)[:60]}", field="regions", expected=expected)
    spans = entry.get("spans")
    return GroundedPhrase(
        from_json(list(spans) if isinstance(spans, tuple) else spans, text, where),
        tuple(region_numbers),
        str(entry.get("kind", "")),
    )


def _parse_written(entry: Any, where: str) -> PhraseTexts:
    expected = '{"descriptions": {phrase: words}, "confusable": {thing: words}, "captions": [words]}'
    if not isinstance(entry, Mapping):
        raise DataError(f"{where}: written is {str(entry)[:60]}", field="written", expected=expected)
    pairs = [entry.get(name, {}) for name in ("descriptions", "confusable")]
    captions = entry.get("captions", ())
    texts = [text for pair in pairs if isinstance(pair, Mapping) for text in (*pair, *pair.values())]
    if not all(isinstance(pair, Mapping) for pair in pairs) or isinstance(captions, str):
        raise DataError(f"{where}: written is {str(entry)[:60]}", field="written", expected=expected)
    if not all(isinstance(text, str) and text.strip() for text in (*texts, *captions)):
        raise DataError(f"{where}: written holds a text without words", field="written", expected=expected)
    return PhraseTexts(dict(pairs[0]), dict(pairs[1]), tuple(captions))
