"""Results and records as blocks of a page: metrics with intervals, hits and misses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from diptych.core.randomness import keyed_rng
from diptych.core.result import TRAINING_ROWS, Result
from diptych.core.run_folder import RunFolder
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.data.media.decode import decode
from diptych.report import page
from diptych.report.curves import Bar, interval_chart
from diptych.report.graphs import compared_block
from diptych.report.pictures import Album


@dataclass(frozen=True, slots=True)
class StoredResult:
    """Stored result with its records. `part` is the name of the rows: "emoji/unseen_style"."""

    part: str
    result: Result
    records: Path


def stored_results(folder: Path) -> list[StoredResult]:
    """Results below `records/`, in the order of file names; those on training rows last."""
    results = []
    for path in sorted(folder.glob("*.json")):
        result = Result.from_json(json.loads(path.read_text(encoding="utf-8")))
        part = str(result.notes.get("data", {}).get("name", path.stem))
        results.append(StoredResult(part, result, path.with_suffix(".parquet")))
    return sorted(results, key=lambda kept: kept.part.endswith(f"/{TRAINING_ROWS}"))


def results_by_split(run: RunFolder) -> dict[str, Result]:
    """The results that a run folder holds, by the name of the held-out rows."""
    return {stored.part.rpartition("/")[2]: stored.result for stored in stored_results(run.records)}


def chart_of(results: Sequence[StoredResult]) -> str:
    """Chart of the main metric of every result, with interval over groups and level of chance."""
    bars = [
        Bar(kept.part.rpartition("/")[2], m.value, m.low, m.high, chance=m.chance, colour=index)
        for index, kept in enumerate(results)
        for m in [kept.result.metrics[kept.result.main]]
    ]
    return interval_chart(f"{results[0].result.task}: {results[0].result.main}", bars) if results else ""


def table_of(kept: StoredResult) -> str:
    """Table of every metric of one result, and the facts that the protocol declares."""
    result = kept.result
    rows = [(name, str(metric), metric.chance) for name, metric in result.metrics.items()]
    facts = f"{result.task} v{result.version} on {kept.part}: {result.n_items:,} items in {result.n_groups:,} groups"
    plain = {key: value for key, value in result.notes.items() if isinstance(value, str | int | float | bool)}
    notes = "; ".join(f"{key} {_short(value)}" for key, value in plain.items())
    return page.heading(facts) + page.table(("metric", "value [95 % over groups]", "chance"), rows) + page.text(notes, note=True)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def hits_and_misses(kept: StoredResult, album: Album, *, count: int = 6, seed: int = 0) -> tuple[list[str], list[str]]:
    """Rows of text queries with their results: some drawn at random, and those with the worst rank. Needs retrieval records."""
    if not kept.records.is_file():
        return [], []
    table = pq.read_table(kept.records)
    if not {"direction", "text", "query", "group", "top", "rank_expected", "gallery"} <= set(table.column_names):
        return [], []
    rows = [row for row in table.to_pylist() if row["direction"] == "text_to_image" and row["query"] in album]
    if not rows:
        return [], []
    rng = keyed_rng(seed, "report", kept.part)
    drawn = [rows[i] for i in rng.permutation(len(rows))[:count]]
    worst = [rows[i] for i in np.argsort([-row["rank_expected"] for row in rows], kind="stable")[:count]]
    return [_row(row, album) for row in drawn], [_row(row, album, wanted=True) for row in worst]


def graphs_compared(kept: StoredResult, album: Album, *, count: int = 4, seed: int = 0) -> list[str]:
    """True scene graphs beside predicted ones, of images drawn at random. Needs records of a relation protocol."""
    if not kept.records.is_file():
        return []
    table = pq.read_table(kept.records)
    if not {"uid", "truth_box", "box", "truth_predicate", "predicate", "confidence"} <= set(table.column_names):
        return []
    rows = [row for row in table.to_pylist() if row["uid"] in album and row["truth_predicate"]]
    rng = keyed_rng(seed, "report", kept.part)
    blocks = []
    for i in rng.permutation(len(rows))[:count]:
        image = album.sample(rows[i]["uid"]).image
        if image is not None:
            blocks.append(compared_block(decode(image), _graph(rows[i], "truth_"), _graph(rows[i], ""), rows[i]["uid"]))
    return blocks


def _graph(row: dict[str, Any], prefix: str) -> SceneGraph:
    """Scene graph of one side of a record; of a prediction only as many relations as the truth has and ten more, the most confident
    ones."""
    boxes, labels, subjects, predicates, objects = (
        row[f"{prefix}{name}"] for name in ("box", "label", "subject", "predicate", "object")
    )
    confidence = [1.0] * len(subjects) if prefix else row["confidence"]
    relations = [Relation(*each) for each in zip(subjects, predicates, objects, confidence, strict=True)]
    best = sorted(relations, key=lambda relation: -relation.confidence)
    shown = relations if prefix else best[: len(row["truth_predicate"]) + 10]
    # A predicted box may have no area: it was scored, and cannot be drawn.
    at = {index: new for new, index in enumerate(n for n, (x0, y0, x1, y1) in enumerate(boxes) if x1 > x0 and y1 > y0)}
    regions = tuple(Region(tuple(boxes[index]), labels[index]) for index in at)
    drawn = (
        replace(edge, subject=at[edge.subject], object=at[edge.object])
        for edge in shown
        if {edge.subject, edge.object} <= set(at)
    )
    return SceneGraph(regions, tuple(drawn))


def _row(row: dict[str, Any], album: Album, *, wanted: bool = False) -> str:
    rank = f"first right answer at rank {row['rank_expected']:.0f} of {row['gallery']:,}"
    figures = []
    if wanted:
        picture, words = album.of(row["query"])
        figures.append(page.figure(picture, f"wanted: {words}", right=True))
    for uid in album.present(row["top"]):
        picture, words = album.of(uid)
        figures.append(page.figure(picture, words, right=_group(album, uid) == row["group"]))
    return page.query_row(row["text"], rank, figures)


def _group(album: Album, uid: str) -> str:
    sample = album.sample(uid)
    return sample.group or sample.uid
