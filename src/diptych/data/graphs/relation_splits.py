"""Reduced or corrupted labels: few-shot subsets, relations hidden from training, wrong predicates. The pictures are unchanged.

few_shot_rows       a share of the images in which every predicate and every object still occurs (HICO-DET 1 % and 10 %)
without_triplets    the annotations of unseen (subject, predicate, object) classes removed (UC-RF, UC-NF, UO)
noisy_predicates    a share of the predicates replaced by wrong ones

What implementations get wrong: unseen classes that stay in because one relation of a pair was dropped and not the other; images
that lost their last relation left out silently (they stay and act as negatives here, as in VCL, FCL and RLIP; `drop_empty`
leaves them out and says so by its number of rows).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from diptych.core.config import config_hash
from diptych.core.contracts import Dataset
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.data.graphs.columns import GraphColumns

Triplet = tuple[str, str, str]


@dataclass(frozen=True)
class Relabelled:
    """Data set whose samples are changed one by one on access; rows, uids and groups are those of `data`.

    change  a pure function of the sample, picklable
    key     plain values that say what it does: part of the fingerprint
    """

    data: Dataset
    change: Callable[[Sample], Sample]
    key: Any
    _cache: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.data.name

    @property
    def fingerprint(self) -> str:
        if not self._cache:
            self._cache["fingerprint"] = config_hash([self.data.fingerprint, self.key])
        return self._cache["fingerprint"]

    @property
    def uids(self) -> Sequence[str]:
        return self.data.uids

    @property
    def groups(self) -> Sequence[str]:
        return self.data.groups

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> Sample:
        return self.change(self.data[row])

    def select(self, rows: Sequence[int]) -> Relabelled:
        return Relabelled(self.data.select(rows), self.change, self.key)

    def split(self, name: str) -> Relabelled:
        return Relabelled(self.data.split(name), self.change, self.key)


def without_triplets(data: Dataset, hidden: Collection[Triplet], *, drop_empty: bool = False) -> Relabelled:
    """The data without any relation of these (subject label, predicate, object label) classes. Regions stay.

    A relation without an object (its object is its subject) is a class of that label with itself.
    `drop_empty` leaves out the images that lose their last relation to this; images that never had one stay.
    """
    classes = tuple(sorted(set(hidden)))
    change = _Without(frozenset(classes))
    changed = Relabelled(data, change, {"without": classes})
    if not drop_empty:
        return changed
    graphs = GraphColumns.of(data)
    stays_R = np.array([triplet not in change.hidden for triplet in graphs.named()], bool)
    image_R = graphs.relations.rows()
    before_N, after_N = (np.bincount(image_R[which_R], minlength=len(data)) for which_R in (np.ones_like(stays_R), stays_R))
    return changed.select(np.flatnonzero((before_N == 0) | (after_N > 0)).tolist())


def noisy_predicates(data: Dataset, share: float, names: Sequence[str], *, seed: int) -> Relabelled:
    """Each relation's predicate replaced, with probability `share`, by another of `names`, all equally likely (RLIP's robustness test:
    0.1, 0.3, 0.5). A sample's noise depends on (seed, uid) alone."""
    if not 0 <= share <= 1 or len(set(names)) < 2:
        raise ConfigError(f"noise on a share of {share} among {len(set(names))} names (expected 0..1, and two names or more)")
    return Relabelled(data, _Noisy(share, tuple(names), seed), {"noisy": share, "names": list(names), "seed": seed})


def few_shot_rows(data: Dataset, share: float, *, seed: int) -> list[int]:
    """Rows, in order, of a random `share` of the images in which every predicate and every label in a relation occurs.

    One image for each predicate first, then one for each label that is still missing, the rest at random. (RLIP draws the rest
    at random and starts over until all labels are there, which at 1 % of a long-tailed set may take for ever.)
    Raises ConfigError when so few images cannot hold all.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share is {share} (expected above 0, at most 1)")
    graphs = GraphColumns.of(data)
    names: list[set[tuple[str, str]]] = [set() for _ in range(len(data))]
    for row, (subject, predicate, other) in zip(graphs.relations.rows().tolist(), graphs.named(), strict=True):
        names[row] |= {("predicate", predicate), ("label", subject), ("label", other)}
    holders: dict[tuple[str, str], list[int]] = {}
    for row, row_names in enumerate(names):
        for name in row_names:
            holders.setdefault(name, []).append(row)
    if not holders:
        raise DataError(f"'{data.name}' has no relations", field="relations", expected="scene graphs")
    rng = keyed_rng("few-shot", seed)
    count = round(share * len(data))
    chosen: dict[int, None] = {}
    covered: set[tuple[str, str]] = set()
    for kind in ("predicate", "label"):
        kind_names = sorted(name for name in holders if name[0] == kind)
        for position in rng.permutation(len(kind_names)):
            if kind_names[position] not in covered:
                row = holders[kind_names[position]][int(rng.integers(len(holders[kind_names[position]])))]
                chosen[row] = None
                covered |= names[row]
    if len(chosen) > count:
        raise ConfigError(
            f"share {share} of {len(data)} images is {count}, but {len(chosen)} were needed to hold every predicate and label "
            f"(expected at least {len(chosen) / len(data):.4f})"
        )
    others = [row for row in range(len(data)) if row not in chosen]
    chosen |= dict.fromkeys(others[position] for position in rng.permutation(len(others))[: count - len(chosen)])
    return sorted(int(row) for row in chosen)


@dataclass(frozen=True)
class _Without:
    hidden: frozenset[Triplet]

    def __call__(self, sample: Sample) -> Sample:
        kept = tuple(
            relation
            for relation, triplet in zip(sample.relations, sample.graph.triplets(), strict=True)
            if triplet not in self.hidden
        )
        return sample if len(kept) == len(sample.relations) else replace(sample, relations=kept)


@dataclass(frozen=True)
class _Noisy:
    share: float
    names: tuple[str, ...]
    seed: int

    def __call__(self, sample: Sample) -> Sample:
        rng = keyed_rng("noisy predicates", self.seed, sample.uid)
        return replace(
            sample, relations=tuple(replace(r, predicate=self._draw_predicate(r.predicate, rng)) for r in sample.relations)
        )

    def _draw_predicate(self, predicate: str, rng: np.random.Generator) -> str:
        wrong, others = rng.random() < self.share, [name for name in self.names if name != predicate]
        drawn = others[int(rng.integers(len(others)))]
        return drawn if wrong else predicate
