"""Scoring of probes with true and false captions: option scores to credits, credits to records and metrics.

Letters: N cases, L options, K kinds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.result import Metric, Result
from diptych.data.probes.case import ROLES, Case
from diptych.tasks._scoring.means import Means
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.records import array, facts_of

Floats = npt.NDArray[np.float64]
MINIMUM = 25  # cases; the published order and relation probes leave smaller kinds out as well
ASIDE = ("blind", "bag_of_words")
FIRST = "_first"
"""Suffix of the columns that hold a scorer's credit when the first of tied options wins."""
_SCHEMA = pa.schema(
    [("uid", pa.string()), ("case", pa.int64()), ("group", pa.string()), ("kind", pa.string())]
    + [(name, pa.list_(pa.string())) for name in ("options", "roles", "names")]
    + [("scores", pa.list_(pa.float64()))]
    + [(name, pa.float64()) for name in ("credit", "wins_true", "wins_entailed", "wins_false", "chance", *ASIDE)]
    + [(name + FIRST, pa.float64()) for name in ("credit", *ASIDE)]
)


def shares(score_L: npt.ArrayLike) -> Floats:
    """Credit of each option for rank 1: 1 for the best, 1/n each if n options tie.

    >>> shares([0.2, 0.7, 0.7])
    array([0. , 0.5, 0.5])
    """
    score = np.asarray(score_L, np.float64)
    best = score == score.max()
    share: Floats = best / best.sum()
    return share


def credit(score_L: npt.ArrayLike, roles: Sequence[str]) -> float:
    """Rank-1 credit of the true options, among true and false options.

    >>> credit([0.9, 0.5, 0.5], ("entailed", "true", "false"))
    0.5
    """
    counted = [i for i, role in enumerate(roles) if role != "entailed"]
    share = shares(np.asarray(score_L, np.float64)[counted])
    return float(sum(share[index] for index, i in enumerate(counted) if roles[i] == "true"))


def first_credit(score_L: npt.ArrayLike, roles: Sequence[str]) -> float:
    """1 if the first of the best-scored options (ignoring entailed ones) is true, else 0: the `argmax` of published code.

    >>> first_credit([0.5, 0.5], ("true", "false")), first_credit([0.5, 0.5], ("false", "true"))
    (1.0, 0.0)
    """
    counted = [i for i, role in enumerate(roles) if role != "entailed"]
    best = int(np.asarray(score_L, np.float64)[counted].argmax())
    return float(roles[counted[best]] == "true")


def probe_records(
    cases: Sequence[Case], scores: Sequence[npt.ArrayLike], aside: Mapping[str, Sequence[npt.ArrayLike]]
) -> pa.Table:
    """Cases and the scores of their options as rows; `aside` holds the scores of image-blind scorers, by name."""
    count: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for row, (case, score) in enumerate(zip(cases, scores, strict=True)):
        won = shares(score)
        wins = {role: float(sum(w for w, r in zip(won, case.roles, strict=True) if r == role)) for role in ROLES}
        rows.append(
            {
                "uid": case.uid,
                "case": count[case.uid],
                "group": case.group,
                "kind": case.kind,
                "options": list(case.options),
                "roles": list(case.roles),
                "names": list(case.names),
                "scores": [float(value) for value in np.asarray(score)],
                "credit": credit(score, case.roles),
                **{f"wins_{role}": share for role, share in wins.items()},
                "chance": case.roles.count("true") / (len(case.roles) - case.roles.count("entailed")),
                **{name: credit(given[row], case.roles) for name, given in aside.items()},
                "credit" + FIRST: first_credit(score, case.roles),
                **{name + FIRST: first_credit(given[row], case.roles) for name, given in aside.items()},
            }
        )
        count[case.uid] += 1
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def counted_kinds(kinds: Mapping[str, int], leave_out: Sequence[str]) -> list[str]:
    """Kinds that count, sorted. Raises an error if `leave_out` has an unknown name or excludes all kinds."""
    for name in leave_out:
        if name not in kinds:
            raise UnknownName("kind to leave out", name, sorted(kinds))
    if not (counted := sorted(set(kinds) - set(leave_out))):
        raise DataError("every kind is left out", field="leave_out", expected=f"one of {', '.join(sorted(kinds))} to remain")
    return counted


def credits(records: pa.Table, column: str, ties: rk.Ties) -> Floats:
    """Credit of a scorer ("credit", "blind", "bag_of_words") for each case under a tie policy, [N]."""
    shared_N: Floats = array(records, column).astype(np.float64)
    if ties == "expected":
        return shared_N
    if ties == "index":
        if column + FIRST not in records.column_names:
            raise DataError(
                f"the records have no column '{column + FIRST}'", field="ties", expected="records made anew by predict"
            )
        first_N: Floats = array(records, column + FIRST).astype(np.float64)
        return first_N
    return (shared_N > 1 - 1e-9 if ties == "pessimistic" else shared_N > 0).astype(np.float64)


def kind_columns(
    records: pa.Table, value_N: Floats, kinds: Sequence[str], *, pooled: bool = False, parts: bool = False
) -> Floats:
    """Values split into one column per kind, [N, K], NaN elsewhere; pooled: all of these kinds in one column. parts: `kinds` are
    prefixes of kinds."""
    kind_N = array(records, "kind")
    if parts:
        kind_N = np.array([kind.partition("/")[0] for kind in kind_N])
    if pooled:
        return np.where(np.isin(kind_N, list(kinds)), value_N, np.nan)[:, None]
    return np.stack([np.where(kind_N == kind, value_N, np.nan) for kind in kinds], axis=1)


# ---------------------------------------------------------------- kinds within kinds


def tree_weights(kinds: Collection[str]) -> dict[str, float]:
    """Weight of each kind in a macro average over a tree of kinds (parts, then their parts): kinds are paths, "relation/left of".

    >>> tree_weights(["relation/on", "relation/under", "order"])
    {'relation/on': 0.25, 'relation/under': 0.25, 'order': 0.5}
    """
    if len(kinds) <= 1:
        return dict.fromkeys(kinds, 1.0)
    parts: dict[str, list[str]] = {}
    for kind in kinds:
        parts.setdefault(kind.partition("/")[0], []).append(kind)
    weights: dict[str, float] = {}
    for head, members in parts.items():
        inner = tree_weights([member.removeprefix(f"{head}/") for member in members])
        weights |= {member: inner[member.removeprefix(f"{head}/")] / len(parts) for member in members}
    return weights


def nodes(kinds: Iterable[str]) -> list[str]:
    """Nodes of the tree of kinds (the kinds and everything above them but the root), in the order of paths.

    >>> nodes(["relation/on", "order"])
    ['order', 'relation', 'relation/on']
    """
    return sorted(
        {"/".join(parts[:depth]) for kind in kinds for parts in [kind.split("/")] for depth in range(1, len(parts) + 1)}
    )


def kinds_below(node: str, kinds: Iterable[str]) -> list[str]:
    """Kinds at or below a node; all of them for ""."""
    return [kind for kind in kinds if not node or kind == node or kind.startswith(f"{node}/")]


@dataclass(frozen=True)
class AveragingOptions:
    """Options of averaging: cases to accuracies by kind and to means over kinds.

    minimum    number of cases that a kind needs to be part of a mean over kinds
    exempt     beginnings of kinds that are exempt from `minimum`
    leave_out  kinds that are left out of all means; they are reported by themselves
    """

    ties: rk.Ties = "expected"
    minimum: int = MINIMUM
    exempt: tuple[str, ...] = ()
    leave_out: Collection[str] = ()
    draws: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        rk.check_ties(self.ties)
        if self.minimum < 1:
            raise ConfigError(f"minimum is {self.minimum} (expected 1 or more)")

    def kinds(self, records: pa.Table) -> Counter[str]:
        """Number of cases by kind. Raises DataError for records without any."""
        if not len(records):
            raise DataError("nothing to score: the records contain no case", expected="one row or more")
        return Counter(records.column("kind").to_pylist())

    def counted(self, kinds: Collection[str]) -> list[str]:
        """Kinds that are not left out. Raises DataError if none remains."""
        counted = [kind for kind in sorted(kinds) if kind not in self.leave_out]
        if not counted:
            raise DataError("every kind is left out", field="leave_out", expected=f"one of {', '.join(sorted(kinds))} to remain")
        return counted

    def frequent_kinds(self, kinds: Mapping[str, int]) -> list[str]:
        """Kinds with enough cases. Raises DataError if there are none."""
        counted = self.counted(kinds)
        kept = [kind for kind in counted if kinds[kind] >= self.minimum or kind.startswith(self.exempt or ("\0",))]
        if not kept:
            largest = max(counted, key=lambda kind: kinds[kind])
            raise DataError(
                f"no kind has {self.minimum} cases (the largest, '{largest}', has {kinds[largest]})",
                field="minimum",
                expected="more cases, or a smaller minimum",
            )
        return kept

    def means(self, records: pa.Table) -> Means:
        """Empty `Means` over the groups of these records."""
        return Means(records.column("group").to_pylist(), draws=self.draws, seed=self.seed)

    def result(self, task: Any, records: pa.Table, **notes: Any) -> Result:
        """Metrics of the records: macro mean over the tree of kinds, every node of it, the mean of all cases, and scorers without
        images."""
        kinds = self.kinds(records)
        names, kept, counted = sorted(kinds), self.frequent_kinds(kinds), self.counted(kinds)
        means, chance_N = self.means(records), array(records, "chance").astype(np.float64)
        chances = dict(zip(names, np.nanmean(kind_columns(records, chance_N, names), axis=0).tolist(), strict=True))
        columns = {
            name: dict(zip(names, map(means.add, kind_columns(records, credits(records, name, self.ties), names).T), strict=True))
            for name in ("credit", *ASIDE)
        }
        pooled = means.add(kind_columns(records, credits(records, "credit", self.ties), counted, pooled=True)[:, 0])

        def metric(name: str, members: Sequence[str]) -> Metric:
            weights = tree_weights(members)
            chance = sum(weight * chances[kind] for kind, weight in weights.items())
            return means.metric({columns[name][kind]: weight for kind, weight in weights.items()}, chance)

        metrics = {"macro": metric("credit", kept)}
        metrics |= {node: metric("credit", kinds_below(node, kept) or kinds_below(node, kinds)) for node in nodes(kinds)}
        everywhere = float(np.nanmean(kind_columns(records, chance_N, counted, pooled=True)))
        metrics["accuracy"] = means.metric(pooled, everywhere)
        metrics |= {name: metric(name, kept) for name in ASIDE}
        below_minimum = {"kinds_below_minimum": sorted(set(counted) - set(kept)), **notes}
        return self.with_declared_facts(task, records, metrics, **below_minimum)

    def with_declared_facts(self, task: Any, records: pa.Table, metrics: dict[str, Metric], **notes: Any) -> Result:
        """Result with the facts that a protocol has to declare."""
        kinds = self.kinds(records)
        credit_N = array(records, "credit")
        declared = {
            **facts_of(records),
            "ties": self.ties,
            "share_tied": float(((credit_N > 0) & (credit_N < 1)).mean()),
            "kinds_left_out": sorted(kind for kind in kinds if kind in self.leave_out),
            "cases": dict(sorted(kinds.items())),
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
            **notes,
        }
        groups = set(records.column("group").to_pylist())
        return Result(task.name, task.version, task.main, metrics, len(records), len(groups), notes=declared)

    def item_values(self, records: pa.Table, metric: str) -> Floats | None:
        """Per-case values of a metric, [N, 1], whose mean over cases is the metric; NaN for cases that do not count. None for an
        unknown metric."""
        kinds = self.kinds(records)
        value_N = credits(records, "credit", self.ties)
        if metric == "accuracy":
            return kind_columns(records, value_N, self.counted(kinds), pooled=True)
        if metric != "macro" and metric not in nodes(kinds):
            return None
        members = kinds_below("" if metric == "macro" else metric, self.frequent_kinds(kinds)) or kinds_below(metric, kinds)
        weights = tree_weights(members)
        total = sum(kinds[kind] for kind in members)
        share = {kind: weights[kind] * total / kinds[kind] for kind in members}
        factor_N = np.array([share.get(kind, math.nan) for kind in records.column("kind").to_pylist()])
        added_N1: Floats = (value_N * factor_N)[:, None]
        return added_N1
