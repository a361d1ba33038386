"""What `benchmarks/contrastive_loss.py` last wrote down keeps what the guide says: time, saved memory, growth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

RECORD = Path(__file__).parents[2] / "benchmarks/results/amx/contrastive_loss.json"


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["loss"], row["B"]): row for row in json.loads(RECORD.read_text())["rows"]}


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid_pairs"])
def test_a_sixteenth_of_the_memory_and_less_than_half_of_the_time(loss: str, rows: dict[tuple[str, int], dict[str, Any]]) -> None:
    row = rows[loss, 4096]
    assert row["D"] == 256
    assert row["memory_ratio"] <= 1 / 16
    assert row["time_ratio"] <= 0.45


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid_pairs"])
def test_memory_is_linear_in_the_batch(loss: str, rows: dict[tuple[str, int], dict[str, Any]]) -> None:
    each = [rows[loss, size]["saved_mib"] / size for size in (1024, 2048, 4096, 8192, 16384, 32768)]
    assert max(each) <= 1.001 * min(each)
