"""Multiple-choice prompts: lettered options, orders of the options, and the entropy of the choice over orders."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from diptych.core.errors import DataError
from diptych.core.randomness import keyed_rng

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def with_options(question: str, options: Sequence[str], instruction: str) -> str:
    """Prompt of a question with its lettered options, one per line.

    >>> print(with_options("what colour ?", ["red", "blue"], "Answer with the letter."))
    what colour ?
    A. red
    B. blue
    Answer with the letter.
    """
    if len(options) > len(LETTERS):
        raise DataError(f"a question has {len(options)} options", field="questions", expected=f"at most {len(LETTERS)}")
    lines = [question, *(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)), instruction]
    return "\n".join(line for line in lines if line)


def rotations(options: int, count: int) -> list[list[int]]:
    """Cyclic orders of the options (indices rotated by 0, 1, ...); as many as there are options, or `count` if that is less.

    >>> rotations(3, 2)
    [[0, 1, 2], [1, 2, 0]]
    """
    every = list(range(options))
    return [[*every[turn:], *every[:turn]] for turn in range(min(count, options))]


def shuffles(options: int, count: int, *key: str | int) -> list[list[int]]:
    """Random orders drawn under `key`, the first of them not always the given one; as many as there are, or `count` if that is less."""
    rng, orders = keyed_rng("orders", *key), dict[tuple[int, ...], None]()
    while len(orders) < min(count, math.factorial(options)):
        orders[tuple(rng.permutation(options).tolist())] = None
    return [list(order) for order in orders]


def entropy(chosen: Sequence[str], *, base: float = math.e, corrected: bool = False) -> float:
    """Entropy of the choice over the orders of its options: 0 if the same content is always chosen.

    chosen     content of the option chosen in each order; an unread reply counts as an option of its own
    base       e gives nats, 2 gives bits
    corrected  add (K - 1) / 2n nats for K different choices of n (Miller and Madow, 1955), since the estimate is too low for few orders

    >>> round(entropy(["a", "a", "b"], base=2), 3), round(entropy(["a", "b", "c"], base=2), 3)
    (0.918, 1.585)
    """
    shares = [count / len(chosen) for count in Counter(chosen).values()]
    nats = abs(sum(share * math.log(share) for share in shares)) + ((len(shares) - 1) / (2 * len(chosen)) if corrected else 0.0)
    return nats / math.log(base)


def normalised_entropy(chosen: Sequence[str], options: int) -> float:
    """Entropy divided by its maximum for this number of orders and options: 0 if the choice never changes, 1 at the maximum.

    >>> normalised_entropy(["a", "b", "c", "d"], 4)
    1.0
    """
    most = min(len(chosen), max(options, len(set(chosen))))  # an unread reply counts as one more option
    return entropy(chosen) / math.log(most) if most > 1 else 0.0
