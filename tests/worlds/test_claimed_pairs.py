"""Statements about small pairs: half of them hold, and which ones is known."""

from __future__ import annotations

from diptych.worlds.claimed_pairs import claimed_pairs
from diptych.worlds.small_pairs import NOUNS, PLACES, small_pairs


def test_statements_hold_where_they_say_so() -> None:
    answers = []
    for sample in claimed_pairs(60, seed=3):
        things = sample.extras["things"]
        assert len(sample.extras["questions"]) == 2
        for question in sample.extras["questions"]:
            claimed = question["question"].removeprefix("is there a ").removesuffix(" ?")
            assert any(claimed == f"{noun} {place}" for noun in NOUNS for place in PLACES)
            assert (claimed in things) == (question["answer"] == "yes")
            answers.append(question["answer"])
        assert sample.texts[0].string == " and ".join(f"a {thing}" for thing in things)
    assert 45 < answers.count("yes") < 75


def test_pictures_are_those_of_small_pairs() -> None:
    claimed, plain = claimed_pairs(3, seed=2, split="test"), small_pairs(3, seed=2, split="test")
    for one, other in zip(claimed, plain, strict=True):
        assert (one.image.pixels_HWC == other.image.pixels_HWC).all()
