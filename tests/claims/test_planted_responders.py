"""Planted models that answer: the numbers tell five kinds apart, and what is true lies inside of the interval as often as it says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planted.estimators import Estimator, lengths
from planted.responders import Responder, quiz

from diptych.core.result import Metric
from diptych.tasks.choice.ii_bench import IIBench
from diptych.tasks.choice.multiple_choice import MultipleChoice
from diptych.tasks.choice.q_spatial import QSpatial
from diptych.tasks.choice.visual_reasoning import VisualReasoning


def scored(responder: Responder, task: MultipleChoice, *, questions: int = 120, seed: int = 0) -> dict[str, Metric]:
    data = quiz(questions, seed=seed)
    return task.score(task.predict(replace(responder, none_option=task.none_option, seed=seed).taught(data), data)).metrics


@pytest.fixture(scope="module")
def five() -> dict[str, dict[str, Metric]]:
    task = VisualReasoning(draws=100)
    kinds = ("knower", "first letter", "content guesser", "always none", "pulled knower")
    return {kind: scored(Responder(kind), task) for kind in kinds}  # type: ignore[arg-type]


def test_five_kinds_of_models_are_told_apart(five: dict[str, dict[str, Metric]]) -> None:
    def value(kind: str, metric: str) -> float:
        return five[kind][metric].value

    assert value("knower", "accuracy") > 0.6 > value("pulled knower", "accuracy") > 0.3 > value("content guesser", "accuracy")
    assert value("knower", "entropy") == 0 == value("content guesser", "entropy") == value("always none", "entropy")
    assert value("first letter", "entropy_bits") > 1.1 > value("pulled knower", "entropy_bits") > 0.4
    assert value("always none", "rejection") == 1 == value("always none", "false_rejection")
    assert value("knower", "rejection") > 0.6 > 0.3 > value("content guesser", "rejection")
    assert value("first letter", "position_bias") > 0.8 > 0.4 > value("pulled knower", "position_bias") > 0.15
    assert value("knower", "position_bias") < 0.1
    assert value("first letter", "circular") < 0.05 < value("pulled knower", "circular") < value("knower", "circular")
    assert value("knower", "false_rejection") < 0.15


def test_no_two_of_them_look_alike(five: dict[str, dict[str, Metric]]) -> None:
    told = ("accuracy", "entropy", "rejection", "position_bias")
    for first in five:
        for other in five:
            if first != other:
                assert max(abs(five[first][name].value - five[other][name].value) for name in told) > 0.15


def inside(simulations: int) -> int:
    """How often the accuracy of a pulled knower, known by its making, lies in the interval over questions asked in three orders."""
    task, true = MultipleChoice(blind=False, order="shuffle", orders=3, draws=500), 0.7 * (0.6 + 0.4 / 6) + 0.3 / 6
    responder, found = Responder("pulled knower", 0.6), 0
    for seed in range(simulations):
        accuracy = scored(responder, task, questions=150, seed=seed)["accuracy"]
        found += accuracy.low <= true <= accuracy.high
    return found


def test_the_true_accuracy_lies_inside_of_its_interval() -> None:
    assert inside(8) >= 7


@pytest.mark.slow
def test_it_does_in_95_of_100_simulations() -> None:
    assert inside(100) >= 95


def test_manners_change_no_rank_and_hints_nothing_but_the_prompt() -> None:
    task = IIBench(draws=20)
    terse, wordy = (scored(Responder("knower", 0.6, wordy=wordy), task) for wordy in (False, True))
    assert terse["accuracy"].value == wordy["accuracy"].value
    assert scored(Responder("knower", 0.6, wordy=True), replace(task, compat="ii_bench"))["accuracy"].value < 0.2
    silent = scored(Responder("knower", 0.6, fault=0.2), task)
    assert 0.1 < silent["unread"].value < 0.3
    assert silent["accuracy"].value < terse["accuracy"].value


def test_estimates_against_a_reference_are_told_from_a_prior() -> None:
    task, data = QSpatial(draws=50), lengths(200, seed=0)
    prior, reference = (
        task.score(task.predict(Estimator(how).taught(data), data))  # type: ignore[arg-type]
        for how in ("prior", "reference")
    )
    assert prior.value == pytest.approx(0.51, abs=0.1), "2 Phi(log 2) - 1 = .51 for a deviation of 1"
    assert reference.value > 0.98
    assert reference.metrics["reference"].value == 1 > 0 == prior.metrics["reference"].value
    assert prior.metrics["unread"].value == 0 == reference.metrics["unread"].value
