"""Linear probe of frozen image embeddings.  Protocol `linear_probe`, version 2.

Logistic regression (L-BFGS, at most 1,000 iterations) on the embeddings of a training split. The strength of the L2 penalty is
chosen on a validation split, or on a fifth of the training *groups* that is held out with a recorded seed; the test split is used
once, at the end, with the classifier fitted again on everything but the test. `head="knn"` asks the 20 nearest neighbours; with `lists`
their order is judged, too, as image retrieval by class ("map@10" and the others of `_scoring/ranking/class_lists.py`).

The search: lambda from 1e-6 to 1e6, seven values two decades apart, then four rounds that halve the bracket around the best one,
down to eight values a decade: 15 fits instead of 97. Of equal validation accuracies the largest lambda wins (`l2_ties="smallest"`
takes the smallest, as CLIP benchmark does). scikit-learn's C multiplies the *sum* of the losses; here lambda does the same to the
penalty, so C = 1 / lambda.

Features are the projected, unit-norm embeddings of the capability, cast to double precision; probes on the features before the
projection are another protocol with other numbers. Fits that stop at the iteration limit are reported, not hidden.

Letters: N items, D width, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import Dataset, Embedder
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.data.labels import label_of
from diptych.index.embed import embedded_images
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.ranking.class_lists import knn_hits, list_values
from diptych.tasks._scoring.records import array, facts_of, with_facts
from diptych.tasks.pairs.classification import (
    class_item_values,
    class_list_hash,
    class_records,
    require_classes,
    score_classes,
)

STEPS_A_DECADE = 8
GRID = tuple(10.0 ** (-6 + step / STEPS_A_DECADE) for step in range(12 * STEPS_A_DECADE + 1))
HELD_OUT = 0.2
RIGHT, THERE = "neighbours_right", "class_items"
"""Columns of the records: whether each of the nearest training images has the class, and how many of all have it."""

NeighbourTies = Literal["index", "shared"]
L2Ties = Literal["largest", "smallest"]
Matrix = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """acc@1, acc@5 and mean per-class recall of a classifier on frozen embeddings.

    label       the column with the class
    train_split, val_split, test_split
                names of splits of the data; without `val_split` a fifth of the training groups is held out
    train, val  data sets to use instead of splits; with `train`, all of the evaluated data is the test
    l2          a fixed lambda; 0 searches for it
    ties        credit of equal scores of classes: expected | pessimistic | optimistic | index
    l2_ties     choice among lambdas with equal validation accuracy: the "largest" or the "smallest"
    neighbour_ties  training images with the same distance as the k-th: "index", the earlier rows vote, or "shared", all of them vote, with
                    equal shares of the remaining votes
    head        "logistic" or "knn" (k neighbours, votes weighted by exp(cosine / temperature))
    k           number of neighbours that vote, with the head "knn"
    lists       with the head "knn": lengths of the lists of nearest training images whose classes are compared with the own one
    max_iterations   maximum number of iterations of the solver, with the head "logistic"
    """

    name: ClassVar[str] = "linear_probe"
    version: ClassVar[int] = 2
    needs: ClassVar[type] = Embedder
    main: ClassVar[str] = "acc@1"

    label: str = "label"
    language: str = "en"
    train_split: str = "train"
    val_split: str = ""
    test_split: str = "test"
    train: Any = field(default=None, compare=False, repr=False)
    val: Any = field(default=None, compare=False, repr=False)
    head: Literal["logistic", "knn"] = "logistic"
    l2: float = 0.0
    l2_ties: L2Ties = "largest"
    max_iterations: int = 1000
    k: int = 20
    lists: tuple[int, ...] = ()
    temperature: float = 0.07
    neighbour_ties: NeighbourTies = "index"
    ties: rk.Ties = "expected"
    draws: int = 2000
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        rk.check_ties(self.ties)
        if self.head not in ("logistic", "knn"):
            raise ConfigError(f"head is {self.head!r} (expected logistic | knn)")
        if self.l2_ties not in get_args(L2Ties):
            raise ConfigError(f"l2_ties is {self.l2_ties!r} (expected largest | smallest)")
        if self.neighbour_ties not in get_args(NeighbourTies):
            raise ConfigError(f"neighbour_ties is {self.neighbour_ties!r} (expected index | shared)")
        if self.k < 1 or self.temperature <= 0 or self.l2 < 0:
            raise ConfigError("k must be at least 1, temperature above 0, l2 0 or above")
        if self.lists and (self.head != "knn" or min(self.lists) < 1):
            raise ConfigError(
                f"lists is {list(self.lists)} with head {self.head!r} (expected lengths of 1 or more, with head 'knn')"
            )

    def predict(self, model: Embedder, data: Dataset) -> pa.Table:
        """Returns one row per test image."""
        train, val, test = self._splits(data)
        _refuse_shared(train, test, "test")
        train_features = self._features(model, train)
        names = sorted(set(train_features.labels))
        require_classes(names, self.label)
        code = {name: k for k, name in enumerate(names)}
        target_N = np.array([code[label] for label in train_features.labels], np.int64)
        if self.head == "knn":
            k = min(self.k, len(target_N))
            probe: rk.Scorer = KNNClassifier(
                train_features.rows_ND, target_N, len(names), k, self.temperature, self.neighbour_ties
            )
            facts: dict[str, Any] = {"k": k, "temperature": self.temperature}
        else:
            checking = None if val is None else self._features(model, val)
            probe, facts = self._fit(train_features, target_N, checking, code)
        test_features = self._features(model, test)
        unseen = len(names)  # a class that training never saw: no column answers to it, the item counts as wrong
        label_N = np.array([code.get(label, unseen) for label in test_features.labels], np.int64)
        ranks = rk.rank(test_features.rows_ND, probe, label_N, np.arange(len(names)), width=len(target_N))
        records = class_records(test_features.samples, test_features.labels, ranks, names)
        if self.lists:
            if max(self.lists) > len(target_N):
                raise ConfigError(f"lists reach {max(self.lists)} and there are {len(target_N)} training images")
            right_NK = knn_hits(test_features.rows_ND, train_features.rows_ND, label_N, target_N, max(self.lists))
            there_N = np.bincount(target_N, minlength=unseen + 1)[label_N]
            records = records.append_column(RIGHT, pa.array(right_NK.tolist(), pa.list_(pa.bool_())))
            records = records.append_column(THERE, pa.array(there_N.tolist(), pa.int64()))
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("train", "val")}
        return with_facts(
            records,
            options=options,
            features="projected, unit-norm",
            classes=len(names),
            class_list=class_list_hash(names),
            train_items=len(target_N),
            train_fingerprint=train.fingerprint,
            items_of_unseen_classes=int((label_N == unseen).sum()),
            unreadable=[*train_features.unreadable, *test_features.unreadable],
            **facts,
        )

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        result = score_classes(records, self)
        groups = records.column("group").to_pylist()
        for name, value_N in _list_values(records).items():
            drawn_RM = resampled_means(value_N[:, None], groups, draws=self.draws, seed=self.seed)
            result.metrics[name] = Metric(float(value_N.mean()), *percentiles(drawn_RM[:, 0]))
        return result

    @staticmethod
    def item_values(records: pa.Table, metric: str) -> Floats | None:
        """[N, 1] for a metric that is a mean over items, else None."""
        value_N = _list_values(records).get(metric)
        return class_item_values(records, metric) if value_N is None else value_N[:, None]

    def _splits(self, data: Dataset) -> tuple[Dataset, Dataset | None, Dataset]:
        if self.train is not None:
            return self.train, self.val, data
        val = self.val if self.val is not None else (data.split(self.val_split) if self.val_split else None)
        return data.split(self.train_split), val, data.split(self.test_split)

    def _features(self, model: Embedder, data: Dataset) -> Features:
        embedded = embedded_images(model, data, batch_size=self.batch_size)
        labels = [label_of(sample, self.label, self.language) for sample in embedded.samples]
        unreadable = [asdict(one) for one in embedded.unreadable]
        return Features(list(embedded.samples), labels, embedded.vectors_ND.astype(np.float64), unreadable)

    def _fit(
        self, train_features: Features, target_N: Labels, checking: Features | None, code: dict[str, int]
    ) -> tuple[rk.Scorer, dict[str, Any]]:
        """Choose lambda where it may be chosen, then fit on everything but the test."""
        rows_ND, all_N = train_features.rows_ND, target_N
        facts: dict[str, Any] = {"l2": self.l2, "search": "fixed"}
        if not self.l2:
            if checking is not None:
                # A validation item of a class that training lacks is wrong for every lambda: -1 never equals a prediction.
                checked_N = np.array([code.get(label, -1) for label in checking.labels], np.int64)
                parts = (rows_ND, target_N, checking.rows_ND, checked_N)
                rows_ND = np.concatenate([rows_ND, checking.rows_ND[checked_N >= 0]])
                all_N = np.concatenate([target_N, checked_N[checked_N >= 0]])
                where = "validation split"
            else:
                held_N = hold_out(target_N, [s.group or s.uid for s in train_features.samples], seed=self.seed)
                parts = (rows_ND[~held_N], target_N[~held_N], rows_ND[held_N], target_N[held_N])
                where = f"{int(held_N.sum())} items held out by group, seed {self.seed}"
            facts = {**search(*parts, ties=self.l2_ties, max_iterations=self.max_iterations), "search": where}
        fitted = fit(rows_ND, all_N, facts["l2"], max_iterations=self.max_iterations)
        return fitted, {**facts, "c": 1 / facts["l2"], "converged": fitted.converged, "iterations": fitted.iterations}


def _list_values(records: pa.Table) -> dict[str, Floats]:
    """By metric, the value of every item; none where the probe kept no lists."""
    if RIGHT not in records.column_names:
        return {}
    right_NK = np.array(records.column(RIGHT).to_pylist(), bool)
    return list_values(right_NK, array(records, THERE).astype(np.int64), facts_of(records)["options"]["lists"])


@dataclass(frozen=True, slots=True)
class Features:
    """Feature matrix rows_ND of N samples in double precision, a label each; and the samples that could not be read."""

    samples: list[Sample]
    labels: list[str]
    rows_ND: Matrix
    unreadable: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class LogisticClassifier:
    """Logistic regression scores [N, K], one column a class; a class below the highest that training never saw scores -inf."""

    weight_KD: Matrix
    bias_K: Matrix
    iterations: int
    converged: bool

    def __call__(self, rows_ND: npt.NDArray[Any]) -> npt.NDArray[Any]:
        scores: npt.NDArray[Any] = rows_ND @ self.weight_KD.T + self.bias_K
        return scores


@dataclass(frozen=True, slots=True, eq=False)
class KNNClassifier:
    """k-nearest-neighbour votes [N, K] of training rows, each weighted by exp(cosine / temperature), cosines relative to 1.

    With ties "shared" the rows that are as near as the k-th share the places that are left, which is the mean over the orders of rows.
    Cosines are then compared in single precision, in which equal embeddings are equally near.
    """

    rows_ND: Matrix
    label_N: Labels
    classes: int
    k: int
    temperature: float
    ties: NeighbourTies = "index"

    def __call__(self, query_BD: npt.NDArray[Any]) -> npt.NDArray[Any]:
        cosine_BN = query_BD @ self.rows_ND.T
        if self.ties == "shared":
            return self._shared(cosine_BN)
        near_Bk = np.argsort(-cosine_BN, axis=1, kind="stable")[:, : self.k]
        weight_Bk = np.exp((np.take_along_axis(cosine_BN, near_Bk, axis=1) - 1.0) / self.temperature)
        votes_BK = np.zeros((len(query_BD), self.classes))
        np.add.at(votes_BK, (np.arange(len(query_BD))[:, None], self.label_N[near_Bk]), weight_Bk)
        return votes_BK

    def _shared(self, cosine_BN: npt.NDArray[Any]) -> npt.NDArray[Any]:
        rounded_BN = cosine_BN.astype(np.float32)
        last_B1 = np.partition(rounded_BN, -self.k, axis=1)[:, -self.k, None]
        above_BN, tied_BN = rounded_BN > last_B1, rounded_BN == last_B1
        left_B1 = self.k - above_BN.sum(axis=1, keepdims=True)
        place_BN = above_BN + tied_BN * (left_B1 / tied_BN.sum(axis=1, keepdims=True))
        class_NK = np.eye(self.classes)[self.label_N]
        votes_BK: npt.NDArray[Any] = (place_BN * np.exp((cosine_BN - 1.0) / self.temperature)) @ class_NK
        return votes_BK


def fit(rows_ND: Matrix, label_N: Labels, l2: float, *, max_iterations: int = 1000) -> LogisticClassifier:
    """Multinomial logistic regression with penalty lambda / 2 * |W|^2 against the sum of the losses."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    # Many small products: several threads wait for each other longer than they compute, the more so on a busy machine.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # reported as `converged`
        warnings.filterwarnings("ignore", "The number of unique classes is greater")  # one shot a class is meant
        model = LogisticRegression(C=1.0 / l2, max_iter=max_iterations).fit(rows_ND, label_N)
    weight_KD, bias_K = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one row of weights for the second class
        weight_KD, bias_K = np.concatenate([-weight_KD / 2, weight_KD / 2]), np.concatenate([-bias_K / 2, bias_K / 2])
    iterations = int(np.max(model.n_iter_))
    total = int(model.classes_.max()) + 1
    full_KD, full_K = np.zeros((total, rows_ND.shape[1])), np.full(total, -np.inf)
    full_KD[model.classes_], full_K[model.classes_] = weight_KD, bias_K
    return LogisticClassifier(full_KD, full_K, iterations, iterations < max_iterations)


def search(
    rows_ND: Matrix,
    label_N: Labels,
    val_ND: Matrix,
    val_N: Labels,
    *,
    ties: L2Ties = "largest",
    max_iterations: int = 1000,
) -> dict[str, Any]:
    """Bracketed search of lambda: its value with validation accuracy, the number of fits and of those that did not converge."""
    tried: dict[int, float] = {}
    stopped = 0

    def accuracy(step: int) -> float:
        nonlocal stopped
        if step not in tried:
            fitted = fit(rows_ND, label_N, GRID[step], max_iterations=max_iterations)
            stopped += not fitted.converged
            tried[step] = float((fitted(val_ND).argmax(axis=1) == val_N).mean())
        return tried[step]

    def best() -> int:
        sign = 1 if ties == "largest" else -1
        return max(tried, key=lambda step: (tried[step], sign * step))

    stride = 2 * STEPS_A_DECADE
    for step in range(0, len(GRID), stride):
        accuracy(step)
    while stride > 1:
        stride //= 2
        centre = best()
        for step in (centre - stride, centre + stride):
            if 0 <= step < len(GRID):
                accuracy(step)
    return {"l2": GRID[best()], "val_accuracy": tried[best()], "fits": len(tried), "fits_not_converged": stopped}


def hold_out(label_N: Labels, groups: Sequence[str], *, share: float = HELD_OUT, seed: int = 0) -> npt.NDArray[np.bool_]:
    """Mask of about `share` of each class, whole groups only; a class with a single group stays in training.

    A group of several labels is counted under its first one.
    """
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    by_class: dict[int, list[str]] = {}
    for group in sorted(members):
        by_class.setdefault(int(label_N[members[group][0]]), []).append(group)
    held_N = np.zeros(len(label_N), bool)
    for label in sorted(by_class):
        mine = by_class[label]
        target = share * sum(len(members[group]) for group in mine)
        taken = 0
        for index in keyed_rng("hold_out", seed, label).permutation(len(mine))[:-1]:
            size = len(members[mine[index]])
            if taken and taken + size / 2 > target:
                break
            held_N[members[mine[index]]] = True
            taken += size
    if not held_N.any():
        raise DataError(
            "no class has two groups, so nothing can be held out to choose the penalty",
            field="group",
            expected="a validation split, or a fixed `l2`",
        )
    return held_N


def _refuse_shared(train: Dataset, test: Dataset, what: str) -> None:
    shared = set(train.uids) & set(test.uids)
    if shared:
        raise DataError(
            f"{len(shared)} samples are in both the training and the {what} data, such as {min(shared)}",
            expected="disjoint data",
        )
