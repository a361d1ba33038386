"""Failures of a result: every wrong row is counted in its group, right ones are not, and pictures are drawn at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diptych.core.image import ArrayImage
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.report.evaluation import StoredResult
from diptych.report.failures import SHOWN, failure_blocks
from diptych.report.pictures import Album
from diptych.tasks._scoring.records import with_facts


@pytest.fixture(scope="module")
def album() -> Album:
    pixels = np.zeros((8, 8, 3), np.uint8)
    return Album(Pool.from_samples([Sample(f"s{row}", ArrayImage(pixels), (Text(f"thing {row}"),)) for row in range(40)]))


def kept(path: Path, rows: list[dict[str, Any]], **facts: Any) -> StoredResult:
    table = pa.Table.from_pylist(rows)
    pq.write_table(with_facts(table, **facts) if facts else table, path / "a.parquet")
    return StoredResult("data/test", Result("t", 1, "r@1", {"r@1": Metric(0.5)}, 1, 1), path / "a.parquet")


def test_queries_are_grouped_by_rank(album: Album, tmp_path: Path) -> None:
    ranks = [1.0] * 5 + [2.0, 5.0, 6.0] + [21.0] * 30
    rows = [
        {"query": f"s{row % 40}", "text": f"thing {row}", "direction": "text_to_image", "rank_expected": rank, "top": ["s1"]}
        for row, rank in enumerate(ranks)
    ]
    rows.append({**rows[-1], "direction": "image_to_text"})
    blocks = failure_blocks(kept(tmp_path, rows), album)
    assert [block.partition("</summary>")[0].rpartition(">")[2] for block in blocks] == [
        f"rank 21 or later: 30, {SHOWN} drawn at random", "rank 2 to 5: 2", "rank 6 to 20: 1",
    ]  # fmt: skip
    assert blocks[0].count("<figure") == SHOWN
    assert "rank 5, first is s1" in blocks[1]


def test_classes_and_declared_answers(album: Album, tmp_path: Path) -> None:
    rows = [{"uid": "s0", "label": "cat", "rank_expected": 1.0, "top": ["cat"]}]
    rows += [{"uid": "s1", "label": "dog", "rank_expected": 3.0, "top": ["<b>cat"]}] * 2
    (block,) = failure_blocks(kept(tmp_path, rows), album)
    assert "dog: 2" in block
    assert "answered &lt;b&gt;cat" in block
    columns = {"item": "n", "right": "ok", "truth": "gold", "answer": "said", "uid": "uid"}
    rows = [{"n": n, "ok": int(n % 2), "gold": "yes" if n < 4 else "no", "said": "maybe", "uid": "s2"} for n in range(6)]
    blocks = failure_blocks(kept(tmp_path, rows, report_columns=columns), album)
    assert [block.partition("</summary>")[0].rpartition(">")[2] for block in blocks] == ["yes: 2", "no: 1"]
    assert failure_blocks(kept(tmp_path, [{"other": 1}]), album) == []
