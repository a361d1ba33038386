"""Preference pairs from statement labels: answer scores, pairs by score difference, and length balancing (RLAIF-V, 2405.17220).

    score(answer) = number of statements that hold - number of statements = -(number judged no)

Any two answers to one instruction whose scores differ by `difference` form a pair; `most` of them are sampled. The score favours
short answers, so pairs whose chosen answer is shorter by more than a given fraction of the rejected one's words are dropped; the
fraction is the one, on a grid of 0, .02, ..., .98, for which mean lengths differ least.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, TypeVar

import numpy as np

from diptych.core.errors import ConfigError

GRID = tuple(float(ratio) for ratio in np.arange(0, 1, 0.02))
Balance = Literal["length", "portion", "none"]
P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class PairOptions:
    """Which pairs of candidates are learned from.

    most        maximum number of pairs per instruction, sampled at random; 0: all
    difference  minimum difference of two scores that make a pair
    soft        score statements by the probability of no against yes instead of the more likely answer
    balance     what is made even: mean lengths relative to the rejected ("length"), the shares of pairs with the longer and with the
                shorter answer chosen ("portion"), nothing ("none")
    """

    most: int = 2
    difference: float = 1.0
    soft: bool = False
    balance: Balance = "length"

    def __post_init__(self) -> None:
        if self.most < 0 or self.difference <= 0 or self.balance not in ("length", "portion", "none"):
            raise ConfigError(
                f"most {self.most}, difference {self.difference:g}, balance {self.balance!r} (expected 0 or more, above 0, and length, "
                "portion or none)"
            )


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """Two answers, by index among the candidates of an instruction, the better one first, and their texts."""

    chosen: int
    rejected: int
    chosen_text: str
    rejected_text: str


@dataclass(frozen=True, slots=True)
class LengthBalance:
    """Result of length balance. ratio: share that was chosen, 1 where none was; means in words, before and after; pairs left out"""

    ratio: float
    chosen_words: float
    rejected_words: float
    chosen_words_before: float
    rejected_words_before: float
    left_out: int


def answer_score(yes_no: Sequence[Sequence[float]], *, soft: bool = False) -> float:
    """Minus the number of statements that do not hold, from the probabilities of yes and of no for each; a tie does not hold.

    >>> answer_score([(0.7, 0.2), (0.4, 0.4)]), answer_score([(0.75, 0.25)], soft=True)
    (-1.0, -0.25)
    """
    if soft:
        return 0.0 - sum(no / max(yes + no, 1e-30) for yes, no in yes_no)
    return float(sum(yes > no for yes, no in yes_no) - len(yes_no))


def scored_pairs(scores: Sequence[float], difference: float = 1.0) -> list[tuple[int, int]]:
    """(chosen, rejected) for any two candidates whose scores differ by at least `difference`, in candidate order.

    >>> scored_pairs([0, -2, 0])
    [(0, 1), (2, 1)]
    """
    if not np.isfinite(np.asarray(scores, np.float64)).all():
        raise ConfigError(f"scores are {list(scores)[:8]} (expected finite ones)")
    pairs = []
    for first, second in combinations(range(len(scores)), 2):
        if abs(scores[first] - scores[second]) >= difference:
            pairs.append((second, first) if scores[first] < scores[second] else (first, second))
    return pairs


def sampled_pairs(pairs: Sequence[P], most: int, rng: np.random.Generator) -> list[P]:
    """`most` of the pairs without replacement, in the order in which they are drawn; all of them where there are no more, or for 0."""
    if not most or len(pairs) <= most:
        return list(pairs)
    return [pairs[index] for index in rng.permutation(len(pairs))[:most]]


def balance_lengths(
    pairs: Sequence[P], balance: Balance = "length", *, texts: Callable[[P], tuple[str, str]]
) -> tuple[list[P], LengthBalance]:
    """The pairs to keep, and the measurements. Pairs of identical texts, or with an empty text, are always dropped.

    texts  the chosen and the rejected text of a pair
    Of equally good shares the smallest is taken. Lengths are words between spaces.
    """
    usable = list[tuple[P, int, int]]()
    for pair in pairs:
        chosen, rejected = (text.strip() for text in texts(pair))
        if chosen and rejected and chosen != rejected:
            usable.append((pair, len(chosen.split()), len(rejected.split())))
    before = _means([words for _, *words in usable])
    if not usable or balance == "none":
        return [pair for pair, *_ in usable], LengthBalance(1.0, *before, *before, len(pairs) - len(usable))
    balanced = [(_imbalance(kept, balance), ratio) for ratio in GRID if (kept := _within([words for _, *words in usable], ratio))]
    ratio = min(balanced)[1] if balanced else 1.0
    stay = [row for row in usable if not _shorter_by(row[1], row[2], ratio)]
    after = _means([words for _, *words in stay])
    return [pair for pair, *_ in stay], LengthBalance(ratio, *after, *before, len(pairs) - len(stay))


def _shorter_by(chosen: int, rejected: int, ratio: float) -> bool:
    return (rejected - chosen) / float(rejected) > ratio


def _within(words: Sequence[Sequence[int]], ratio: float) -> list[Sequence[int]]:
    return [pair for pair in words if not _shorter_by(pair[0], pair[1], ratio)]


def _imbalance(words: Sequence[Sequence[int]], balance: Balance) -> float:
    if balance == "portion":
        longer, shorter = (sum(sign * (chosen - rejected) > 0 for chosen, rejected in words) for sign in (1, -1))
        return abs(shorter / len(words) - longer / len(words))
    chosen, rejected = _means(words)
    return abs(chosen - rejected) / rejected


def _means(words: Sequence[Sequence[int]]) -> tuple[float, float]:
    count = max(1, len(words))
    return sum(chosen for chosen, _ in words) / count, sum(rejected for _, rejected in words) / count
