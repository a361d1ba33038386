"""Scores, pairs and length balance against the released scripts and against loops, statements by rules, labels by likelihood."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.contracts import Reply
from diptych.core.errors import ConfigError, RunError
from diptych.curate.preferences.mining import PairOptions, answer_score, balance_lengths, sampled_pairs, scored_pairs
from diptych.curate.preferences.self_feedback import best_answers, log_ratio_rewards
from diptych.curate.preferences.statements import WrittenSplitter, split_answer, yes_no_question
from diptych.curate.preferences.yes_no import YesNoLabeler

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "rlaif_v_mining.json").read_text(encoding="utf-8"))
"""Pairs and balanced lengths of `pair_construction.py` and `get_pairs_filter_shorten.py` of RLAIF-V on drawn probabilities and texts."""


def test_pairs_are_those_of_the_release(parity: Any) -> None:
    wrong = 0
    for case in RELEASED["labels"]:
        found = []
        for instruction, answers in enumerate(case["yes_no"]):
            scores = [answer_score(yes_no) for yes_no in answers]
            found += [[instruction * 5 + better, instruction * 5 + worse] for better, worse in scored_pairs(scores, 1)]
        wrong += sorted(found) != case["pairs"]
    against = f"get_pairs_inner of RLAIF-V at {RELEASED['commit']}"
    parity("rlaif_v", "pairs of candidates by labels of their statements", against, [(np.array(wrong), np.array(0))], tolerance=0)


def test_length_balance_is_that_of_the_release(parity: Any) -> None:
    compared = []
    for case in RELEASED["balance"]:
        pairs = [
            (" ".join(["w"] * chosen), " ".join(["w" if same else "v"] * rejected))
            for (chosen, rejected), same in zip(case["words"], case["equal"], strict=True)
        ]
        kept, balance = balance_lengths(pairs, "length" if case["use_len"] else "portion", texts=lambda pair: pair)
        ours = [balance.ratio, len(kept), balance.chosen_words, balance.rejected_words]
        compared.append((np.array(ours), np.array([case[name] for name in ("ratio", "kept", "chosen", "rejected")])))
    against = f"cal_pair_search_difflen of RLAIF-V at {RELEASED['commit']}"
    parity("rlaif_v", "length balance by both measures", against, compared, tolerance=1e-12)


def test_five_candidates_by_brute_force() -> None:
    scores = [0.0, -2.0, -1.0, 0.0, -3.0]
    expected = {(a, b) for a, b in product(range(5), repeat=2) if scores[a] - scores[b] >= 2}
    assert set(scored_pairs(scores, 2)) == expected
    drawn = sampled_pairs(sorted(expected), 2, np.random.default_rng(0))
    assert len(set(drawn)) == 2
    assert set(drawn) <= expected
    with pytest.raises(ConfigError, match="finite"):
        scored_pairs([0.0, float("nan")])


def test_pairs_of_one_text_or_an_empty_one_are_left_out() -> None:
    pairs = [("a b", "a b "), ("", "a"), ("a", "  "), ("a b c", "a d")]
    kept, balance = balance_lengths(pairs, "none", texts=lambda pair: pair)
    assert kept == [("a b c", "a d")]
    assert balance.left_out == 3
    assert balance_lengths(pairs[:3], texts=lambda pair: pair)[0] == []
    with pytest.raises(ConfigError, match="difference 0"):
        PairOptions(difference=0)


@pytest.mark.parametrize(
    ("answer", "statements"),
    [
        ("a red circle top left and a blue cross", ["there is a red circle top left", "there is a blue cross"]),
        (
            "The cup is red. A dog sits on the sofa, and a cat is asleep.",
            ["The cup is red", "A dog sits on the sofa", "a cat is asleep"],
        ),
        ("", []),
    ],
)
def test_an_answer_is_divided_into_statements(answer: str, statements: list[str]) -> None:
    assert split_answer(answer) == statements


@pytest.mark.parametrize(
    ("statement", "question"),
    [
        ("There is no dog.", "Is there no dog"),
        ("The cups are not red", "Are the cups not red"),
        ("A man who is tall sits", "Is it true that a man who is tall sits"),
        ("Maria sings", "Is it true that Maria sings"),
    ],
)
def test_a_statement_becomes_a_question_that_keeps_its_negation(statement: str, question: str) -> None:
    assert yes_no_question(statement) == question


class Listing:
    """A backend that answers requests for facts and for questions with lists."""

    name = identity = "listing"
    terms, at_once, calls, kept = "", 1, 1, True

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def tokens(self, text: str) -> int:
        return len(text.split())

    def write(self, requests: Any) -> list[Reply]:
        self.prompts += [request.prompt for request in requests]
        asked = ["Declarative" in request.prompt for request in requests]
        return [
            Reply("### M:\n- Is it red?\n- Is it big?" if turned else "### Facts:\n- It is red.\n- It is big.\n")
            for turned in asked
        ]


def test_a_language_model_is_asked_for_facts_and_then_for_questions() -> None:
    backend = Listing()
    (found,) = WrittenSplitter(backend)([("What is it?", "A big red cup.")])
    assert [(entry.text, entry.question) for entry in found] == [("It is red.", "Is it red"), ("It is big.", "Is it big")]
    assert "Question: What is it?\nAnswer: A big red cup." in backend.prompts[0]
    assert "\n- It is big.\n" in backend.prompts[1]
    cut = WrittenSplitter(backend, prompt_words=60).fact_prompt("why", "word " * 90)
    assert len(cut.split(" ")) == 60


WRITTEN = [
    ("### Facts:\n- It is red.\n- It is big.", "- Is it red?\n- Is it big?"),
    ("- It is red.\n- It is big.\n- It is a cup.", "- Is it red?\n- Is it big?"),
    ("- It is red.\n- It is red.", "- Is it red?\n- Is it red?"),
    ("- It is red.\n \n- It is big.", "- Is it red?\n- Is it?\n- Is it big?"),
    ("- It is red.", "- Is it red?\n- Is it big?"),
    ("", "- Is it red?"),
    ("It is red.", "Is it red?"),
]
"""Lists of facts and of questions; `get_pair_data` of RLAIF-V at 83d917b makes pairs of the first, the fifth and the last alone."""


class Recited(Listing):
    """Writes the lists of `WRITTEN` in their order."""

    at_once = len(WRITTEN)

    def write(self, requests: Any) -> list[Reply]:
        turned = "Declarative" in requests[0].prompt
        return [Reply(lists[turned]) for lists in WRITTEN]


def test_answers_whose_facts_have_no_question_each_take_no_part_as_released(parity: Any) -> None:
    splitter = WrittenSplitter(Recited(), first_character=True, one_to_one=True)
    counts = [len(found) for found in splitter([("What is it?", "A cup.")] * len(WRITTEN))]
    against = "get_facts and get_pair_data of RLAIF-V at 83d917b"
    pairs = [(np.array(counts), np.array([2, 0, 0, 0, 1, 0, 1]))]
    parity("rlaif_v", "statements of answers that take part", against, pairs, tolerance=0)
    plain = WrittenSplitter(Recited(), first_character=True)([("What is it?", "A cup.")] * len(WRITTEN))
    assert [len(found) for found in plain] == [2, 2, 2, 2, 1, 0, 1]


class Sure:
    """Gives each of yes, Yes, no, No the same four probabilities for every question."""

    def __init__(self, *chances: float) -> None:
        self.chances = chances

    def first_token_probs(self, images: Any, prompts: Any, words: Any) -> Any:
        assert tuple(words) == ("yes", "Yes", "no", "No")
        assert list(prompts) == ["Is it red? Please answer yes or no."] * len(images)
        return np.tile(self.chances, (len(images), 1))


def test_yes_and_no_are_sums_over_both_spellings() -> None:
    yes_no_N2 = YesNoLabeler(Sure(0.2, 0.1, 0.05, 0.15))([None, None], ["Is it red"] * 2)
    np.testing.assert_allclose(yes_no_N2, [[0.3, 0.2]] * 2)
    with pytest.raises(RunError, match="two probabilities"):
        YesNoLabeler(Sure(0.2, float("nan"), 0.0, 0.0))([None], ["Is it red"])
    with pytest.raises(RunError, match="neither 'yes' nor 'Yes' as one token"):
        YesNoLabeler(Sure(0, 0, 0.4, 0))([None], ["Is it red"])
    with pytest.raises(RunError, match="neither 'no' nor 'No' as one token"):
        YesNoLabeler(Sure(0, 0.4, 0, 0))([None], ["Is it red"])


class Told:
    """Gives candidates their nats and tokens."""

    def __init__(self, *rows: tuple[float, float]) -> None:
        self.rows = np.array(rows)

    def answer_nll(self, images: Any, prompts: Any, candidates: Any) -> Any:
        return [self.rows] * len(images)


def test_the_best_answer_is_the_one_whose_tokens_gained_most() -> None:
    aligned, reference = Told((4.0, 4), (8.0, 2)), Told((8.0, 4), (11.0, 2))
    np.testing.assert_allclose(log_ratio_rewards(aligned.rows, reference.rows), [1.0, 1.5])
    np.testing.assert_allclose(log_ratio_rewards(aligned.rows, reference.rows, average=False), [4.0, 3.0])
    asked: Any = ([None], ["what"], [["long answer", "short"]])
    assert best_answers(aligned, reference, *asked) == ["short"]
    assert best_answers(aligned, reference, *asked, average=False) == ["long answer"]
