"""Failures of one result by group, folded: all ranks of a retrieval, kinds of a probe, classes, answers of tasks that declare columns."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from diptych.core.randomness import keyed_rng
from diptych.report import page
from diptych.report.evaluation import StoredResult
from diptych.report.pictures import Album

GROUPS = 40
SHOWN = 18
"""Pictures of a group, drawn at random among its failures."""
RANKS = (5, 20)
"""Ends of the groups of ranks: 2 to 5, 6 to 20, later."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """A row that is wrong: the sample whose picture is shown, and what was wanted and given."""

    group: str
    uid: str
    words: str


def failure_blocks(kept: StoredResult, album: Album) -> list[str]:
    """Folds of failures, the largest groups first; none where the records have no columns by which a row is judged."""
    if not kept.records.is_file():
        return []
    table = pq.read_table(kept.records)
    facts = json.loads((table.schema.metadata or {}).get(b"diptych", b"{}"))
    names = set(table.column_names)
    rows = table.to_pylist()
    groups: dict[str, list[_Failure]] = defaultdict(list)
    for failure in _failures(rows, names, facts.get("report_columns", {})):
        groups[failure.group].append(failure)
    order = sorted(groups, key=lambda name: (-len(groups[name]), name))
    blocks = []
    for name in order[:GROUPS]:
        members = groups[name]
        drawn = keyed_rng("failures", kept.part, name).permutation(len(members))[:SHOWN]
        chosen = [members[row] for row in sorted(drawn)]
        figures = [page.figure(album.of(one.uid)[0] if one.uid in album else "", one.words) for one in chosen]
        more = f", {len(chosen)} drawn at random" if len(chosen) < len(members) else ""
        blocks.append(page.folded_blocks(f"{name}: {len(members):,}{more}", [page.sheet(figures)]))
    if len(order) > GROUPS:
        rest = sum(len(groups[name]) for name in order[GROUPS:])
        blocks.append(page.text(f"{rest:,} more in {len(order) - GROUPS:,} further groups.", note=True))
    return blocks


def _failures(rows: list[dict[str, Any]], names: set[str], declared: dict[str, str]) -> Iterator[_Failure]:
    if declared:
        truths = Counter(str(row[declared["truth"]]) for row in rows)
        classes = len(truths) <= GROUPS  # else every row would be a group of its own
        for row in rows:
            if row[declared["right"]] != 1:
                truth, answer = str(row[declared["truth"]]), str(row[declared["answer"]])
                uid = str(row[declared["uid"]]) if declared["uid"] else ""
                yield _Failure(truth if classes else "wrong", uid, f"{truth}: answered {answer}")
    elif {"rank_expected", "query", "text", "direction", "top"} <= names:
        for row in rows:
            if row["rank_expected"] > 1 and row["direction"] == "text_to_image":
                first = f", first is {row['top'][0]}" if row["top"] else ""
                yield _Failure(
                    _rank_group(row["rank_expected"]), row["query"], f"{row['text']} (rank {row['rank_expected']:.0f}{first})"
                )
    elif {"rank_expected", "uid", "label", "top"} <= names:
        for row in rows:
            if row["rank_expected"] > 1:
                answer = row["top"][0] if row["top"] else "nothing"
                yield _Failure(str(row["label"]), row["uid"], f"{row['label']}: answered {answer}")


def _rank_group(rank: float) -> str:
    low = 2
    for high in RANKS:
        if rank <= high:
            return f"rank {low} to {high}"
        low = high + 1
    return f"rank {low} or later"
