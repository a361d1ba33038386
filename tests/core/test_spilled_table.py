"""Columns that are spilled have the type and values that `pyarrow.array` gives a list of all of them."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from diptych.core.disk.spilled_table import BLOCK, ColumnFile, column_of, common_type, mapped, spill_column

KINDS: list[list[Any]] = [
    [1, 2, 3],
    [1.5, 2.0],
    [True, False],
    ["a", "ü"],
    [b"x"],
    [None],
    [[1], [], None],
    [["a"], [None]],
    [[1.5]],
    [{"a": 1}, {"b": "x"}],
    [{"a": None}, {}],
    [Decimal("1.5")],
    [2**63],
    [2**70],
]


def spilled(blocks: list[list[Any]], path: Path) -> pa.ChunkedArray:
    spill_column(path, lambda: iter(blocks))
    with mapped({"value": path}) as table:
        return pa.chunked_array(
            [pa.concat_arrays(table["value"].chunks)] if blocks and table.num_rows else [], table["value"].type
        )


@pytest.mark.parametrize("seed", range(60))
def test_any_mixture_has_the_type_of_the_whole_list(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    kinds = draw.sample(KINDS, draw.choice([1, 2, 2, 3]))
    values = [draw.choice(draw.choice(kinds)) for _ in range(40)]
    if seed % 2:  # each kind in blocks of its own
        values.sort(key=lambda value: type(value).__name__)
    blocks = [values[start : start + 3] for start in range(0, 40, 3)]
    try:
        expected = pa.array(values)
    except (pa.ArrowException, OverflowError):
        expected = pa.array([None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in values])
    got = spilled(blocks, tmp_path / "column.arrow")
    assert got.type == expected.type
    assert got.to_pylist() == expected.to_pylist()
    assert column_of(values).equals(expected)


def test_a_value_that_alone_does_not_fit_turns_the_column_to_json(tmp_path: Path) -> None:
    """The type is still int64 after the first block, and the text comes last."""
    got = spilled([[1] * 5, [None], ["x"]], tmp_path / "column.arrow")
    assert got.to_pylist() == ["1"] * 5 + [None, '"x"']
    assert common_type([[1, 2], [2.5]]) == pa.float64()
    assert common_type([[1], [[1]]]) is None
    assert common_type([]) == pa.null()


def test_blocks_end_by_rows_and_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.core.disk.spilled_table.BLOCK_BYTES", 100)
    with ColumnFile(tmp_path / "rows", pa.int64()) as file:
        file.extend(range(BLOCK + 1))
    with ColumnFile(tmp_path / "bytes", pa.binary()) as file:
        for _ in range(3):
            file.append(b"x" * 60, 60)
    with mapped({"rows": tmp_path / "rows"}) as table:
        assert [len(chunk) for chunk in table["rows"].chunks] == [BLOCK, 1]
    with mapped({"bytes": tmp_path / "bytes"}) as table:
        assert [len(chunk) for chunk in table["bytes"].chunks] == [2, 1]
