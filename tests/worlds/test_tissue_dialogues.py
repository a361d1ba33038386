"""Conversations about tiles: values of the shipped table, wordings apart, contradictions, beliefs and misleading doctors."""

from __future__ import annotations

import numpy as np

from diptych.data.text.question_answering.questions import questions_of
from diptych.tasks._scoring.rewards.symbolic_table import symbolic_table
from diptych.worlds.tissue.dialogues import ANSWERS, ASKED, QUESTIONS, ROWS, tissue_dialogues


def test_rows_are_those_of_the_table_which_reads_every_wording() -> None:
    table = symbolic_table("tissue")
    assert table.rows == ROWS
    assert table.questions == QUESTIONS
    for (name, value), wordings in ANSWERS.items():
        for text in (*wordings[0], *wordings[1]):
            assert table.value_of(name, text) == value, text
            assert table.value_of(name, f"i do not agree , {text}") == value, text
    bank = [*ASKED.values(), *ANSWERS.values()]
    assert not any(set(train) & set(others) for train, others in bank)


def test_answers_hang_together_unless_they_contradict() -> None:
    table = symbolic_table("tissue")
    whole = tissue_dialogues(50, seed=2, contradictions=0.0, beliefs=0.0)
    for sample in whole:
        values = {q.facets["name"][0]: table.value_of(q.facets["name"][0], q.answer) for q in questions_of(sample)}
        assert table.row_of(values) == sample.extras["label"]
    wrong = [
        table.value_of(q.facets["name"][0], q.answer) != q.facets["value"][0]
        for sample in tissue_dialogues(200, seed=2, contradictions=0.15, beliefs=0.0)
        for q in questions_of(sample)
    ]
    assert 0.11 < float(np.mean(wrong)) < 0.19


def test_a_misleading_doctor_is_always_wrong() -> None:
    table = symbolic_table("tissue")
    for sample in tissue_dialogues(20, seed=1, split="test", misleading=True, shuffled=True):
        asked = questions_of(sample)
        assert {q.facets["name"][0] for q in asked} == set(QUESTIONS)
        for question in asked:
            belief = question.text.removeprefix("doctor believes ").split(" , ")[0]
            assert table.value_of(question.facets["name"][0], belief) != question.facets["value"][0]
            assert question.answer.startswith("i do not agree , ")
