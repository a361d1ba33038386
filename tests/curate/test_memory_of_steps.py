"""Steps over texts hold Arrow columns and arrays, and no Python object a row."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from diptych.core.contracts import CurationStepResult, Drop
from diptych.curate.duplicates import text_candidates
from diptych.curate.duplicates.exact import ExactDuplicates
from diptych.curate.duplicates.text import TextDuplicates
from diptych.curate.engine import images, run, verdicts
from diptych.curate.engine.images import first_equal, repeated
from diptych.curate.engine.pool import curate
from diptych.curate.engine.run import count_distinct
from diptych.curate.engine.verdicts import ColumnByUid, DropTable, StringColumn, verdict_result, verdict_table
from diptych.curate.operators import align, alt_text, laion
from diptych.curate.operators.align import AlignFilters
from diptych.curate.operators.laion import LAION
from diptych.data import fingerprint
from diptych.data.dataset import Pool
from diptych.data.media.images import ImageObjects
from diptych.data.ragged import Ragged
from diptych.data.texts import Texts

SMALL, LARGE, BLOCK = 600, 6_000, 200
"""Rows, and rows of which there are Python objects at a time."""


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (verdicts, fingerprint, align, alt_text, laion, text_candidates):
        monkeypatch.setattr(module, "BLOCK", BLOCK)
    monkeypatch.setattr(images, "PART_ROWS", BLOCK)
    monkeypatch.setattr(run, "BATCH_ROWS", BLOCK)
    monkeypatch.setattr(text_candidates, "CACHED", BLOCK)


def links(rows: int) -> Pool:
    """Rows with an address and a text of ten words out of 5,000; one text in ten is that of the row before with a full stop."""
    words = [f"{number:05x}" for number in range(5_000)]
    texts = [" ".join(words[n] for n in drawn) for drawn in np.random.default_rng(0).integers(0, 5_000, (rows, 10)).tolist()]
    for row in range(10, rows, 10):
        texts[row] = f"{texts[row - 1]}."
    uids = pa.array([f"{row:08d}" for row in range(rows)])
    columns = {"uid": uids, "url": pa.array([f"https://example.org/{row}.jpg" for row in range(rows)])}
    table = pa.table({"string": pa.array(texts, pa.large_string()), "language": [""] * rows, "origin": ["alt"] * rows})
    return Pool("links", columns, Texts(Ragged.by_row(table, np.arange(rows), rows)), ImageObjects((None,) * rows))


def peak_bytes(data: Pool, step: Any, out: Path) -> int:
    """Peak of what Python and numpy allocate while a step runs."""
    gc.collect()
    tracemalloc.start()
    try:
        curate(data, [step], out)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("step", "bytes_a_row"),
    [
        (ExactDuplicates(), 80),
        (AlignFilters(short_side=0, min_words=0, max_words=0), 80),
        (TextDuplicates(), 250),
        (LAION(min_bytes=0), 100),
    ],
)
def test_memory_of_python_and_numpy_by_row(step: Any, bytes_a_row: int, tmp_path: Path) -> None:
    peak_bytes(links(SMALL), step, tmp_path / "imports and models")
    few, many = (peak_bytes(links(rows), step, tmp_path / str(rows)) for rows in (SMALL, LARGE))
    grown = (many - few) / (LARGE - SMALL)
    print(step.slug, round(grown), "bytes a row")
    assert grown < bytes_a_row


def test_arrow_columns_equal_the_sequences_they_stand_for() -> None:
    drops = [Drop("b", "s", "near a"), Drop("d", "s", "")]
    table = verdict_table(CurationStepResult(("c", "a"), drops))
    assert table.to_pydict() == {
        "uid": ["a", "b", "c", "d"],
        "kept": [True, False, True, False],
        "reason": ["", "near a", "", ""],
    }
    again = verdict_result(table, "s", {}, 0.0)
    assert again.kept == ("a", "c")
    assert list(again.kept[::-1]) == ["c", "a"]
    assert again.dropped == drops
    assert again.dropped[-1] == drops[-1]
    assert again.dropped != drops[::-1]
    assert verdict_table(again).equals(table)
    assert StringColumn(pa.array(["a"])) != ("b",)
    assert ColumnByUid(pa.table({"uid": ["a", "b"], "n": [1, None]})) == {"a": 1, "b": None}
    assert DropTable.of(again.dropped) is again.dropped


def test_first_equal_and_repeated_equal_the_loop() -> None:
    values = np.random.default_rng(0).integers(0, 40, 60).tolist()
    column = pa.chunked_array(
        [pa.array([None if v < 5 else str(v) for v in part], pa.string()) for part in (values[:25], values[25:])]
    )
    plain = column.to_pylist()
    assert first_equal(column).tolist() == [-1 if value is None else plain.index(value) for value in plain]
    assert repeated(first_equal(column)).tolist() == [value is not None and plain.count(value) > 1 for value in plain]


def test_distinct_values_are_counted_alike_by_arrow_and_daft(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"text": rng.integers(0, 9, 200).astype(str), "image": rng.integers(0, 12, 200)})
    pairs = set(zip(table["text"].to_pylist(), table["image"].to_pylist(), strict=True))
    expected = sorted((text, sum(other == text for other, _ in pairs)) for text in {text for text, _ in pairs})
    made = []
    for engine in ([], ["ray"]):  # Daft's frame is the same on its local runner, which runs here
        monkeypatch.setattr("diptych.curate.engine.run._CHOSEN", engine)
        made.append(count_distinct(table, "text", "image"))
    for counts in made:
        assert sorted(zip(counts["text"].to_pylist(), counts["count"].to_pylist(), strict=True)) == expected
