"""Items of an index that the data of a service contain: none means other data, and a few are shown on the start page."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from diptych.core.contracts import Dataset
from diptych.core.errors import ConfigError
from diptych.serve.collection.served_data import ServedData

SHOWN = 12


def indexed_uids(pool: Dataset | None, uids: Collection[str]) -> list[str]:
    """The uids of an index that the data hold, in the order of the data."""
    return [] if pool is None else [uid for uid in pool.uids if uid in uids]


def evenly_spaced(uids: Sequence[str], count: int = SHOWN) -> list[str]:
    """At most `count` of them, evenly from the first to the last.

    >>> evenly_spaced(["a", "b", "c", "d", "e"], 3)
    ['a', 'c', 'e']
    """
    if len(uids) <= count:
        return list(uids)
    return [uids[round(step * (len(uids) - 1) / (count - 1))] for step in range(count)]


def count_missing(data: ServedData, uids: Collection[str]) -> int:
    """Number of index items that are not in the data. Raises ConfigError if that is all of them: the index is of other data."""
    if not data or not uids:
        return 0
    there = sum(uid in uids for uid in data.uids())
    if not there:
        example = min(uids)
        raise ConfigError(
            f"the data hold none of the {len(uids):,} items of the index, such as '{example}' (expected the data that it was built from)"
        )
    return len(uids) - there
