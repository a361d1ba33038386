"""Leak-free splits, and a report on leaks between existing ones.

The unit is the group (patient, article, concept), joined with every other sample that shows the same image: all of it goes to
one split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_seed
from diptych.data.columns import MadeBy, write_table
from diptych.data.dataset import Pool

Ints = npt.NDArray[np.int64]
Tie = Literal["group", "image", "text"]
TIES: tuple[Tie, ...] = ("group", "image", "text")


def split(
    pool: Pool, shares: Mapping[str, float] | None = None, *, seed: int = 0, together: Sequence[Tie] = ("group", "image")
) -> Pool:
    """The same rows with a new column "split".

    shares    of the samples, such as ``{"train": 0.8, "val": 0.1, "test": 0.1}`` (the default); scaled to sum to one
    together  what must not be parted: rows of a group, rows with the same image (sha256, where known), rows that share a text.
              Sharing is transitive; with "text", common captions can tie a large part of the data together
    Units are dealt from the largest down, equal ones in the order of a hash of (seed, name), each to the split that lacks most of
    its share. So the result depends on the set of samples and the seed, never on the order of rows. Raises when a split would get
    no sample.
    """
    shares = dict(shares or {"train": 0.8, "val": 0.1, "test": 0.1})
    if not shares or min(shares.values()) <= 0:
        raise ConfigError(f"shares are {shares} (expected a number above 0 for each split)")
    if unknown := [tie for tie in together if tie not in TIES]:
        raise ConfigError(f"together holds {unknown[0]!r} (expected {', '.join(TIES)})")
    names, total = list(shares), sum(shares.values())
    units: dict[int, list[int]] = defaultdict(list)
    for row, unit in enumerate(units_of(pool, together)):
        units[int(unit)].append(row)
    uids = pool.uids
    dealt = sorted(units.values(), key=lambda rows: (-len(rows), keyed_seed(seed, "split", min(uids[row] for row in rows))))
    want = np.array([len(pool) * shares[name] / total for name in names])
    have = np.zeros(len(names))
    assigned = [""] * len(pool)
    for rows in dealt:
        best = int(np.argmax((want - have) / want))
        have[best] += len(rows)
        for row in rows:
            assigned[row] = names[best]
    if len(pool) and (empty := [name for name, count in zip(names, have, strict=True) if not count]):
        raise ConfigError(
            f"split '{empty[0]}' would get no sample: {len(units)} units of {len(pool)} samples for {len(names)} splits"
        )
    return pool.with_columns({"split": assigned})


def units_of(pool: Pool, together: Sequence[Tie]) -> Any:
    """Number of the unit of each row; rows that must stay together have the same."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows, keys, size = [], [], len(pool)
    for tie in together:
        row_V, key_V = _keys_of_rows(pool, tie)
        rows.append(row_V)
        keys.append(size + key_V)
        size += int(key_V.max(initial=-1)) + 1
    row_V, key_V = (np.concatenate([np.zeros(0, np.int64), *parts]) for parts in (rows, keys))
    graph = coo_matrix((np.ones(len(row_V), np.int8), (row_V, key_V)), shape=(size, size))
    return connected_components(graph, directed=False)[1][: len(pool)]


def _keys_of_rows(pool: Pool, tie: Tie) -> tuple[Ints, Ints]:
    """row_V and key_V: rows with equal keys have the same group, the same hash of their image, or a text in common (case and outer
    space aside). A row may come several times, with as many keys, or not at all."""
    if tie == "group":
        return np.arange(len(pool)), _codes(pa.array(pool.groups, pa.string()))
    if tie == "image":
        sha256 = pool.column("sha256") if "sha256" in pool.column_names else [None] * len(pool)
        hashes = pa.array(sha256, pa.string())
        row_V = np.flatnonzero(pc.not_equal(hashes, "").fill_null(False).to_numpy(zero_copy_only=False))
        return row_V, _codes(hashes.take(pa.array(row_V)))
    texts = pool.texts
    strings = texts.column("string").dictionary_encode()
    plain = pa.array([" ".join(string.casefold().split()) for string in strings.dictionary.to_pylist()], pa.large_string())
    key_V = _codes(plain)[strings.indices.to_numpy(zero_copy_only=False)]
    filled = pc.not_equal(plain, "").take(strings.indices)
    counts = pc.and_(filled, pc.not_equal(texts.column("origin"), "negative")).to_numpy(zero_copy_only=False)
    return texts.rows()[counts], key_V[counts]


def _codes(names: pa.Array) -> Ints:
    """Integer code of each name, in order of first appearance."""
    codes: Ints = names.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def leak_of_row_split(groups: Sequence[str], *, shares: Sequence[float] = (0.7, 0.1, 0.2), seed: int = 0) -> float:
    """Share of the last split's rows whose group would also be in the first, were rows dealt one by one and not by group: of NIH
    ChestX-ray14 four in five, which makes a test of patients a test of memory. 0 where each row is a group of its own."""
    if not len(groups) or not shares or min(shares) <= 0:
        raise ConfigError(f"{len(groups)} rows, shares {tuple(shares)} (expected one row or more, and numbers above 0)")
    code_N = _codes(pa.array(groups, pa.string()))[np.random.default_rng(seed).permutation(len(groups))]
    first, last = (round(len(groups) * share / sum(shares)) for share in (shares[0], shares[-1]))
    tested = code_N[len(groups) - last :]
    return float(np.isin(tested, code_N[:first]).mean()) if len(tested) else 0.0


def save_split(folder: Path, pool: Pool, made_by: MadeBy) -> Path:
    """Save the splits of `pool` with a built folder: `open_built` applies them from now on."""
    table = pa.table({"uid": pa.array(pool.uids, pa.string()), "split": pa.array(pool.column("split"), pa.string())})
    return write_table(folder, "split", table, made_by)


# ---------------------------------------------------------------- leaks


@dataclass(frozen=True, slots=True)
class Leak:
    """Overlap of two splits. `shared` counts groups, images or texts; `rows` the samples of both that carry them."""

    kind: Tie
    splits: tuple[str, str]
    shared: int
    rows: int
    examples: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        one, other = self.examples[0]
        things = {"group": "group", "image": "identical image", "text": "identical text"}[self.kind]
        what = f"{self.shared:,} {things}{'' if self.shared == 1 else 's'}"
        return f"{' and '.join(self.splits)} share {what} ({self.rows:,} samples, such as {one} and {other})"


@dataclass(frozen=True, slots=True)
class LeakReport:
    """Every leak between any two splits. `checked` lists the kinds that could be checked (images need hashes: build first)."""

    leaks: tuple[Leak, ...]
    checked: tuple[Tie, ...]

    @property
    def clean(self) -> bool:
        return not self.leaks

    def lines(self) -> list[str]:
        return [str(leak) for leak in self.leaks] or [f"no leak between splits by {', '.join(self.checked)}"]

    def to_json(self) -> dict[str, Any]:
        return {"clean": self.clean, "known": list(self.checked), "leaks": [asdict(leak) for leak in self.leaks]}


def leaks(pool: Pool, *, examples: int = 3) -> LeakReport:
    """Overlaps between any two splits, in the order of rows. Rows without a split are ignored."""
    names, uids = pool.split_names, pool.uids
    split_N = pc.index_in(pa.array(pool.column("split"), pa.string()), value_set=pa.array(names, pa.string()))
    split_N = split_N.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    leaks: list[Leak] = []
    checked: list[Tie] = []
    for tie in TIES:
        row_V, key_V = _keys_of_rows(pool, tie)
        if tie == "image" and not len(row_V):
            continue
        checked.append(tie)
        common = _Common.of(row_V, key_V, split_N, len(names))
        pair_C = common.one * len(names) + common.other
        by_pair = np.argsort(pair_C, kind="stable")
        starts = np.unique(pair_C[by_pair], return_index=True)[1]
        for line_C in sorted(np.split(by_pair, starts[1:]) if len(starts) else [], key=lambda line_C: int(line_C[0])):
            shown = [(uids[common.row[c]], uids[common.other_row[c]]) for c in line_C[:examples].tolist()]
            one, other = names[common.one[line_C[0]]], names[common.other[line_C[0]]]
            leaks.append(Leak(tie, (one, other), len(line_C), int(common.rows[line_C].sum()), tuple(shown)))
    return LeakReport(tuple(leaks), tuple(checked))


@dataclass(frozen=True, slots=True)
class _Common:
    """Keys that two splits share, a line per key and pair of splits, in order of the key's first row: the splits by number, the first row
    of each that has the key, and the number of rows of both that have it.
    """

    one: Ints
    other: Ints
    row: Ints
    other_row: Ints
    rows: Ints

    @classmethod
    def of(cls, row_V: Ints, key_V: Ints, split_N: Ints, splits: int) -> _Common:
        has_split = split_N[row_V] >= 0
        row_V, key_V = row_V[has_split], key_V[has_split]
        _, first, key_V = np.unique(key_V, return_index=True, return_inverse=True)
        key_V = np.argsort(np.argsort(first))[key_V.reshape(-1)]  # in order of first appearance
        key_U, row_U = np.divmod(np.unique(key_V * len(split_N) + row_V), max(len(split_N), 1))  # a row has a key once
        order = np.lexsort((row_U, split_N[row_U], key_U))
        place_U = (key_U * max(splits, 1) + split_N[row_U])[order]
        place_P, start, count = np.unique(place_U, return_index=True, return_counts=True)
        key_P, split_P = np.divmod(place_P, max(splits, 1))
        row_P = row_U[order][start]
        steps = range(1, int(np.bincount(key_P).max(initial=1)))  # the splits of a key stand side by side
        parts = [np.flatnonzero(key_P[:-step] == key_P[step:]) for step in steps]
        left = np.concatenate([np.zeros(0, np.int64), *parts])
        right = left + np.repeat(np.array(steps, np.int64), [len(part) for part in parts])
        order = np.lexsort((right, left))
        left, right = left[order], right[order]
        return cls(split_P[left], split_P[right], row_P[left], row_P[right], count[left] + count[right])
