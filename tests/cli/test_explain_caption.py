"""``diptych explain caption``: wrong captions beside the one they were made of."""

from __future__ import annotations

import json

import pytest

from diptych.cli import main


def test_a_caption_is_read_and_its_wrong_ones_stand_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "caption", "A dog left of an orange cat.", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["captions"]
    assert found["relations"] == [["dog", "left of", "orange cat"]]
    assert ["orange", "ADJ"] in found["words"]
    assert found["wrong"]["swapped nouns"] == ["A cat left of an orange dog."]
    assert "An orange cat right of a dog." in found["right"]
    assert main(["explain", "caption", "so"]) == 0
    assert "no wrong caption" in capsys.readouterr().out


def test_captions_of_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "caption", "--data", "world:scenes?n=6", "--rows", "3"]) == 0
    out = capsys.readouterr().out
    assert out.count("/DET") >= 6
    assert out.count("wrong  ") >= 3


@pytest.mark.parametrize("words", [[], ["a dog", "--data", "emoji"]])
def test_one_of_both_is_asked_for(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "caption", *words]) == 2
    assert "nothing to explain is given" in capsys.readouterr().err
