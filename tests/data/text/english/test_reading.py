"""Tagger, phrases and parser: what they get right is measured by scripts/english_accuracy.py; here is what must not get worse."""

from __future__ import annotations

import runpy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.errors import ConfigError
from diptych.data.text.english.phrases import noun_phrases
from diptych.data.text.english.scene_parser import SceneParser
from diptych.data.text.english.tagger import spacy_tagger, tag
from diptych.data.text.english.words import kinds, lexicon

SCRIPT = Path(__file__).parents[4] / "scripts" / "english_accuracy.py"


@pytest.fixture(scope="module")
def measure() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_labelled_captions_are_read_as_a_person_reads_them(measure: dict[str, Any]) -> None:
    captions = list(measure["labelled"]())
    found = measure["accuracy"](captions)
    assert len(captions) >= 200
    assert (found.words > 0.93, found.content > 0.91, found.precision > 0.79, found.recall > 0.89) == (True,) * 4, found


def test_the_scene_grammar_is_read_without_a_mistake(measure: dict[str, Any]) -> None:
    found = measure["accuracy"](list(measure["scene_captions"]())[:100])
    assert (found.words, found.precision, found.recall) == (1.0, 1.0, 1.0)


@given(st.text(max_size=60))
def test_every_word_stands_where_it_says(caption: str) -> None:
    words = tag(caption)
    assert all(caption[word.start : word.stop] == word.text for word in words)
    assert all(one.stop <= two.start for one, two in pairwise(words))
    phrases = noun_phrases(words)
    assert all(one.stop <= two.start for one, two in pairwise(phrases))
    SceneParser().parse(caption)


@pytest.mark.parametrize(
    ("caption", "word", "expected"),
    [
        ("a walk in the park", "park", "NOUN"),
        ("Two men walk a dog", "walk", "VERB"),
        ("A man looks at the stars", "looks", "VERB"),
        ("the looks of a man", "looks", "NOUN"),
        ("an orange on a table", "orange", "NOUN"),
        ("an orange cat", "orange", "ADJ"),
        ("a cat left of a dog", "left", "ADP"),
        ("a hand on the left of a dog", "left", "NOUN"),
        ("a left hand", "left", "ADJ"),
        ("a smiling woman", "smiling", "ADJ"),
        ("a woman smiling at a dog", "smiling", "VERB"),
        ("a dog in front of a house in London", "London", "PROPN"),
        ("Red Hurricane Lamp", "Hurricane", "NOUN"),
        ("a man that can swim", "that", "PRON"),
        ("look at that man", "that", "DET"),
    ],
)
def test_neighbours_decide(caption: str, word: str, expected: str) -> None:
    assert {each.text: each.tag for each in tag(caption)}[word] == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a man on a horse holding a flag", [("man", "on", "horse"), ("man", "holding", "flag")]),
        ("Two kids and a dog playing with a ball", [("kids", "playing with", "ball"), ("dog", "playing with", "ball")]),
        ("a ring to the left of a star. It is red.", [("ring", "to the left of", "star")]),
        ("a pair of blue jeans", []),
        ("the baby of a gnu in a field", [("baby", "of", "gnu"), ("baby", "in", "field")]),
        ("a star of the same colour as a ring", [("star", "of the same colour as", "ring")]),
        ("", []),
    ],
)
def test_who_does_what_to_whom(caption: str, expected: list[tuple[str, str, str]]) -> None:
    assert SceneParser()(caption) == expected


def test_attributes_stand_before_the_noun_or_after_is() -> None:
    assert SceneParser().parse("A large ring. The ring is red and tilted.").things == (
        ("large ring", ("large",)),
        ("ring", ("red", "tilted")),
    )


def test_the_lexicon_holds_only_what_endings_do_not_say() -> None:
    assert len(lexicon()) > 9000
    assert kinds("glorious") == "A"
    assert "glorious" not in lexicon()


def test_a_missing_spacy_model_is_named() -> None:
    with pytest.raises(ConfigError, match="'no_such_model'"):
        spacy_tagger("no_such_model")
