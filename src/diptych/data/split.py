"""Splits that do not leak, and a report on those that do.

The unit is the group (patient, article, concept), joined with every other sample that shows the same image: all of it goes to
one split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_seed
from diptych.data.columns import MadeBy, write_table
from diptych.data.dataset import Pool

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
    for row, unit in enumerate(_units(pool, together)):
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


def _units(pool: Pool, together: Sequence[Tie]) -> Any:
    """A number a row; rows that must stay together have the same."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows, keys = [], []
    names: dict[tuple[str, str], int] = {}
    for tie in together:
        for row, values in enumerate(_values(pool, tie)):
            for value in values:
                rows.append(row)
                keys.append(len(pool) + names.setdefault((tie, value), len(names)))
    size = len(pool) + len(names)
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, keys)), shape=(size, size))
    return connected_components(graph, directed=False)[1][: len(pool)]


def _values(pool: Pool, tie: Tie) -> list[list[str]]:
    """What each row shares: its group, the hash of its image, its texts (case and outer space aside)."""
    if tie == "group":
        return [[group] for group in pool.groups]
    if tie == "image":
        hashes = pool.column("sha256") if "sha256" in pool.column_names else [None] * len(pool)
        return [[value] if value else [] for value in hashes]
    texts: list[list[str]] = [[] for _ in range(len(pool))]
    row_of = {uid: row for row, uid in enumerate(pool.uids)}
    table = pool.texts_table()
    for uid, string, origin in zip(*(table[name].to_pylist() for name in ("uid", "string", "origin")), strict=True):
        if origin != "negative" and (plain := " ".join(string.casefold().split())):
            texts[row_of[uid]].append(plain)
    return texts


def save_split(folder: Path, pool: Pool, made_by: MadeBy) -> Path:
    """Keep the splits of `pool` with a built folder: `open_built` applies them from now on."""
    table = pa.table({"uid": pa.array(pool.uids, pa.string()), "split": pa.array(pool.column("split"), pa.string())})
    return write_table(folder, "split", table, made_by)


# ---------------------------------------------------------------- leaks


@dataclass(frozen=True, slots=True)
class Leak:
    """Two splits that share something. `shared` counts groups, images or texts; `rows` the samples of both that carry them."""

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
    """Every leak between any two splits. `known` says which kinds could be checked (images need hashes: build first)."""

    leaks: tuple[Leak, ...]
    known: tuple[Tie, ...]

    @property
    def clean(self) -> bool:
        return not self.leaks

    def lines(self) -> list[str]:
        return [str(leak) for leak in self.leaks] or [f"no leak between splits by {', '.join(self.known)}"]

    def to_json(self) -> dict[str, Any]:
        return {"clean": self.clean, "known": list(self.known), "leaks": [asdict(leak) for leak in self.leaks]}


def leaks(pool: Pool, *, examples: int = 3) -> LeakReport:
    """What any two splits share. Rows without a split are not looked at."""
    splits, uids = pool.column("split"), pool.uids
    known = [tie for tie in TIES if tie != "image" or any(_values(pool, "image"))]
    found: dict[tuple[Tie, str, str], list[tuple[str, str, int]]] = defaultdict(list)
    order = {name: place for place, name in enumerate(pool.split_names)}
    for tie in known:
        where: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for row, values in enumerate(_values(pool, tie)):
            for value in set(values) if splits[row] else ():
                where[value][splits[row]].append(row)
        for by_split in where.values():
            for one, other in combinations(sorted(by_split, key=order.__getitem__), 2):
                pair = (uids[by_split[one][0]], uids[by_split[other][0]])
                found[tie, one, other].append((*pair, len(by_split[one]) + len(by_split[other])))
    return LeakReport(
        tuple(
            Leak(tie, (one, other), len(items), sum(n for _, _, n in items), tuple((a, b) for a, b, _ in items[:examples]))
            for (tie, one, other), items in found.items()
        ),
        tuple(known),
    )
