"""Items that one arm gets right under all seeds and another under no seed, with pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diptych.core.randomness import keyed_rng
from diptych.report import page
from diptych.report.comparison_result import ComparisonResult
from diptych.report.pictures import Album

SHOWN = 6  # items of each side, split and pair of arms

Key = tuple[Any, ...]
Row = dict[str, Any]

COLUMNS = (
    {"credit", "uid", "kind", "roles", "options", "scores"},
    {"rank_expected", "query", "text", "group", "top"},
    {"rank_expected", "uid", "label", "top"},
)
"""Columns by which a row is judged and shown: of choices between captions, of retrieval, of classes. Other tasks declare theirs
(`diptych.core.contracts.ReportColumns`)."""


@dataclass(frozen=True, slots=True)
class _ArmAnswers:
    """Records of one arm: the rows of every seed by item, and the items that are right in all or in none.

    declared  role -> column, of a task that declares what reports read; empty of a task with one of the sets in `COLUMNS`
    """

    seeds: tuple[dict[Key, Row], ...]
    declared: Mapping[str, str] = field(default_factory=dict)
    readable: bool = True

    def right(self, row: Row) -> bool:
        if self.declared:
            return bool(row[self.declared["right"]] == 1)
        return bool(row["credit"] == 1.0) if "credit" in row else bool(row["rank_expected"] <= 1.0)

    def always(self, key: Key) -> bool:
        return all(self.right(rows[key]) for rows in self.seeds)

    def never(self, key: Key) -> bool:
        return not any(self.right(rows[key]) for rows in self.seeds)


def won_and_lost(measured: ComparisonResult, album: Album) -> tuple[str, ...]:
    """Blocks for every task, split and arm against the first; a few items each, drawn at random."""
    blocks: list[str] = []
    nothing: list[str] = []
    unreadable: list[str] = []
    first = measured.arms[0]
    for measure in measured.main_measures:
        answers = {arm: _answers(measured, arm, measure.task, measure.split) for arm in measured.arms}
        for arm in measured.arms[1:]:
            pair = answers[first], answers[arm]
            if not all(side.readable for side in pair):
                unreadable.append(f"{measure.task} on {measure.split.replace('_', ' ')}")
                continue
            if not all(side.seeds for side in pair):
                continue
            keys = [key for key in pair[0].seeds[0] if all(key in rows for side in pair for rows in side.seeds)]
            for winner, loser in ((arm, first), (first, arm)):
                won = [key for key in keys if answers[winner].always(key) and answers[loser].never(key)]
                every = "" if measured.given else " under every seed"
                none = "" if measured.given else " under none"
                words = f"{measure.task} on {measure.split.replace('_', ' ')}: {winner} right{every}, {loser}{none}"
                if not won:
                    nothing.append(words)
                    continue
                blocks.append(page.heading(f"{words}: {len(won):,} of {len(keys):,}"))
                chosen = keyed_rng("won", measure.split, winner).permutation(len(won))[:SHOWN]
                blocks.append(_items([won[i] for i in chosen], winner, loser, answers, album))
    if not blocks and not nothing and not unreadable:
        return ()
    note = page.text("Drawn at random among those. A right answer has a green frame.", note=True) if blocks else ""
    rest = (page.text("There is no item with", note=True), page.lines(nothing)) if nothing else ()
    missing = "Records without columns that this section reads (a task names its own as `report_columns`):"
    aside = (page.text(missing, note=True), page.lines(list(dict.fromkeys(unreadable)))) if unreadable else ()
    return (note, *blocks, *rest, *aside)


def _answers(measured: ComparisonResult, arm: str, task: str, split: str) -> _ArmAnswers:
    """Rows of the records with a query to show: of retrieval, the texts that ask for a picture."""
    by_seed, declared = [], {}
    for folder in measured.folders.get(arm, {}).values():
        path = _records(Path(folder), task.partition(":")[0], split)
        if path is None:
            continue
        table = pq.read_table(path)
        declared = _declared(table)
        if not declared and not any(names <= {*table.column_names} for names in COLUMNS):
            return _ArmAnswers((), readable=False)
        rows = [row for row in table.to_pylist() if row.get("direction", "text_to_image") == "text_to_image"]
        by_seed.append({_key(row, declared): row for row in rows})
    return _ArmAnswers(tuple(by_seed), declared)


def _declared(table: pa.Table) -> dict[str, str]:
    """Role -> column, as the evaluation wrote it into the metadata of the records; empty where the task declares nothing."""
    facts = json.loads((table.schema.metadata or {}).get(b"diptych", b"{}"))
    declared: dict[str, str] = facts.get("report_columns", {})
    return declared


def _records(folder: Path, task: str, split: str) -> Path | None:
    """Records of that task on that split: their file ends in the split's name as file names spell it."""
    tail = re.sub(r"[^A-Za-z0-9._-]+", "-", split)
    paths = sorted((folder / "records").glob(f"{task}-*{tail}.parquet"), key=lambda path: len(path.name))
    return paths[0] if paths else None


def _key(row: Row, declared: Mapping[str, str]) -> Key:
    if declared:
        return (row[declared["item"]],)
    return tuple(row.get(name) for name in ("uid", "query", "text", "case"))


def _items(keys: Sequence[Key], winner: str, loser: str, answers: dict[str, _ArmAnswers], album: Album) -> str:
    """Of retrieval a row for each, with the answers of both; of everything else a picture for each, with what the loser answered."""
    pairs = [(answers[winner].seeds[0][key], answers[loser].seeds[0][key]) for key in keys]
    if declared := answers[winner].declared:
        return page.sheet([each for good, bad in pairs for each in _declared_figure(good, bad, loser, declared, album)])
    if "top" in pairs[0][0] and "query" in pairs[0][0]:
        return "".join(_row_of_query(good, bad, winner, loser, album) for good, bad in pairs)
    figures = []
    for good, bad in pairs:
        if "roles" in good:
            true = good["options"][good["roles"].index("true")]
            preferred = bad["options"][max(range(len(bad["scores"])), key=lambda i: bad["scores"][i])]
            words = f"“{true}”. {loser} prefers “{preferred}” ({good['kind'].replace('_', ' ')})"
        else:
            words = f"{good['label']}. {loser} says {bad['top'][0]}"
        figures += _figures([(album.of(good["uid"])[0] if good["uid"] in album else "", words, True)])
    return page.sheet(figures)


def _declared_figure(good: Row, bad: Row, loser: str, declared: Mapping[str, str], album: Album) -> list[str]:
    uid = good[declared["uid"]] if declared["uid"] else ""
    words = f"{good[declared['truth']]}. {loser} says {bad[declared['answer']]}"
    return [page.figure(album.of(uid)[0] if uid in album else "", words, right=True)]


def _row_of_query(good: Row, bad: Row, winner: str, loser: str, album: Album) -> str:
    figures = [(album.of(good["query"])[0] if good["query"] in album else "", "wanted", True)]
    for arm, row in ((winner, good), (loser, bad)):
        for index, uid in enumerate(album.present(row["top"][:3])):
            figures.append((album.of(uid)[0], f"{arm}: {index + 1}", _group(album, uid) == row["group"]))
    return page.query_row(good["text"], f"{loser}: first right answer at rank {bad['rank_expected']:.0f}", _figures(figures))


def _figures(items: Sequence[tuple[str, str, bool]]) -> list[str]:
    return [page.figure(picture, caption, right=right) for picture, caption, right in items if picture]


def _group(album: Album, uid: str) -> str:
    sample = album.sample(uid)
    return sample.group or sample.uid
