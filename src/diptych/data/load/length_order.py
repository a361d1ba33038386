"""Row order in which the rows of a step have similar lengths, and either all or none of them an image (LLaVA 1.5, 2310.03744).

Letters: N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng
from diptych.data.load.order import Ints

Permutation = Callable[[str, int], Sequence[int]]
"""A permutation of so many things by the name of what is permuted: "image", "text" or "batches"."""


class LengthGroupedOrder:
    """Order of `group_by_modality_length`: batches of `members` * `parts` rows are drawn from rows with an image or from rows without,
    sorted by length, and dealt to `parts` of nearly equal total length, which follow one another. The two batches that are not full come
    last, as one in the order of the rows.

    lengths  [N] words of each row, negative for a row without an image
    members  rows of a part: of a process
    """

    def __init__(self, lengths: Sequence[int] | Ints, members: int, parts: int) -> None:
        if members < 1 or parts < 1 or 0 in lengths:
            raise ConfigError(f"parts of {members} rows, {parts} a batch (expected 1 or more each), and no length of 0")
        self.lengths, self.members, self.parts = np.asarray(lengths, np.int64), members, parts

    def __call__(self, seed: int, epoch: int, n: int) -> Ints:
        if n != len(self.lengths):
            raise ConfigError(f"{len(self.lengths)} lengths for {n} rows (expected one a row)")
        return _order_of_epoch(self, seed, epoch)


@lru_cache(maxsize=4)
def _order_of_epoch(order: LengthGroupedOrder, seed: int, epoch: int) -> Ints:
    def permutation(name: str, count: int) -> Sequence[int]:
        drawn: list[int] = keyed_rng(seed, "length order", epoch, name).permutation(count).tolist()
        return drawn

    row_N = np.array(grouped_by_modality(order.lengths.tolist(), order.members, order.parts, permutation), np.int64)
    row_N.flags.writeable = False
    return row_N


def grouped_by_modality(lengths: Sequence[int], members: int, parts: int, permutation: Permutation) -> list[int]:
    """Rows in the order of `LengthGroupedOrder`, [N]."""
    with_image = [row for row, length in enumerate(lengths) if length > 0]
    without = [row for row, length in enumerate(lengths) if length < 0]
    if not with_image or not without:
        return grouped_by_length([abs(length) for length in lengths], members, parts, permutation("image", len(lengths)))
    batches, rest = list[list[int]](), list[int]()
    for name, rows in (("image", with_image), ("text", without)):
        sizes = [abs(lengths[row]) for row in rows]
        grouped = [rows[at] for at in grouped_by_length(sizes, members, parts, permutation(name, len(rows)))]
        some = [grouped[start : start + members * parts] for start in range(0, len(grouped), members * parts)]
        batches += some[:-1]
        rest += some[-1]
    return [row for at in permutation("batches", len(batches)) for row in batches[at]] + sorted(rest)


def grouped_by_length(lengths: Sequence[int], members: int, parts: int, permutation: Sequence[int]) -> list[int]:
    """Rows in batches of `members` * `parts` of a permutation, each sorted from long to short and dealt to its parts, [N]."""
    size, rows = members * parts, list[int]()
    for start in range(0, len(permutation), size):
        batch = sorted(permutation[start : start + size], key=lambda row: -lengths[row])
        rows += [row for part in even_parts(batch, lengths, parts) for row in part]
    return rows


def even_parts(rows: Sequence[int], lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Rows dealt one by one to the part with the least total length that is not full; every `parts`-th row where parts cannot be equal.

    >>> even_parts([0, 1, 2, 3], [9, 5, 3, 1], 2)
    [[0, 3], [1, 2]]
    """
    if len(rows) % parts:
        return [list(rows[first::parts]) for first in range(parts)]
    dealt, totals = [list[int]() for _ in range(parts)], [0.0] * parts
    for row in rows:
        least = totals.index(min(totals))
        dealt[least].append(row)
        totals[least] = float("inf") if len(dealt[least]) == len(rows) // parts else totals[least] + lengths[row]
    return dealt
