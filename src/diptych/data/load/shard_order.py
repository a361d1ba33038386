"""Order of rows whose shards are fetched from object storage: a few shards at a time, so that each is fetched once per epoch.

Letters: N rows, S shards.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import Dataset
from diptych.core.disk.remote_folder import fetch_ahead, is_remote
from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng
from diptych.data.media.images import Slices

Ints = npt.NDArray[np.int64]
WINDOW = 16
"""Shards whose rows are mixed."""


class ShardOrder:
    """Shards in a random order, rows at random within each `window` of them; a function of seed and epoch, each row once an epoch.

    Batches are less mixed than with a permutation of all rows: two rows of one shard are closer to each other.
    `diptych data build` writes samples to shards in a random order, so that a shard is itself a mixture.

    file_N  the shard of each row; -1 for a row without
    """

    def __init__(self, file_N: npt.NDArray[np.int32], window: int = WINDOW) -> None:
        if window < 1:
            raise ConfigError(f"a window of {window} shards (expected 1 or more)")
        self.file_N, self.window = file_N, window

    def __call__(self, seed: int, epoch: int, n: int) -> Ints:
        if n != len(self.file_N):
            raise ConfigError(f"{len(self.file_N)} shards for {n} rows (expected one per row)")
        return _mixed_rows(self, seed, epoch)


@lru_cache(maxsize=2)
def _mixed_rows(order: ShardOrder, seed: int, epoch: int) -> Ints:
    rng = keyed_rng(seed, "shard order", epoch)
    shard_S, number_N = np.unique(order.file_N, return_inverse=True)
    place_S = rng.permutation(len(shard_S))
    row_N = np.lexsort((rng.random(len(number_N)), place_S[number_N] // order.window)).astype(np.int64)
    row_N.flags.writeable = False
    return row_N


def remote_order(data: Dataset) -> ShardOrder | None:
    """The order of data whose images lie in remote shards; None for any other."""
    slices = _remote_slices(data)
    return None if slices is None else ShardOrder(slices.file_N)


class AheadFetcher:
    """Fetches the shards of rows that come soon, in the background. Costs nothing for data on the local disk."""

    def __init__(self, data: Dataset) -> None:
        slices = _remote_slices(data)
        self._files: tuple[Path, ...] = () if slices is None else slices.files
        self._file_N = None if slices is None else slices.file_N

    def __bool__(self) -> bool:
        return self._file_N is not None

    def fetch(self, row_S: Ints) -> None:
        """Begins with the shards of these rows, in their order."""
        if self._file_N is not None:
            numbers = self._file_N[row_S]
            fetch_ahead(self._files[number] for number in dict.fromkeys(numbers[numbers >= 0].tolist()))


def _remote_slices(data: Dataset) -> Slices | None:
    slices = getattr(data, "image_table", None)
    return slices if isinstance(slices, Slices) and slices.files and is_remote(slices.files[0]) else None
