"""Order of an epoch that is computed, not stored: a keyed permutation of 0..n-1 with random access to any positions in constant memory.

A balanced Feistel network over the smallest power of four that holds n, six rounds of a 64-bit mixing function (SplitMix64, Steele et al.
2014); a value past n is sent through again until it lies below (cycle walking, Black and Rogaway 2002), four times at most on average.
Letters: S places that are asked for.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import Order
from diptych.core.randomness import keyed_rng
from diptych.data.load.order import order

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

COMPUTED_FROM = 1_000_000
"""Rows from which an epoch's order is computed. Below, and in runs that began before, it is `order`: a stored permutation."""
VERSION = 2
"""Of orders, which a new run records and goes on in. 1: `order` regardless of the size; 2: computed from `COMPUTED_FROM` rows on."""
ROUNDS = 6


class ComputedOrder:
    """Permutation of the rows of an epoch, by seed, epoch and size alone.

    >>> sorted(ComputedOrder()(0, 0, 5).tolist())
    [0, 1, 2, 3, 4]
    """

    def __call__(self, seed: int, epoch: int, n: int) -> Ints:
        """All rows of an epoch. [n]"""
        return self.at(seed, epoch, n, np.arange(n, dtype=np.int64))

    def at(self, seed: int, epoch: int, n: int, place_S: Ints) -> Ints:
        """Rows at these places of an epoch. [S]"""
        keys = keyed_rng(seed, "computed order", epoch).integers(0, 2**64, ROUNDS, dtype=np.uint64)
        half = np.uint64(max(1, (int(n - 1).bit_length() + 1) // 2))
        value_S = _permuted(place_S.astype(np.uint64), keys, half)
        while len(outside := np.flatnonzero(value_S >= n)):
            value_S[outside] = _permuted(value_S[outside], keys, half)
        return value_S.astype(np.int64)


def _permuted(value_S: Words, keys: Words, half: np.uint64) -> Words:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left_S, right_S = value_S >> half, value_S & mask
    for key in keys:
        left_S, right_S = right_S, left_S ^ (_mixed(right_S ^ key) & mask)
    return (left_S << half) | right_S


def _mixed(word_S: Words) -> Words:
    with np.errstate(over="ignore"):
        word_S = word_S + np.uint64(0x9E3779B97F4A7C15)
        word_S = (word_S ^ (word_S >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word_S = (word_S ^ (word_S >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word_S ^ (word_S >> np.uint64(31))


computed_order = ComputedOrder()


def default_order(rows: int, version: int = VERSION) -> Order:
    """Order of this many rows where a recipe has none of its own; `version`: that of a run that goes on."""
    return computed_order if rows >= COMPUTED_FROM and version >= 2 else order
