"""Scores of options to credits, and credits to rows and columns: what every probe of true and false captions counts by.

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
from diptych.tasks._scoring import ranks as rk
from diptych.tasks._scoring.intervals import percentiles, resampled_means
from diptych.tasks._scoring.records import array, facts_of

Floats = npt.NDArray[np.float64]
MINIMUM = 25  # cases; the published order and relation probes leave smaller kinds out as well
ASIDE = ("blind", "bag_of_words")
FIRST = "_first"
"""Ends the name of the column that holds a scorer's credit when the first of tied options wins."""
_SCHEMA = pa.schema(
    [("uid", pa.string()), ("case", pa.int64()), ("group", pa.string()), ("kind", pa.string())]
    + [(name, pa.list_(pa.string())) for name in ("options", "roles", "names")]
    + [("scores", pa.list_(pa.float64()))]
    + [(name, pa.float64()) for name in ("credit", "wins_true", "wins_entailed", "wins_false", "chance", *ASIDE)]
    + [(name + FIRST, pa.float64()) for name in ("credit", *ASIDE)]
)


def shares(score_L: npt.ArrayLike) -> Floats:
    """What each option has of the first place: 1 for the best, 1/n each when n tie.

    >>> shares([0.2, 0.7, 0.7])
    array([0. , 0.5, 0.5])
    """
    score = np.asarray(score_L, np.float64)
    best = score == score.max()
    share: Floats = best / best.sum()
    return share


def credit(score_L: npt.ArrayLike, roles: Sequence[str]) -> float:
    """Share of the first place that is true, among true and false options.

    >>> credit([0.9, 0.5, 0.5], ("entailed", "true", "false"))
    0.5
    """
    counted = [i for i, role in enumerate(roles) if role != "entailed"]
    share = shares(np.asarray(score_L, np.float64)[counted])
    return float(sum(share[place] for place, i in enumerate(counted) if roles[i] == "true"))


def first_credit(score_L: npt.ArrayLike, roles: Sequence[str]) -> float:
    """1 when the first of the best-scored options, entailed ones aside, is true, else 0: what `argmax` in published code gives.

    >>> first_credit([0.5, 0.5], ("true", "false")), first_credit([0.5, 0.5], ("false", "true"))
    (1.0, 0.0)
    """
    counted = [i for i, role in enumerate(roles) if role != "entailed"]
    best = int(np.asarray(score_L, np.float64)[counted].argmax())
    return float(roles[counted[best]] == "true")


def matched(score_22: npt.ArrayLike) -> tuple[bool, bool, bool]:
    """Two images [rows] with a caption each [columns]: (text, image, both) as Winoground counts them, everything strictly greater.

    Text: each image prefers its own caption. Image: each caption prefers its own image. Guessing gets 1/4, 1/4 and 1/6.

    >>> matched([[0.9, 0.1], [0.8, 0.85]])
    (True, True, True)
    >>> matched([[0.9, 0.1], [0.9, 0.95]])
    (True, False, False)
    """
    s = np.asarray(score_22, np.float64)
    text = bool(s[0, 0] > s[0, 1] and s[1, 1] > s[1, 0])
    image = bool(s[0, 0] > s[1, 0] and s[1, 1] > s[0, 1])
    return text, image, text and image


def probe_records(
    cases: Sequence[Case], scores: Sequence[npt.ArrayLike], aside: Mapping[str, Sequence[npt.ArrayLike]]
) -> pa.Table:
    """Cases and the scores of their options as rows; `aside` holds the scores of those that see no image, by name."""
    count: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for place, (case, score) in enumerate(zip(cases, scores, strict=True)):
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
                **{name: credit(given[place], case.roles) for name, given in aside.items()},
                "credit" + FIRST: first_credit(score, case.roles),
                **{name + FIRST: first_credit(given[place], case.roles) for name, given in aside.items()},
            }
        )
        count[case.uid] += 1
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def counted_kinds(kinds: Mapping[str, int], leave_out: Sequence[str]) -> list[str]:
    """The kinds that count, sorted. A name to leave out that is none of them is refused, and so is leaving out all."""
    for name in leave_out:
        if name not in kinds:
            raise UnknownName("kind to leave out", name, sorted(kinds))
    if not (counted := sorted(set(kinds) - set(leave_out))):
        raise DataError("every kind is left out", field="leave_out", expected=f"one of {', '.join(sorted(kinds))} to remain")
    return counted


def credits(records: pa.Table, column: str, ties: rk.Ties) -> Floats:
    """[N]: that scorer's credit of each case ("credit", "blind", "bag_of_words") under a policy for ties."""
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
    """[N, K]: the values under each of `kinds`, NaN elsewhere; pooled, all of these kinds in one column. parts: `kinds` are the beginnings
    of kinds."""
    kind_N = array(records, "kind")
    if parts:
        kind_N = np.array([kind.partition("/")[0] for kind in kind_N])
    if pooled:
        return np.where(np.isin(kind_N, list(kinds)), value_N, np.nan)[:, None]
    return np.stack([np.where(kind_N == kind, value_N, np.nan) for kind in kinds], axis=1)


# ---------------------------------------------------------------- kinds within kinds


def tree_weights(kinds: Collection[str]) -> dict[str, float]:
    """What each kind counts in a mean over parts of the mean over their parts, and so on: kinds are paths, "relation/left of".

    >>> tree_weights(["relation/on", "relation/under", "order"])
    {'relation/on': 0.25, 'relation/under': 0.25, 'order': 0.5}
    """
    if len(kinds) <= 1:
        return dict.fromkeys(kinds, 1.0)
    parts: dict[str, list[str]] = {}
    for kind in kinds:
        parts.setdefault(kind.partition("/")[0], []).append(kind)
    found: dict[str, float] = {}
    for head, members in parts.items():
        inner = tree_weights([member.removeprefix(f"{head}/") for member in members])
        found |= {member: inner[member.removeprefix(f"{head}/")] / len(parts) for member in members}
    return found


def nodes(kinds: Iterable[str]) -> list[str]:
    """The kinds and everything above them but the root, in the order of paths.

    >>> nodes(["relation/on", "order"])
    ['order', 'relation', 'relation/on']
    """
    return sorted(
        {"/".join(parts[:depth]) for kind in kinds for parts in [kind.split("/")] for depth in range(1, len(parts) + 1)}
    )


def below(node: str, kinds: Iterable[str]) -> list[str]:
    """The kinds at or below a node; all of them below ""."""
    return [kind for kind in kinds if not node or kind == node or kind.startswith(f"{node}/")]


@dataclass(frozen=True)
class Counting:
    """How cases become numbers.

    minimum    cases that a kind needs to count in a mean over kinds
    exempt     beginnings of kinds that need no such number
    leave_out  kinds that count in no mean; each keeps its own number
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

    def kept(self, kinds: Mapping[str, int]) -> list[str]:
        """The kinds that count, of those with so many cases. Raises DataError where none does."""
        counted = [kind for kind in sorted(kinds) if kind not in self.leave_out]
        if not counted:
            raise DataError("every kind is left out", field="leave_out", expected=f"one of {', '.join(sorted(kinds))} to remain")
        kept = [kind for kind in counted if kinds[kind] >= self.minimum or kind.startswith(self.exempt or ("\0",))]
        if not kept:
            largest = max(counted, key=lambda kind: kinds[kind])
            raise DataError(
                f"no kind has {self.minimum} cases (the largest, '{largest}', has {kinds[largest]})",
                field="minimum",
                expected="more cases, or a smaller minimum",
            )
        return kept

    def result(self, task: Any, records: pa.Table, **notes: Any) -> Result:
        """The mean over the tree of kinds, every node of it, the mean of all cases, and what the scorers without images get."""
        if not len(records):
            raise DataError("there is nothing to score: the records hold no case", expected="one row or more")
        kinds = Counter(records.column("kind").to_pylist())
        kept = self.kept(kinds)
        metrics = {"macro": self.metric(records, kept, "credit")}
        for node in nodes(kinds):
            members = below(node, kept) or below(node, kinds)
            metrics[node] = self.metric(records, members, "credit")
        counted = [kind for kind in sorted(kinds) if kind not in self.leave_out]
        metrics["accuracy"] = self.metric(records, counted, "credit", pooled=True)
        metrics |= {name: self.metric(records, kept, name) for name in ASIDE}
        groups = set(records.column("group").to_pylist())
        credit_N = array(records, "credit")
        said = {
            **facts_of(records),
            "ties": self.ties,
            "share_tied": float(((credit_N > 0) & (credit_N < 1)).mean()),
            "kinds_below_minimum": sorted(set(counted) - set(kept)),
            "kinds_left_out": sorted(set(kinds) - set(counted)),
            "cases": dict(sorted(kinds.items())),
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
            **notes,
        }
        return Result(task.name, task.version, task.main, metrics, len(records), len(groups), notes=said)

    def metric(self, records: pa.Table, kinds: Sequence[str], column: str, *, pooled: bool = False) -> Metric:
        """Of these kinds: the mean over their tree, or over their cases where they are pooled."""
        return self.mean(records, kinds, credits(records, column, self.ties), array(records, "chance"), pooled=pooled)

    def mean(
        self, records: pa.Table, kinds: Sequence[str], value_N: Floats, chance_N: Floats | None = None, *, pooled: bool = False
    ) -> Metric:
        """The same of any number a case; `chance_N` is what guessing gives each."""
        weights = {"": 1.0} if pooled else tree_weights(kinds)
        order = kinds if pooled else list(weights)
        columns = [
            None if each is None else kind_columns(records, each.astype(np.float64), order, pooled=pooled)
            for each in (value_N, chance_N)
        ]
        assert columns[0] is not None
        return self.mean_of_columns(records, columns[0], columns[1], list(weights.values()))

    def mean_of_columns(
        self, records: pa.Table, value_NK: Floats, chance_NK: Floats | None = None, weights: Sequence[float] = ()
    ) -> Metric:
        """The weighted mean (equal weights by default) of the columns' means over the cases that they apply to, NaN in others."""
        count = value_NK.shape[1]
        weight_K = np.array(weights or [1 / count] * count)
        groups = records.column("group").to_pylist()
        drawn_R = resampled_means(value_NK, groups, draws=self.draws, seed=self.seed) @ weight_K
        value, chance = (
            math.nan if each is None else float(np.nanmean(each, axis=0) @ weight_K) for each in (value_NK, chance_NK)
        )
        items = int((~np.isnan(value_NK)).any(axis=1).sum())
        return Metric(value, *percentiles(drawn_R), chance=chance, items=items)

    def item_values(self, records: pa.Table, metric: str) -> Floats | None:
        """[N, 1]: what each case adds to that metric, so that its mean over cases is the metric; NaN for cases that do not count. None
        for a metric that is none of these."""
        kinds = Counter(records.column("kind").to_pylist())
        value_N = credits(records, "credit", self.ties)
        if metric == "accuracy":
            return kind_columns(records, value_N, [kind for kind in kinds if kind not in self.leave_out], pooled=True)
        if metric != "macro" and metric not in nodes(kinds):
            return None
        members = below("" if metric == "macro" else metric, self.kept(kinds)) or below(metric, kinds)
        weights = tree_weights(members)
        total = sum(kinds[kind] for kind in members)
        share = {kind: weights[kind] * total / kinds[kind] for kind in members}
        factor_N = np.array([share.get(kind, math.nan) for kind in records.column("kind").to_pylist()])
        added_N1: Floats = (value_N * factor_N)[:, None]
        return added_N1
