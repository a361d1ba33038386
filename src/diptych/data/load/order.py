"""Row order: a pure function of seed, epoch and size, so that any position can be recomputed anywhere.

Epochs are concatenated; a batch is a span of positions and may cross the seam between two of them, so no row is ever dropped.
Letters: N rows, S positions of a span.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import Order
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng

Ints = npt.NDArray[np.int64]


@lru_cache(maxsize=4)
def order(seed: int, epoch: int, n: int) -> Ints:
    """Random permutation of n rows; 8 bytes per row, cached for the epochs in use, read-only.

    >>> sorted(order(0, 5, 4).tolist())
    [0, 1, 2, 3]
    """
    row_N = keyed_rng(seed, "order", epoch).permutation(n)
    row_N.flags.writeable = False
    return row_N


@dataclass(frozen=True)
class WeightedOrder:
    """Order that draws row i about `weights[i] / mean(weights)` times per epoch: rounded down or up, never further off.

    Balanced sampling of concepts or clusters. Weights are one per row, not negative. Evenly spaced pointers with one random
    offset choose the rows, a permutation mixes them.
    """

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        weight_N = np.asarray(self.weights, np.float64)
        if not weight_N.size or not np.isfinite(weight_N).all() or weight_N.min() < 0 or weight_N.sum() <= 0:
            raise ConfigError("weights must be finite, not negative and not all 0, one per row")

    def __call__(self, seed: int, epoch: int, n: int) -> Ints:
        if n != len(self.weights):
            raise ConfigError(f"{len(self.weights)} weights for {n} rows (expected one per row)")
        return _weighted_order(self.weights, seed, epoch)


@lru_cache(maxsize=4)
def _weighted_order(weights: tuple[float, ...], seed: int, epoch: int) -> Ints:
    n = len(weights)
    rng = keyed_rng(seed, "weighted order", epoch)
    edge_N = np.cumsum(np.asarray(weights, np.float64))
    pointer_N = (np.arange(n) + rng.random()) * (edge_N[-1] / n)
    row_N = np.minimum(np.searchsorted(edge_N, pointer_N, side="right"), np.flatnonzero(weights)[-1])
    row_N = rng.permutation(row_N)
    row_N.flags.writeable = False
    return row_N


@dataclass(frozen=True)
class WholeBatchOrder:
    """Passes of whole batches of `size` rows: what does not fill the last batch of a pass is left out of it, other rows in each
    pass, as by torch's `drop_last`. An epoch is n rows like any other, and may hold the end of one pass and the start of the next."""

    size: int

    def __call__(self, seed: int, epoch: int, n: int) -> Ints:
        held = n // max(1, self.size) * self.size
        if not held:
            raise ConfigError(f"{n} rows do not fill a batch of {self.size} (expected as many rows or more)")
        pass_N, place_N = np.divmod(np.arange(epoch * n, (epoch + 1) * n), held)
        return np.concatenate([order(seed, number, n)[place_N[pass_N == number]] for number in np.unique(pass_N).tolist()])


class SourceBlockOrder:
    """An order in blocks of `members` rows of one source: where processes draw a source each for a whole batch of theirs, as in LAVIS and
    MiniGPT-4. A block's source is drawn by its weight, its rows each again from all of the source, so that an epoch is n rows of
    which some come several times.

    sources  of every row
    weights  of the sources that are drawn; rows of others never come
    """

    def __init__(self, sources: Sequence[str], weights: Mapping[str, float], members: int) -> None:
        if members < 1 or not weights or min(weights.values()) <= 0:
            raise ConfigError(
                f"blocks of {members} rows of sources with weights {dict(weights)} (expected 1 or more, and above 0)"
            )
        self.count, self.members = len(sources), members
        source_N = np.asarray(sources)
        self._rows = [np.flatnonzero(source_N == name) for name in weights]
        for name, rows in zip(weights, self._rows, strict=True):
            if not len(rows):
                names = ", ".join(sorted(set(sources))[:8]) or "none"
                raise DataError(f"no row is of source '{name}'", field="source", expected=f"one of {names}")
        self._edges = np.cumsum(list(weights.values()))

    def __call__(self, seed: int, epoch: int, n: int) -> Ints:
        if n != self.count:
            raise ConfigError(f"{self.count} sources for {n} rows (expected one per row)")
        return rows_of_blocks(self, seed, epoch)

    def block(self, seed: int, number: int) -> Ints:
        """The rows of the block of that number, counted over all epochs."""
        rng = keyed_rng(seed, "source block", number)
        rows = self._rows[int(np.searchsorted(self._edges, rng.random() * self._edges[-1], side="right"))]
        block: Ints = rows[rng.integers(len(rows), size=self.members)]
        return block


class BlockOrder(Protocol):
    """Order whose rows come in blocks of this many `members`, numbered over all epochs of `count` rows."""

    count: int
    members: int

    def block(self, seed: int, number: int) -> Ints: ...


@lru_cache(maxsize=4)
def rows_of_blocks(order: BlockOrder, seed: int, epoch: int) -> Ints:
    """Rows of an epoch, block by block; it may begin and end within a block."""
    first = epoch * order.count
    begin, end = first // order.members, (first + order.count - 1) // order.members + 1
    row_N = np.concatenate([order.block(seed, number) for number in range(begin, end)])
    row_N = row_N[first - begin * order.members :][: order.count]
    row_N.flags.writeable = False
    return row_N


Small = Literal["repeat", "leave", "refuse"]


class GroupedOrder:
    """Order in blocks of `members` rows of one group: a batch of P * members rows holds P whole groups ("P x K" batches).

    Every group has had as many blocks as every other, or one more. A group goes through its members in a random order and starts again
    with another; what is left of fewer than `members` waits for the next time. Blocks run on over the seam of two epochs, and an epoch
    is n rows like any other, though not each row once. Blocks of one member are no blocks: the order is then `order` itself, each row
    once an epoch, so that K = 1 is plain sampling.

    groups  the group of every row; the batch has it as `group_B` (`data.load.batch.group_ids`)
    small   what becomes of a group of fewer than `least` rows: its block is filled with repeats ("repeat"), its rows are left out
            ("leave"), or it is refused by name ("refuse"). Larger ones of fewer than `members` rows are filled with repeats
    least   0 takes `members`; 2 finds groups that have no second row at all
    always  one truth per row: those rows are in every block of their group, and the others take turns in the rest of it (KEP keeps a
            concept's main name in every block of its texts)
    again   the rows of a block are redrawn each time, with repeats, instead of going through the group (KEEP's released code)
    apart   this many blocks in a row are of different groups: P, for batches that hold no group twice. 0 asks for nothing, and a
            batch that holds the end of one round of the groups and the start of the next may then hold a group twice
    """

    def __init__(
        self,
        groups: Sequence[str],
        members: int,
        *,
        small: Small = "repeat",
        least: int = 0,
        apart: int = 0,
        again: bool = False,
        always: Sequence[bool] = (),
    ) -> None:
        if members < 1 or not len(groups):
            raise ConfigError(f"blocks of {members} members in {len(groups)} rows (expected one or more of each)")
        if small not in ("repeat", "leave", "refuse"):
            raise ConfigError(f"small is {small!r} (expected repeat | leave | refuse)")
        if always and (len(always) != len(groups) or again):
            raise ConfigError(f"always has {len(always)} rows of {len(groups)} (expected one truth a row, and not with again)")
        self.count, self.members, self.apart, self.again = len(groups), members, apart, again
        self._always_N = np.asarray(always, bool) if always else np.zeros(len(groups), bool)
        names, group_N = np.unique(np.asarray(groups), return_inverse=True)
        sorted_N = np.argsort(group_N, kind="stable")
        rows = np.split(sorted_N, np.flatnonzero(np.diff(group_N[sorted_N])) + 1)
        least = least or members
        few = [at for at, of_group in enumerate(rows) if len(of_group) < least]
        if few and small == "refuse":
            raise DataError(
                f"groups of fewer than {least} rows: {len(few)}, the first '{names[few[0]]}' of {len(rows[few[0]])}",
                field="group",
                expected=f"{least} rows in every group, or small groups repeated or left out",
            )
        self._rows = [of_group for of_group in rows if len(of_group) >= least] if small == "leave" else rows
        if not self._rows:
            raise DataError(
                f"no group has {members} rows", field="group", expected="fewer members a block, or groups of more rows"
            )
        if apart > 1 and len(self._rows) < 3 * apart:
            raise ConfigError(
                f"{len(self._rows)} groups cannot be kept {apart} blocks apart in a random order (expected {3 * apart} groups or more)"
            )

    def __call__(self, seed: int, epoch: int, n: int) -> Ints:
        if n != self.count:
            raise ConfigError(f"{self.count} groups for {n} rows (expected one per row)")
        return order(seed, epoch, n) if self.members == 1 else rows_of_blocks(self, seed, epoch)

    def block(self, seed: int, number: int) -> Ints:
        """The rows of the block of that number, counted over all epochs."""
        turn, position = divmod(number, len(self._rows))
        group = int(_apart(seed, turn, len(self._rows), self.apart)[position])
        rows = self._rows[group]
        if self.again:
            drawn: Ints = keyed_rng(seed, "members", group, turn, "again").choice(rows, self.members)
            return drawn
        stays = rows[self._always_N[rows]][: self.members - 1]
        others = np.setdiff1d(rows, stays, assume_unique=True) if len(stays) else rows
        if not len(others):
            return np.resize(stays, self.members)
        room = self.members - len(stays)
        passed, part = divmod(turn, max(len(others) // room, 1))
        shuffled = keyed_rng(seed, "members", group, passed).permutation(others)
        block: Ints = np.concatenate([stays, np.resize(shuffled[part * room : (part + 1) * room], room)])
        return block


@lru_cache(maxsize=4)
def _turn(seed: int, turn: int, groups: int) -> Ints:
    return keyed_rng(seed, "groups", turn).permutation(groups)


@lru_cache(maxsize=4)
def _apart(seed: int, turn: int, groups: int, apart: int) -> Ints:
    """Permuted groups of a turn, of which the first `apart - 1` are none of the last this many of the turn before.

    Only places between the first and the last `apart - 1` give way, so that the end of a turn is always that of its permutation.
    """
    drawn = _turn(seed, turn, groups)
    edge = apart - 1
    if edge < 1 or not turn:
        return drawn
    before = set(_turn(seed, turn - 1, groups)[-edge:].tolist())
    drawn = drawn.copy()
    free = (position for position in range(edge, groups - edge) if int(drawn[position]) not in before)
    for position in range(edge):
        if int(drawn[position]) in before:
            other = next(free)
            drawn[[position, other]] = drawn[[other, position]]
    return drawn


def span(seed: int, n: int, start: int, stop: int, *, order: Order = order) -> tuple[Ints, Ints]:
    """Epoch and row of the positions start..stop-1 of the concatenated epochs.

    >>> epoch_S, row_S = span(0, 3, 2, 7)
    >>> epoch_S.tolist()
    [0, 1, 1, 1, 2]
    """
    if n < 1:
        raise ConfigError("there are no rows to put in order (expected at least one sample)")
    position_S = np.arange(start, stop, dtype=np.int64)
    epoch_S, place_S = np.divmod(position_S, n)
    row_S = np.empty_like(place_S)
    at = getattr(order, "at", None)  # an order that is computed gives these places alone
    for epoch in np.unique(epoch_S).tolist():
        here_S = epoch_S == epoch
        row_S[here_S] = at(seed, epoch, n, place_S[here_S]) if at else order(seed, epoch, n)[place_S[here_S]]
    return epoch_S, row_S
