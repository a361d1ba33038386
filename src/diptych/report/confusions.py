"""Confusions of a caption probe: pictures with the true caption and the false one that a model prefers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from diptych.core.contracts import Dataset
from diptych.core.disk.files import write_atomic
from diptych.report import page
from diptych.report.evaluation import StoredResult, chart_of, table_of
from diptych.report.pictures import Album

NEEDED = {"uid", "kind", "options", "roles", "scores"}
SHOWN = 8  # of each kind of mistake
KINDS = 30


def confused(kept: StoredResult, album: Album, *, count: int = SHOWN) -> list[str]:
    """Confused cases of each kind, in which a false caption scores highest above every true one, the widest apart first; the kinds
    with the largest share of such cases first. Needs records of a probe of captions; none for others."""
    if not kept.records.is_file() or not set(pq.read_schema(kept.records).names) >= NEEDED:
        return []
    rows = pq.read_table(kept.records).to_pylist()
    total = Counter(row["kind"] for row in rows)
    wrong: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for row in rows:
        if (margin := _margin(row)) > 0:
            wrong.setdefault(row["kind"], []).append((margin, row))
    order = sorted(wrong, key=lambda kind: (-len(wrong[kind]) / total[kind], kind))
    blocks = []
    for kind in order[:KINDS]:
        worst = sorted(wrong[kind], key=lambda each: (-each[0], each[1]["uid"]))
        figures = [_figure(row, album) for _, row in worst[:count] if row["uid"] in album]
        if figures:
            words = kind.replace("_", " ")
            blocks += [page.heading(f"{words}: {len(worst):,} of {total[kind]:,} confused"), page.sheet(figures)]
    if len(order) > KINDS:
        blocks.append(page.text(f"{len(order) - KINDS:,} further kinds have confused cases.", note=True))
    return blocks


def confused_page(path: Path, title: str, parts: Sequence[tuple[StoredResult, Dataset]]) -> Path:
    """Writes a page of the metrics of some results and the confused cases; each result with the data that its records are of."""
    sections = [page.Section("Result", (chart_of([kept for kept, _ in parts]), *(table_of(kept) for kept, _ in parts)))]
    for kept, data in parts:
        note = page.text("The true caption, and the false one that scores higher; the widest apart come first.", note=True)
        blocks = confused(kept, Album(data)) or [page.text("There is no case in which a false caption scores higher.", note=True)]
        sections.append(page.Section(f"Confused: {kept.part.rpartition('/')[2].replace('_', ' ')}", (note, *blocks)))
    lead = "Which captions a model takes for true, with their pictures."
    write_atomic(path, page.page(title, lead, sections))
    return path


def _margin(row: dict[str, Any]) -> float:
    """Score of the best false option minus that of the best true one."""
    best = {role: max(s for s, r in zip(row["scores"], row["roles"], strict=True) if r == role) for role in ("true", "false")}
    return float(best["false"] - best["true"])


def _figure(row: dict[str, Any], album: Album) -> str:
    ranked = sorted(zip(row["scores"], row["roles"], row["options"], strict=True), key=lambda each: -each[0])
    (high, _, preferred), (low, _, true) = (next(each for each in ranked if each[1] == role) for role in ("false", "true"))
    return page.figure(album.of(row["uid"])[0], f"“{true}” {low:.3f}, but “{preferred}” {high:.3f}")
