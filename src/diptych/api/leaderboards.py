"""Leaderboard of models by their records on the same questions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from diptych.api.data import read
from diptych.claims.verdict import holm
from diptych.comparisons.statistics import KEYS, item_view
from diptych.core.contracts import ReadableRow, ReadableTask, TaskByItem
from diptych.core.errors import ConfigError, DataError, RunError
from diptych.core.result import Result
from diptych.report.pages.leaderboard import Disagreement, Leaderboard, LeaderboardRow, ModelPair, leaderboard_page, most_divided
from diptych.report.pictures import Album
from diptych.tasks import find
from diptych.tasks._scoring.records import facts_of, read_records

Records: TypeAlias = "str | Path | pa.Table"
SAME = ("uid", "case", "question", "options", "answer", "truth_cm", "query", "direction", "text", "label")
"""Columns that make two rows the same question."""


def leaderboard(
    records: Sequence[Records] | Mapping[str, Records], *, data: Any = None, page: str | Path | None = None, shown: int = 24
) -> Leaderboard:
    """Who answers better, which differences hold, and where models part.

    records  of each model: a folder that `evaluate(..., out=...)` wrote, a Parquet file of it, or the table itself; a mapping
             names the models
    data     those that were asked, for the pictures of the page
    page     an HTML file to write
    shown    questions on which models part, at most
    Of tasks whose metric is a mean over rows (retrieval, whose rows are queries, classification, questions) pairs are tested and rows on
    which models part are shown; of others (average precision) there is the order alone. Raises DataError if the models were not asked
    the same questions by the same protocol.
    """
    named = dict(records) if isinstance(records, Mapping) else None
    tables = [_table(one) for one in (named.values() if named is not None else records)]
    if len(tables) < 2:
        raise ConfigError(f"there are records of {len(tables)} models (expected two or more)")
    facts = [facts_of(one) for one in tables]
    protocols = {str(one.get("protocol")) for one in facts}
    if len(protocols) > 1:
        raise DataError(f"the records are of different protocols: {', '.join(sorted(protocols))}", expected="one protocol")
    tables = [_sort_rows(one) for one in tables]
    _same_questions(tables)
    names = list(named) if named is not None else _names(facts)
    tasks = [_task(one) for one in facts]
    results = [task.score(table) for task, table in zip(tasks, tables, strict=True)]
    metric = results[0].main
    by_item = all(isinstance(task, TaskByItem) for task in tasks)
    right = [_right(task, table, metric) if by_item else [] for task, table in zip(tasks, tables, strict=True)]
    by_item = by_item and all(right)
    order = sorted(range(len(names)), key=lambda row: -np.nan_to_num(results[row].value, nan=-math.inf))
    readable = [_in_words(task, table) for task, table in zip(tasks, tables, strict=True)]
    divided = most_divided([right[row] for row in order]) if by_item else []
    board = Leaderboard(
        next(iter(protocols)),
        metric,
        str(facts[0].get("data", {}).get("name", "")),
        len(tables[0]),
        results[0].n_groups,
        tuple(_standing(names[row], results[row]) for row in order),
        _pairings([(names[row], tables[row], tasks[row]) for row in order], metric) if by_item else (),
        tuple(
            Disagreement(
                readable[0][row].uid,
                readable[0][row].question,
                readable[0][row].truth,
                tuple((names[model], readable[model][row].answer, right[model][row]) for model in order),
            )
            for row in divided[:shown]
        ),
        len(divided),
    )
    if page is not None:
        leaderboard_page(Path(page), board, Album(_rows(data)))
    return board


def _rows(data: Any) -> Any:
    from diptych.data.dataset import Pool

    return Pool.from_samples([], name="no data") if data is None else read(data)


def _table(given: Records) -> pa.Table:
    if isinstance(given, pa.Table):
        return given
    path = Path(given)
    if path.is_dir():
        files = sorted(path.glob("*.parquet"))
        if len(files) != 1:
            raise RunError(f"{path} holds {len(files)} files of records (expected one, or name the file)")
        path = files[0]
    return read_records(path)


def _task(facts: Mapping[str, Any]) -> Any:
    """The task that made the records, with its options."""
    name = str(facts.get("protocol", "")).partition(" v")[0]
    return find(name, **facts.get("options", {}))


def _in_words(task: Any, table: pa.Table) -> list[ReadableRow]:
    """Rows as text: by the task, else by the columns that say what was asked, what is true and what came first."""
    if isinstance(task, ReadableTask):
        return task.in_words(table)
    named = set(table.column_names)
    columns = {
        name: table.column(name).to_pylist() for name in ("uid", "query", "text", "direction", "label", "top") if name in named
    }
    rows = []
    for row in range(len(table)):
        value = {name: column[row] for name, column in columns.items()}
        uid = str(value.get("uid") or value.get("query") or "")
        best = value.get("top")
        answer = str(best[0]) if isinstance(best, list) and best else ""
        question = str(value.get("text") or value.get("direction") or uid)
        rows.append(ReadableRow(uid, str(row), question, str(value.get("label", "")), answer))
    return rows


def _sort_rows(table: pa.Table) -> pa.Table:
    """By the columns that name a row, as the paired comparison sorts."""
    return table.sort_by([(name, "ascending") for name in KEYS if name in table.column_names])


def _same_questions(tables: Sequence[pa.Table]) -> None:
    for name in SAME:
        if name not in tables[0].column_names:
            continue
        first = tables[0].column(name).to_pylist()
        for other in tables[1:]:
            there = other.column(name).to_pylist() if name in other.column_names else []
            if there != first:
                pairs = enumerate(zip(first, there, strict=False))
                row = next((row for row, (one, another) in pairs if one != another), min(len(first), len(there)))
                raise DataError(
                    "the models answered different questions", row=row, field=name, expected="records of the same questions"
                )


def _names(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The models' names; where two are the same, with the options in which they differ, or numbered."""
    names = [str((one.get("model") or {}).get("name", "")) or f"model {row}" for row, one in enumerate(facts, 1)]
    options = [one.get("options", {}) for one in facts]
    differ = [name for name in options[0] if any(one.get(name) != options[0][name] for one in options)]
    labels: list[str] = []
    for name, one in zip(names, options, strict=True):
        label = name
        if names.count(name) > 1 and differ:
            label = f"{name} ({', '.join(f'{field} {one.get(field)}' for field in differ)})"
        labels.append(label)
    return [name if labels.count(name) == 1 else f"{name} #{labels[:row].count(name) + 1}" for row, name in enumerate(labels)]


def _right(task: TaskByItem, table: pa.Table, metric: str) -> list[bool]:
    """True for each row that a model has right; empty where the metric is no mean over rows."""
    values_NM = task.item_values(table, metric)
    return [] if values_NM is None else [bool(value == 1) for value in np.nanmax(values_NM, axis=1)]


def _standing(name: str, result: Result) -> LeaderboardRow:
    main = result.metrics[result.main]
    beside = {other: metric.value for other, metric in result.metrics.items() if "/" not in other and other != result.main}
    return LeaderboardRow(name, main.value, main.low, main.high, main.chance, beside)


def _pairings(sides: Sequence[tuple[str, pa.Table, TaskByItem]], metric: str) -> tuple[ModelPair, ...]:
    """Every pair, the better one as `other`. McNemar's mid-p where each row is a group of its own; else signs of whole groups
    are flipped."""
    pairs = []
    for (other, better, its_task), (first, table, task) in combinations(sides, 2):
        turn = iter((task, its_task))  # the two may read replies by different rules
        view = item_view(table, better, lambda rows: next(turn).item_values(rows, metric))  # noqa: B023
        if view is None:
            continue
        test, p = ("sign flips of groups", view.p) if math.isnan(view.mid_p) else ("McNemar, mid-p", view.mid_p)
        pairs.append((first, other, view, test, p))
    adjusted = holm([p for *_, p in pairs])
    return tuple(ModelPair(*one, corrected) for one, corrected in zip(pairs, adjusted, strict=True))
