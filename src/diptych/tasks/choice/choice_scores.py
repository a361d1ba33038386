"""Scores of multiple-choice records.  Letters: N rows (a question in one order), L letters.

A row is right, wrong, unread or failed; the last two are wrong as well. Columns hold NaN where a row says nothing about a
number; numbers about a question in all its orders stand in its first row.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from diptych.core.registry import EXTRACTORS
from diptych.core.result import Metric, Result
from diptych.tasks._scoring.answers.blind import BLIND
from diptych.tasks._scoring.answers.choices import LETTERS, entropy, normalised_entropy
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of

SCALES: dict[str, tuple[bool, str]] = {
    **dict.fromkeys(("accuracy", "answerable", "circular", "majority", "rejection", "stable"), (True, "share")),
    **dict.fromkeys(("abstention", "failed", "false_rejection", "unread"), (False, "share")),
    **dict.fromkeys(("entropy", "entropy_wrong"), (False, "share")),
    "entropy_bits": (False, "bits"),
    "entropy_nats": (False, "nats"),
}
"""Of each column whether more is better, and its unit. Less abstention is better where most questions have an answer."""
NOT_READ = ""


def read_chosen(records: pa.Table, extractor: str, *, blind: bool = False) -> list[str]:
    """The content of what each row chose, "" for none that can be read: of a written reply by the extractor, of a ranking as it
    came."""
    mark = "blind_" if blind else ""
    extract = EXTRACTORS.load(extractor)
    chosen = []
    columns = (records.column(name).to_pylist() for name in (f"{mark}reply", f"{mark}fault", f"{mark}place", "options", "order"))
    for reply, fault, index, options, order in zip(*columns, strict=True):
        offered = [options[each] for each in order]
        if index is None:
            index = None if fault or reply is None else extract(reply, offered)
        chosen.append(NOT_READ if index is None or index >= len(offered) else offered[index])
    return chosen


def ask_columns(records: pa.Table, chosen: Sequence[str], none_option: str, *, blind: bool = False) -> dict[str, Floats]:
    """Columns [N] of metrics that are means over all questions in all orders."""
    answers, answerable = records.column("answer").to_pylist(), np.array(records.column("answerable").to_pylist())
    faults = records.column("blind_fault" if blind else "fault").to_pylist()
    has_answer = np.array([answer is not None for answer in answers])
    right = np.array([one == answer for one, answer in zip(chosen, answers, strict=True)], float)
    failed = np.array([bool(fault) for fault in faults], float)
    unread = np.array([one == NOT_READ for one in chosen], float) - failed
    columns = {"accuracy": np.where(has_answer, right, np.nan), "unread": unread, "failed": failed}
    if none_option:
        offered = np.array([none_option in options for options in records.column("options").to_pylist()])
        none = np.array([one == none_option for one in chosen], float)
        columns["abstention"] = np.where(offered, none, np.nan)
        columns["false_rejection"] = np.where(offered & answerable & has_answer, none, np.nan)
        columns["rejection"] = np.where(answerable, np.nan, none)
        columns["answerable"] = np.where(answerable & has_answer, right, np.nan)
    return columns


def question_columns(records: pa.Table, chosen: Sequence[str], *, corrected: bool = False) -> dict[str, Floats]:
    """Columns [N] of metrics that are means over questions, where any was asked in several orders; entropies and "stable" over those
    that were. Of a question with and without its answer each stands for itself."""
    names = zip(records.column("item").to_pylist(), records.column("answerable").to_pylist(), strict=True)
    rows: dict[tuple[str, bool], list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    if max(map(len, rows.values())) < 2:
        return {}
    answers, options = records.column("answer").to_pylist(), records.column("options").to_pylist()
    column_names = ("circular", "majority", "entropy", "entropy_bits", "entropy_nats", "entropy_wrong", "stable")
    columns = {name: np.full(len(records), np.nan) for name in column_names}
    for several in rows.values():
        first, choices = several[0], [chosen[row] for row in several]
        most = max(dict.fromkeys(choices), key=choices.count)
        spread = math.nan  # what was asked once shows nothing of how an answer depends on the order
        if len(several) > 1:
            columns["entropy"][first] = spread = normalised_entropy(choices, len(options[first]))
            columns["entropy_bits"][first] = entropy(choices, base=2, corrected=corrected)
            columns["entropy_nats"][first] = entropy(choices, corrected=corrected)
            columns["stable"][first] = float(spread == 0)
        if answers[first] is None:
            continue
        right = [chosen[row] == answers[row] for row in several]
        columns["circular"][first], columns["majority"][first] = float(all(right)), float(most == answers[first])
        if most != answers[first]:
            columns["entropy_wrong"][first] = spread
    return columns


def score_choices(
    records: pa.Table,
    *,
    name: str,
    version: int,
    extractor: str,
    none_option: str,
    corrected: bool,
    lettered: bool,
    draws: int,
    seed: int,
    notes: Mapping[str, Any],
) -> Result:
    """Metrics of the records with intervals over groups, and facts for reading them.

    lettered  True if options are shown with letters, so that their position can matter
    """
    groups, chosen = records.column("group").to_pylist(), read_chosen(records, extractor)
    columns = ask_columns(records, chosen, none_option)
    accuracy_N = columns["accuracy"]
    columns |= question_columns(records, chosen, corrected=corrected)
    for label, here_N in _parts(records).items():
        columns[f"accuracy/{label}"] = np.where(here_N, accuracy_N, np.nan)
    if records.column("blind_reply").null_count == 0:
        seen = read_chosen(records, extractor, blind=True)
        blind = ask_columns(records, seen, none_option, blind=True) | question_columns(records, seen, corrected=corrected)
        columns |= {f"{name}{BLIND}": value for name, value in blind.items() if name not in ("unread", "failed")}
    drawn_RM = resampled_means(np.stack(list(columns.values()), 1), groups, draws=draws, seed=seed)
    chance_N = np.array([1 / len(options) for options in records.column("options").to_pylist()])
    chances = dict.fromkeys(("accuracy", "answerable", "rejection", "abstention", "false_rejection"), chance_N)
    turns = Counter(_questions(records))
    chances["circular"] = chance_N ** np.array([turns[one] for one in _questions(records)])
    metrics = {}
    for index, (metric, value_N) in enumerate(columns.items()):
        here = ~np.isnan(value_N)
        column = metric.split("/")[0]  # without the part of the data, or the blind row
        level, (higher_is_better, unit) = chances.get(column), SCALES[column]
        metrics[metric] = Metric(
            float(value_N[here].mean()) if here.any() else math.nan,
            *percentiles(drawn_RM[:, index]),
            chance=float(level[here].mean()) if level is not None and here.any() else math.nan,
            higher_is_better=higher_is_better,
            unit=unit,
            items=int(here.sum()),
        )
    letters = position_bias(records, chosen) if lettered else {}
    if letters:
        metrics["position_bias"] = Metric(letters["distance"], higher_is_better=False, items=letters["read"])
        metrics["recall_spread"] = Metric(letters["recall_spread"], higher_is_better=False, items=letters["read"])
    about = {
        **facts_of(records),
        **notes,
        "questions": len(set(_questions(records))),
        "truly_none": float(1 - np.mean(records.column("answerable").to_pylist())),
        "positions": letters,
        "chance": "one guess of the options; circular: independent guesses in all orders",
        "parse_failures": "wrong, counted as unread",
        "interval": f"95 % percentile, {draws} draws of groups, seed {seed}",
    }
    return Result(name, version, "accuracy", metrics, len(records), len(set(groups)), notes=about)


def accuracy_by_extractor(records: pa.Table) -> dict[str, float]:
    """The share that is right, and with "/unread" the share that names no option, as every extractor reads the same replies."""
    shares = {}
    for extractor in EXTRACTORS:
        columns = ask_columns(records, read_chosen(records, extractor), "")
        has_answer = ~np.isnan(columns["accuracy"])
        if has_answer.any():
            shares[extractor] = float(columns["accuracy"][has_answer].mean())
        shares[f"{extractor}/unread"] = float(columns["unread"].mean())
    return shares


def position_bias(records: pa.Table, chosen: Sequence[str]) -> dict[str, Any]:
    """Letter frequencies of the choices, against an equal share of those that were offered; {} where nothing was read.

    distance       total variation distance between the chosen letters and a uniform distribution: 0 to 1
    chi2, df, p    Pearson's test of the same; orders of one question are no independent draws, so that p is too small where
    answers stay entropy_bits   of the chosen letters
    recall         recall of each letter: share of questions with this right letter for which it was chosen
    recall_spread  standard deviation of the recalls (Zheng et al., 2023, arXiv 2309.03882)
    """
    picked, expected = np.zeros(len(LETTERS)), np.zeros(len(LETTERS))
    hits, truths = np.zeros(len(LETTERS)), np.zeros(len(LETTERS))
    columns = (records.column(name).to_pylist() for name in ("options", "order", "answer"))
    for one, options, order, answer in zip(chosen, *columns, strict=True):
        offered = [options[index] for index in order]
        if one == NOT_READ or len(offered) > len(LETTERS):
            continue
        picked[offered.index(one)] += 1
        expected[: len(offered)] += 1 / len(offered)
        if answer in offered:
            truths[offered.index(answer)] += 1
            hits[offered.index(answer)] += one == answer
    if not picked.sum():
        return {}
    used = expected > 0
    picked_L, expected_L = picked[used], expected[used]
    chi2, df = float(((picked_L - expected_L) ** 2 / expected_L).sum()), int(used.sum()) - 1
    names = [letter for letter, there in zip(LETTERS, used, strict=True) if there]
    recall = {name: float(hits[row] / truths[row]) for row, name in enumerate(names) if truths[row]}
    return {
        "chosen": dict(zip(names, picked_L.astype(int).tolist(), strict=True)),
        "expected": dict(zip(names, expected_L.round(2).tolist(), strict=True)),
        "read": int(picked_L.sum()),
        "distance": float(np.abs(picked_L - expected_L).sum() / 2 / picked_L.sum()),
        "chi2": chi2,
        "df": df,
        "p": float(stats.chi2.sf(chi2, df)) if df else 1.0,
        "entropy_bits": float(stats.entropy(picked_L, base=2)),
        "recall": recall,
        "recall_spread": float(np.std(list(recall.values()))) if recall else math.nan,
    }


def _parts(records: pa.Table) -> dict[str, Any]:
    """Row masks of each kind, where there are several, and of each value of each facet."""
    kinds = records.column("kind").to_pylist()
    parts = (
        {kind or "other": np.array([one == kind for one in kinds]) for kind in sorted(set(kinds))} if len(set(kinds)) > 1 else {}
    )
    facets = [json.loads(one) for one in records.column("facets").to_pylist()]
    values = sorted({(name, value) for one in facets for name, several in one.items() for value in several})
    for name, value in values:
        parts[f"{name}={value}"] = np.array([value in one.get(name, ()) for one in facets])
    return parts


def _questions(records: pa.Table) -> list[tuple[str, bool]]:
    return list(zip(records.column("item").to_pylist(), records.column("answerable").to_pylist(), strict=True))
