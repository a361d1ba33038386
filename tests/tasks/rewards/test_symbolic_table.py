"""Values, rewards and consistency by a table: the released rules, six conversations by hand, tables that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import DataError, RunError
from diptych.tasks._scoring.rewards.symbolic_table import TableReward, is_consistent, symbolic_table

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "dr_llava_values.json").read_text(encoding="utf-8"))
"""Values that `RewardModel_HEME` of Dr-LLaVA gives to drawn words, for each of its five questions."""
QUESTIONS = ("usable", "quality", "finding", "cells", "diagnosis")
NORMAL = ("yes, it can be used", "adequate and sharp", "it is normal", "few cells", "normal tissue")
FIBROMA = ("yes, it can be used", "adequate and sharp", "it is abnormal", "spindles", "a fibroma, surely")
EMPTY = ("no", "empty", "unclear", "unclear", "unclear")


def test_values_are_those_of_the_released_rules(parity: Any) -> None:
    table = symbolic_table("bone_marrow_released")
    wrong = sum(
        table.value_of(question, text) != value
        for text, values in RELEASED["rows"]
        for question, value in zip(RELEASED["questions"], values, strict=True)
    )
    against = f"RewardModel_HEME of Dr-LLaVA at {RELEASED['commit']}"
    parity("dr_llava", "values of answers to five questions", against, [(np.array(wrong), np.array(0))], tolerance=0)


@pytest.mark.parametrize(
    ("answers", "correct", "consistent"),
    [
        (FIBROMA, 5.0, 4.0),
        (NORMAL, 2.0, 4.0),  # consistent and wrong
        ((*FIBROMA[:4], "a tubuloma, no doubt"), 4.0, 3.0),
        ((*FIBROMA[:4], "who knows anyway?"), 3.5, 3.0),
        (("no", *FIBROMA[1:]), 4.0, 3.0),
        (EMPTY, 0.0, 4.0),
    ],
)
def test_the_reward_of_six_conversations(answers: tuple[str, ...], correct: float, consistent: float) -> None:
    table = symbolic_table("tissue")
    made = TableReward(table)(QUESTIONS, answers, FIBROMA)
    gaps = [abs(len(one) - len(other)) / 10 for one, other in zip(answers, FIBROMA, strict=True)]
    assert made.length == pytest.approx(-sum(gap for gap in gaps if gap > 1))
    assert (made.correct, made.consistent) == (correct, consistent)
    assert made.total == pytest.approx(correct + consistent + made.length)
    assert made.all_right == (answers == FIBROMA)
    assert is_consistent(table, QUESTIONS, made.values) == (consistent == 4.0)


def test_consistency_follows_the_order_of_the_questions() -> None:
    table = symbolic_table("tissue")
    order = ("diagnosis", "usable", "cells")
    made = TableReward(table, correct=0.0, length=0.0)(
        order, ("fibroma", "no, it cannot", "unclear"), ("fibroma", "yes", "spindles")
    )
    assert made.values == ("fibroma", "no", "inadequate")
    assert made.total == 1.0  # "no" and "inadequate" stand in a row, "fibroma" and "no" do not
    assert table.row_of(dict(zip(order, made.values, strict=True))) is None
    assert table.row_of({"diagnosis": "fibroma"}) == "FIBROMA"


def test_words_are_whole_unless_a_star_says_otherwise() -> None:
    table = symbolic_table("bone_marrow")
    assert table.value_of("finding", "The patch is abnormal.") == "abnormal"
    assert table.value_of("finding", "There is no abnormality.") == "normal"
    assert symbolic_table("bone_marrow_released").value_of("usable", "An abnormal picture, apt for it.") == "yes"
    assert symbolic_table("bone_marrow_released").value_of("usable", "abnormal") == "no"
    assert table.value_of("usable", "abnormal") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("questions: [a]\nrules: {b: []}\nrows: {}", "rules for"),
        ("questions: [a]\nrules: {a: [{value: x, has: [[no]]}]}\nrows: {R: [x]}", "quotes around"),
        ("questions: [a]\nrules: {a: [{value: x, has: [[b]]}]}\nrows: {R: [x, y]}", "1 values"),
        ("questions: [a]\nmatching: letters\nrules: {a: [{value: x, has: [[b]]}]}\nrows: {R: [x]}", "words or substrings"),
        ("a: [", "no YAML"),
        ("[]", "all three"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        symbolic_table(str(path))
    with pytest.raises(DataError, match="no such table"):
        symbolic_table("nowhere")


def test_conversations_that_do_not_fit_are_refused() -> None:
    reward = TableReward(symbolic_table("tissue"))
    with pytest.raises(RunError, match="as many of each"):
        reward(("usable",), (), ())
    with pytest.raises(RunError, match="no question 'colour'"):
        reward(("colour",), ("red",), ("red",))
