"""Agreement of two judges, and model strengths from pairwise preferences (Bradley-Terry).

Letters: M models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DataError

Floats = npt.NDArray[np.float64]


def agreement(first: Sequence[object], second: Sequence[object]) -> float:
    """Share of items with equal verdicts of both judges."""
    _check_pairs(first, second)
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)


def kappa(first: Sequence[object], second: Sequence[object]) -> float:
    """Cohen's kappa (1960): agreement corrected for chance. 1 if both judges always give the same single verdict, where the
    formula is 0 / 0."""
    share = agreement(first, second)
    every = {*first, *second}
    by_chance = sum(list(first).count(one) * list(second).count(one) for one in every) / len(first) ** 2
    return 1.0 if by_chance == 1 else (share - by_chance) / (1 - by_chance)


def bradley_terry(wins_MM: Floats, *, prior: float = 0.0, rounds: int = 10_000, tolerance: float = 1e-12) -> Floats:
    """[M]: log strengths with mean 0, by maximum likelihood (Bradley & Terry, 1952; Hunter, 2004): i beats j with the probability
    1 / (1 + exp(s_j - s_i)).

    wins_MM  how often row beat column; a tie is half a win of each
    prior    number of wins added to each pair that met, in both directions
    Raises DataError if no finite strengths exist: some models never lost to, or never met, the others.
    """
    count = len(wins_MM)
    if wins_MM.shape != (count, count) or np.diag(wins_MM).any() or (wins_MM < 0).any():
        raise DataError(
            f"wins are {list(wins_MM.shape)}", field="wins", expected="[M, M], 0 or more, 0 of a model against itself"
        )
    wins_MM = wins_MM + prior * ((wins_MM + wins_MM.T) > 0)
    reach_MM = np.linalg.matrix_power((wins_MM > 0).astype(float) + np.eye(count), max(1, count - 1)) > 0
    if not reach_MM.all():
        raise DataError(
            "some models never lost to others, or never met them", field="wins", expected="a prior above 0, or more comparisons"
        )
    total_M, met_MM = wins_MM.sum(axis=1), wins_MM + wins_MM.T
    strength_M = np.ones(count)
    for _ in range(rounds):
        new_M = total_M / (met_MM / (strength_M[:, None] + strength_M[None, :])).sum(axis=1)
        new_M /= np.exp(np.log(new_M).mean())
        done = np.abs(new_M - strength_M).max() < tolerance
        strength_M = new_M
        if done:
            break
    logs_M: Floats = np.log(strength_M)
    return logs_M


def elo(
    matches: Sequence[tuple[int, int, float]], count: int, *, start: float = 1000.0, step: float = 32.0, scale: float = 400.0
) -> Floats:
    """Elo ratings [M] after the matches (first, second, score of the first: 1, .5 or 0). They depend on the order of the
    matches."""
    rating_M = np.full(count, start)
    for first, second, score in matches:
        expected = 1 / (1 + 10 ** ((rating_M[second] - rating_M[first]) / scale))
        rating_M[first] += step * (score - expected)
        rating_M[second] -= step * (score - expected)
    return rating_M


def _check_pairs(first: Sequence[object], second: Sequence[object]) -> None:
    if len(first) != len(second) or not first:
        raise DataError(f"{len(first)} verdicts and {len(second)}", field="verdicts", expected="as many of each, one or more")
