"""Questions about small pairs: by place, each answered by the pixels that stand there."""

from __future__ import annotations

import numpy as np

from diptych.data.text.question_answering.questions import questions_of
from diptych.worlds.asked_pairs import asked_pairs
from diptych.worlds.resolve import resolve
from diptych.worlds.small_pairs import CELL, COLOURS, PLACES, small_pairs


def test_the_colour_at_a_place_is_that_of_its_pixels() -> None:
    for sample in asked_pairs(20, seed=3):
        pixels_HWC = sample.image.pixels_HWC  # type: ignore[union-attr]
        asked = [question for question in questions_of(sample) if question.kind == "colour"]
        assert len(asked) == 2
        for question in asked:
            place = question.text.removeprefix("what colour is ").removesuffix(" ?")
            row, column = divmod(PLACES.index(place), 3)
            cell_PC = pixels_HWC[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL].reshape(-1, 3)
            painted = {name: int((cell_PC == np.array(colour)).all(1).sum()) for name, colour in COLOURS.items()}
            assert max(painted, key=painted.__getitem__) == question.answer
            assert painted[question.answer] > 10


def test_answers_are_what_the_text_says() -> None:
    for sample in asked_pairs(20, seed=4):
        said = {" ".join(words.split()[3:]): words.split()[1:3] for words in sample.texts[0].string.split(" and ")}
        for question in questions_of(sample):
            place = question.text.split(" is ")[1].removesuffix(" ?")
            assert question.answer == said[place][0 if question.kind == "colour" else 1]


def test_pictures_are_those_of_small_pairs_under_other_names() -> None:
    asked, plain = asked_pairs(5, seed=2, split="test"), small_pairs(5, seed=2, split="test")
    for ours, theirs in zip(asked, plain, strict=True):
        assert np.array_equal(ours.image.pixels_HWC, theirs.image.pixels_HWC)  # type: ignore[union-attr]
        assert ours.uid != theirs.uid
    assert asked.fingerprint != plain.fingerprint


def test_the_world_has_an_address() -> None:
    whole = resolve("world:asked_pairs?n=12&test=5&seed=1")
    assert [len(whole.split(split)) for split in ("train", "test")] == [12, 5]
    assert len(questions_of(whole.split("test")[0])) == 4
