"""Drift at an equal reward, by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from diptych.claims.systems.rl4lms import NEVER, answers_for_reward, drift_at_reward, number_rows


def test_drift_is_read_where_the_mean_reward_is_earned() -> None:
    """Means of three: rewards .05, .1, .2, .3, .35 and drifts .5, 1, 2, 3, 3.5; .15 is half way between the second and the third."""
    reward, kl = [0.0, 0.1, 0.2, 0.3, 0.4], [0.0, 1.0, 2.0, 3.0, 4.0]
    assert drift_at_reward(reward, kl, earned=0.15) == pytest.approx(1.5)
    assert drift_at_reward(reward, kl, earned=0.05) == pytest.approx(0.5)
    assert drift_at_reward(reward, kl, earned=0.36) == NEVER
    assert drift_at_reward(reward, [-one for one in kl], earned=0.15) == 0, "an estimate below 0 is no drift"
    assert drift_at_reward([0.0, 0.9, 0.0, 0.0], [0.0, 5.0, 5.0, 5.0], earned=0.3) == pytest.approx(2.5)


def test_answers_for_a_reward_by_hand() -> None:
    """Of two answers of reward 0 and 1, equally often, the best of n has 1 - 2^-n."""
    reward_K = np.array([0.0, 1.0] * 500)
    assert answers_for_reward(reward_K, earned=0.25) == pytest.approx(2)
    assert answers_for_reward(reward_K, earned=0.5 - 2**-1.5) == pytest.approx(1.5)
    assert math.isinf(answers_for_reward(reward_K, earned=0.6))


def test_numbers_are_walks_that_are_the_same_each_time() -> None:
    rows = [[int(word) for word in sample.texts[0].string.split()] for sample in (number_rows(20)[row] for row in range(20))]
    assert all(len(row) == 8 and min(row) >= 0 and max(row) <= 29 for row in rows)
    assert {after - before for row in rows for before, after in pairwise(row)} <= {-2, -1, 0, 1, 2, 3}
    assert number_rows(20).fingerprint == number_rows(20).fingerprint != number_rows(21).fingerprint
