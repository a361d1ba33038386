"""Small pairs with captions in three languages: the same two things in each, in another order."""

from __future__ import annotations

import numpy as np

from diptych.data.text.question_answering.questions import questions_of
from diptych.worlds.pair_languages import noun_in, pair_languages, sentence
from diptych.worlds.resolve import resolve
from diptych.worlds.scenes.languages import JOINED, TAGS, languages, word
from diptych.worlds.small_pairs import COLOURS, NOUNS, SHAPES, small_pairs


def test_every_language_names_what_is_shown() -> None:
    plain = small_pairs(20, seed=3, captioned=True)
    for sample, same in zip(pair_languages(20, seed=3), plain, strict=True):
        assert np.array_equal(sample.image.pixels_HWC, same.image.pixels_HWC)  # type: ignore[union-attr]
        by_language = {text.language: text.string for text in sample.texts}
        assert tuple(by_language) == TAGS
        assert by_language["en"].split(" and ") == [f"a {noun}" for noun in sample.extras["things"]]
        assert all(noun in same.texts[0].string for noun in sample.extras["things"])
        for tag, text in by_language.items():
            assert all(noun_in(noun, tag) in text for noun in sample.extras["things"])


def test_words_are_put_in_the_order_of_each_language() -> None:
    red, cross, blue, circle, joined = (word(meaning, "qaa") for meaning in ("red", "cross", "blue", "circle", JOINED))
    assert sentence(("red cross", "blue circle"), "qaa").split() == [cross, red, joined, circle, blue]
    red, cross, blue, circle, joined = (word(meaning, "qab") for meaning in ("red", "cross", "blue", "circle", JOINED))
    assert sentence(("red cross", "blue circle"), "qab").split() == [joined, blue, circle, red, cross]


def test_no_two_meanings_share_a_word() -> None:
    words = [word(meaning, tag) for tag in ("qaa", "qab") for meaning in (*COLOURS, *SHAPES, JOINED)]
    assert len(set(words)) == len(words)
    assert len({noun_in(noun, tag) for noun in NOUNS for tag in TAGS}) == 3 * len(NOUNS)


def test_a_question_asks_for_each_language() -> None:
    sample = pair_languages(1, seed=0)[0]
    assert [question.answer for question in questions_of(sample)] == [text.string for text in sample.texts]
    assert [question.kind for question in questions_of(sample)] == list(TAGS)


def test_scenes_speak_as_before() -> None:
    """The words of `world:languages` are part of verdicts."""
    assert [text.string for text in languages(1, seed=0)[0].texts] == [
        "a cyan moon left of a yellow cross",
        "vula vume nuna nave laru",
        "shoki kaiko shaizai shopo kaipai",
    ]


def test_the_world_has_an_address() -> None:
    whole = resolve("world:pair_languages?n=12&test=5&seed=1")
    assert [len(whole.split(split)) for split in ("train", "test")] == [12, 5]
