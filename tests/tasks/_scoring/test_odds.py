"""Odds ratios against the closed form of a table of two by two, and what has no finite ratio."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diptych.tasks._scoring.odds import odds_ratio


def table(a: int, b: int, c: int, d: int) -> tuple[list[bool], list[bool]]:
    """Successes and failures with the condition, a and b, and without it, c and d."""
    return [True] * a + [False] * b + [True] * c + [False] * d, [True] * (a + b) + [False] * (c + d)


@pytest.mark.parametrize("cells", [(30, 10, 10, 30), (3, 17, 8, 5), (2, 1, 40, 60)])
@pytest.mark.parametrize("strata", [1, 3])
def test_it_is_the_ratio_of_the_table_with_its_wald_interval(cells: tuple[int, int, int, int], strata: int) -> None:
    """Equal strata have the ratio of one, and an interval as narrow as that of so many items."""
    success, present = table(*cells)
    names = [name for name in "abc"[:strata] for _ in success]
    found = odds_ratio(np.array(success * strata), np.array(present * strata), names)
    a, b, c, d = cells
    slope, spread = math.log(a * d / (b * c)), 1.959963984540054 * math.sqrt(sum(1 / cell for cell in cells) / strata)
    assert found == pytest.approx([math.exp(slope), math.exp(slope - spread), math.exp(slope + spread)], rel=1e-6)


def test_strata_are_compared_within_themselves() -> None:
    """Half as likely in each of two strata, though more likely in the two together."""
    parts = [table(60, 20, 30, 5), table(1, 19, 10, 95)]
    success, present = (np.array([value for part in parts for value in part[n]]) for n in (0, 1))
    names = [name for name, part in zip("ab", parts, strict=True) for _ in part[0]]
    assert odds_ratio(success, present, names)[0] < 0.6
    assert odds_ratio(success, present, ["all"] * len(names))[0] > 1.5


@pytest.mark.parametrize("cells", [(5, 0, 5, 0), (0, 5, 0, 5), (5, 5, 0, 0), (0, 0, 5, 5), (5, 0, 2, 3), (0, 5, 2, 3)])
def test_no_finite_ratio(cells: tuple[int, int, int, int]) -> None:
    success, present = table(*cells)
    assert all(math.isnan(value) for value in odds_ratio(np.array(success), np.array(present), ["a"] * len(success)))
