"""An order in which groups go through their rows in blocks, and large groups come as often as they have blocks (KEP, 2404.09942).

Letters: N rows, T blocks of a round, K members of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng
from diptych.data.load.order import rows_of_blocks

Ints = npt.NDArray[np.int64]


class ExhaustiveGroupOrder:
    """Batches of `held` different groups, `members` rows of each, drawn until fewer than `held` groups have rows left.

    In a round each group is cut, in a random order, into blocks of one of its `always` rows and `members - 1` others; what is left is
    filled with repeats, and so is a group of fewer than `members` rows. Each batch draws its groups evenly among those that have a block
    left. So a group of many rows comes more often than one of few, where `Grouped` takes all groups equally often. All rounds are equally
    long, as long as all blocks would be: one that ends before goes on with another, which is cut short.

    groups  the group of every row
    always  one truth per row: rows that are in every block of their group, of which the first in its round's order is taken; a group
            without one has its first row there
    """

    def __init__(self, groups: Sequence[str], members: int, held: int, *, always: Sequence[bool]) -> None:
        names, group_N = np.unique(np.asarray(groups), return_inverse=True)
        if members < 2 or held < 1 or len(names) < held or len(always) != len(groups):
            raise ConfigError(
                f"{len(names)} groups of {len(groups)} rows for batches of {held} groups of {members} rows, {len(always)} truths "
                f"(expected {held} groups or more, two members or more, and a truth for every row)"
            )
        self.count, self.members, self.held = len(groups), members, held
        self.always_N = np.asarray(always, bool)
        self.rows = [np.flatnonzero(group_N == number) for number in range(len(names))]
        total = sum(1 if len(rows) < members else -(-(len(rows) - 1) // (members - 1)) for rows in self.rows)
        self.blocks = max(1, total // held) * held

    def __call__(self, seed: int, epoch: int, n: int) -> Ints:
        if n != self.count:
            raise ConfigError(f"{self.count} groups for {n} rows (expected one per row)")
        return rows_of_blocks(self, seed, epoch)

    def block(self, seed: int, number: int) -> Ints:
        """The rows of the block of that number, counted over all rounds."""
        turn, position = divmod(number, self.blocks)
        row_K: Ints = _round(self, seed, turn)[position]
        return row_K

    def cut(self, rows: Ints, rng: np.random.Generator) -> list[Ints]:
        """The blocks of a group."""
        if len(rows) < self.members:
            return [rng.permutation(np.concatenate([rows, rng.choice(rows, self.members - len(rows))]))]
        shuffled = rng.permutation(rows)
        stays = int(np.flatnonzero(self.always_N[shuffled])[0]) if self.always_N[shuffled].any() else 0
        others, step = shuffled[~self.always_N[shuffled]] if self.always_N[shuffled].any() else shuffled[1:], self.members - 1
        blocks = [np.append(others[at : at + step], shuffled[stays]) for at in range(0, len(others), step)]
        if len(blocks[-1]) < self.members:
            more = rng.choice(blocks[-1], self.members - len(blocks[-1]))
            blocks[-1] = rng.permutation(np.concatenate([blocks[-1], more]))
        return blocks


@lru_cache(maxsize=4)
def _round(order: ExhaustiveGroupOrder, seed: int, turn: int) -> Ints:
    """[T, K]."""
    rng, blocks = keyed_rng(seed, "used up", turn), list[Ints]()
    while len(blocks) < order.blocks:
        left = {number: order.cut(rows, rng) for number, rows in enumerate(order.rows)}
        while len(left) >= order.held:
            there = np.fromiter(left, np.int64, len(left))
            for number in rng.choice(there, order.held, replace=False).tolist():
                blocks.append(left[number].pop(0))
                if not left[number]:
                    del left[number]
    return np.stack(blocks[: order.blocks])
