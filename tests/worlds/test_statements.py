"""Statements about pairs of scenes: true as often as not, and true of what was drawn."""

from __future__ import annotations

import re

from diptych.core.scene_graph import Region
from diptych.data.text.question_answering.questions import questions_of
from diptych.worlds.scenes.layout import COLOURS, SHAPES
from diptych.worlds.scenes.statements import KINDS, NUMBERS, make_statement, statements


def scene(*things: str) -> list[Region]:
    return [Region((0, 0, 1, 1), shape, attributes=(colour, "plain")) for colour, shape in (thing.split() for thing in things)]


class Fixed:
    """Draws what it is told."""

    def __init__(self, colour: str, shape: str, *numbers: int) -> None:
        self.words, self.numbers = {COLOURS: colour, SHAPES: shape}, list(numbers)

    def choice(self, among: tuple[str, ...]) -> str:
        return self.words[among]

    def integers(self, low: int, high: int | None = None) -> int:
        return self.numbers.pop(0)


def test_truth_by_hand() -> None:
    pair = (scene("red circle", "blue circle", "red star"), scene("red circle", "green cross"))
    for kind, draws, text, true in (
        ("more", Fixed("red", "circle", 0), "the left picture has more circles than the right one", True),
        ("more", Fixed("red", "circle", 1), "the right picture has more circles than the left one", False),
        ("more", Fixed("red", "cross", 1), "the right picture has more crosses than the left one", True),
        ("both", Fixed("pink", "moon", 0, 1, 1), "a circle is in both pictures", True),
        ("both", Fixed("pink", "moon", 0, 2, 1), "a star is in both pictures", False),
        ("both", Fixed("pink", "moon", 1, 0, 0), "something red is in both pictures", True),
        ("both", Fixed("pink", "moon", 0, 1, 0), "something blue is in both pictures", False),
        ("exactly", Fixed("red", "star", 0, 0), "one of the pictures has exactly three things", True),
        ("exactly", Fixed("red", "star", 0, 1), "one of the pictures has exactly four things", False),
        ("exactly", Fixed("red", "star", 0, -1), "one of the pictures has exactly two things", True),
        ("something", Fixed("blue", "star", 0), "the left picture has something blue and the right one has not", True),
        ("something", Fixed("red", "star", 0), "the left picture has something red and the right one has not", False),
        ("something", Fixed("green", "star", 0), "the left picture has something green and the right one has not", False),
    ):
        assert make_statement(pair, kind, draws) == (text, true)


def test_half_are_true_every_kind_comes_and_a_seed_gives_the_same() -> None:
    data = statements(120, seed=4)
    asked = [questions_of(data[row])[0] for row in range(120)]
    assert 45 <= sum(question.answer == "True" for question in asked) <= 75
    assert {question.kind for question in asked} == set(KINDS)
    again = statements(120, seed=4)
    assert [question.text for question in asked] == [questions_of(again[row])[0].text for row in range(120)]
    assert statements(3, seed=5).fingerprint != statements(3, seed=4).fingerprint
    numbers = [match[1] for question in asked if (match := re.search(r"exactly (\w+) things", question.text))]
    assert set(numbers) <= set(NUMBERS)
    assert len(data[0].media["images"].decode()) == 2


def test_crowded_pictures_are_counted_too() -> None:
    rows = statements(300, seed=1, size=96, max_objects=6)
    asked = {rows[row].extras["questions"][0]["question"] for row in range(len(rows))}
    assert "one of the pictures has exactly 7 things" in asked  # one more than there can be: never true
