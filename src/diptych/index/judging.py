"""Search quality on judged queries: nDCG@k and recall@k with intervals over queries, and hybrid settings chosen on half of them.

A file of judgements is a table with the columns query, uid and grade (0: not relevant; higher is better; without the column, 1).
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_seed
from diptych.index.base import Index
from diptych.index.fusion import RULES

Judgements = Mapping[str, Mapping[str, float]]
"""Grade by uid, by query."""
RESAMPLES = 2_000
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
RERANKED = (0, 10, 50)


@dataclass(frozen=True, slots=True)
class JudgedSearch:
    """Quality of one way to search.

    ndcg, recall  means over queries, and their 95 % intervals by resampling queries
    failed        queries of which no relevant item is among the first k
    """

    name: str
    queries: int
    k: int
    ndcg: float
    ndcg_interval: tuple[float, float]
    recall: float
    recall_interval: tuple[float, float]
    failed: tuple[str, ...]

    def line(self) -> str:
        ndcg, recall = (f"{low:.3f}-{high:.3f}" for low, high in (self.ndcg_interval, self.recall_interval))
        return (
            f"{self.name:<28} nDCG@{self.k} {self.ndcg:.3f} ({ndcg})  recall@{self.k} {self.recall:.3f} ({recall})  "
            f"{len(self.failed)} of {self.queries} queries find nothing relevant"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TunedSearch:
    """Settings chosen on one half of the queries, and what they and the settings before give on the other half."""

    options: dict[str, Any]
    chosen_on: int
    before: JudgedSearch
    after: JudgedSearch
    better: float
    better_interval: tuple[float, float]

    def lines(self) -> list[str]:
        given = ", ".join(f"{name} {value}" for name, value in self.options.items())
        low, high = self.better_interval
        return [
            f"chosen on {self.chosen_on} queries: {given}",
            self.before.line(),
            self.after.line(),
            f"difference of nDCG on queries that were not used to choose: {self.better:+.3f} ({low:+.3f} to {high:+.3f})",
        ]


def read_judgements(file: Path) -> dict[str, dict[str, float]]:
    """Judgements of a CSV file. Raises DataError for a missing column, an invalid grade, and a query without a relevant item."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", file=file, expected="a CSV file with query, uid and grade") from error
    judged: dict[str, dict[str, float]] = {}
    for number, row in enumerate(rows, start=2):
        query, uid = (row.get("query") or "").strip(), (row.get("uid") or "").strip()
        if not (query and uid):
            raise DataError("has no query or no uid", file=file, row=number, expected="columns query, uid and grade")
        try:
            grade = float(row.get("grade") or 1)
        except ValueError:
            grade = math.nan
        if not 0 <= grade < math.inf:
            raise DataError(
                f"is {row.get('grade')!r:.40}", file=file, row=number, field="grade", expected="a number of 0 or more"
            )
        judged.setdefault(query, {})[uid] = grade
    if not judged:
        raise DataError("contains no judgement", file=file, expected="columns query, uid and grade, and a row for each judgement")
    for query, grades in judged.items():
        if not any(grades.values()):
            raise DataError(
                f"query {query!r:.60} has no relevant item", file=file, expected="a grade above 0 for one of its uids"
            )
    return judged


def ndcg(uids: Sequence[str], grades: Mapping[str, float], k: int) -> float:
    """Normalised discounted cumulative gain of the first k (Järvelin and Kekäläinen, 2002), gains 2^grade - 1.

    >>> round(ndcg(["b", "a"], {"a": 1.0}, 10), 3)
    0.631
    """
    gains = [2.0 ** grades.get(uid, 0.0) - 1 for uid in uids[:k]]
    ideal = sorted((2.0**grade - 1 for grade in grades.values()), reverse=True)[:k]
    return _discounted(gains) / _discounted(ideal)


def recall(uids: Sequence[str], grades: Mapping[str, float], k: int) -> float:
    """Share of the relevant items, at most k of them, that are among the first k.

    >>> recall(["a", "x"], {"a": 1.0, "b": 2.0}, 10)
    0.5
    """
    relevant = {uid for uid, grade in grades.items() if grade > 0}
    return len(relevant & set(uids[:k])) / min(k, len(relevant))


def judge(index: Index, judged: Judgements, *, k: int = 10) -> list[JudgedSearch]:
    """Quality of the usual search of an index, and of each half of a hybrid one."""
    ways: dict[str, dict[str, Any]] = {index.kind: {}}
    for mode in index.modes:
        ways[f"{index.kind}, {mode}"] = {"exact": True} if mode == "exact" else {"half": mode}
    return [_judged(name, _ranked(index, judged, k, options), judged, k) for name, options in ways.items()]


def tune(index: Index, judged: Judgements, *, k: int = 10, seed: int = 0) -> TunedSearch:
    """Choose the settings of a hybrid index on half of the queries, by nDCG; report on the other half. The index keeps its settings.

    First the searched fields are chosen, with all else as it is: none, each, or all; then fusion rule, weight of the words and
    `exact_first` together; then how many items are ranked again. Of equal settings the first is taken.

    Raises ConfigError for another kind of index and for fewer than ten queries.
    """
    if index.kind != "hybrid":
        raise ConfigError(f"an index of kind '{index.kind}' has nothing to tune (expected kind hybrid)")
    if len(judged) < 10:
        raise ConfigError(f"{len(judged)} queries are judged (expected 10 or more: half of them choose, the others are reported)")
    order = sorted(judged, key=lambda query: keyed_seed(seed, "judged", hashlib.sha256(query.encode()).hexdigest()))
    choosing = {query: judged[query] for query in order[::2]}
    reported = {query: judged[query] for query in order[1::2]}
    chosen: dict[str, Any] = {}
    for step in _settings_to_try(index.info.options.get("fields", [])):
        scores = []
        for options in step:
            with _settings(index, chosen | options):
                scores.append(_judged("", _ranked(index, choosing, k, {}), choosing, k).ndcg)
        chosen |= step[scores.index(max(scores))]
    before = _ranked(index, reported, k, {})
    with _settings(index, chosen):
        after = _ranked(index, reported, k, {})
    gain_Q = np.array([ndcg(after[q], reported[q], k) - ndcg(before[q], reported[q], k) for q in reported])
    rows = _judged("as it is", before, reported, k), _judged("as chosen", after, reported, k)
    return TunedSearch(chosen, len(choosing), *rows, float(gain_Q.mean()), _interval(gain_Q))


def apply_settings(index: Index, options: Mapping[str, Any]) -> None:
    """Write chosen settings into the metadata of the index: every search follows them from the next opening on."""
    index.collection.facts.options = {**index.collection.facts.options, **options}
    index.collection.facts.write(index.folder)


def _settings_to_try(fields: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Settings among which `tune` chooses, step by step."""
    subsets = [list(fields), [], *([name] for name in fields if len(fields) > 1)]
    rules = product(RULES, WEIGHTS, (True, False))
    return [
        *([[{"search_fields": subset} for subset in subsets]] if fields else []),
        [{"fusion": rule, "lexical": weight, "exact_first": first} for rule, weight, first in rules],
        [{"rerank": count} for count in RERANKED],
    ]


@contextmanager
def _settings(index: Index, options: Mapping[str, Any]) -> Iterator[None]:
    """Context manager: the index searches with other settings, which are not written down."""
    before = index.collection.facts.options
    index.collection.facts.options = {**before, **options}
    try:
        yield
    finally:
        index.collection.facts.options = before


def _ranked(index: Index, judged: Judgements, k: int, options: Mapping[str, Any]) -> dict[str, list[str]]:
    search: Callable[..., Any] = index.search_text
    return {query: [hit.uid for hit in search(query, k, **options)] for query in judged}


def _judged(name: str, ranked: Mapping[str, Sequence[str]], judged: Judgements, k: int) -> JudgedSearch:
    ndcg_Q = np.array([ndcg(ranked[query], grades, k) for query, grades in judged.items()])
    recall_Q = np.array([recall(ranked[query], grades, k) for query, grades in judged.items()])
    failed = tuple(query for query, share in zip(judged, recall_Q, strict=True) if share == 0)
    means = float(ndcg_Q.mean()), float(recall_Q.mean())
    return JudgedSearch(name, len(judged), k, means[0], _interval(ndcg_Q), means[1], _interval(recall_Q), failed)


def _interval(value_Q: np.ndarray[Any, Any]) -> tuple[float, float]:
    """95 % interval of a mean over queries, by resampling them."""
    rng = np.random.default_rng(0)
    mean_R = value_Q[rng.integers(0, len(value_Q), (RESAMPLES, len(value_Q)))].mean(1)
    low, high = np.quantile(mean_R, (0.025, 0.975))
    return float(low), float(high)


def _discounted(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))
