"""Column tables: what is written is read, with the step that made it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import DataError, UnknownName
from diptych.data.columns import MadeBy, column_of, read_table, table_names, write_table

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(words, st.floats(allow_nan=False), st.lists(st.integers(-(2**40), 2**40), max_size=3), words),
        min_size=1,
        max_size=8,
    ),
    st.dictionaries(words, st.one_of(words, st.integers(), st.lists(words, max_size=2)), max_size=3),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, float, list[int], str]], config: dict
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    uid, score, boxes, note = zip(*rows, strict=True)
    table = pa.table(
        {"uid": pa.array(uid, pa.string()), "score": score, "boxes": pa.array(boxes, pa.list_(pa.int64())), "note": note}
    )
    made_by = MadeBy("some_step", config)
    first = write_table(folder, "a", table, made_by).read_bytes()
    again = read_table(folder, "a")
    assert again.table.to_pylist() == table.to_pylist()
    assert again.made_by == {"step": "some_step", "config": config, "config_hash": made_by.config_hash}
    assert write_table(folder, "a", table, made_by).read_bytes() == first


def test_names_and_uids_are_checked(tmp_path: Path) -> None:
    good = pa.table({"uid": ["a"], "score": [1]})
    write_table(tmp_path, "aesthetics", good, MadeBy("s"))
    assert table_names(tmp_path) == ["aesthetics"]
    with pytest.raises(UnknownName, match="did you mean 'aesthetics'"):
        read_table(tmp_path, "aestetics")
    with pytest.raises(DataError, match="cannot be a file name"):
        write_table(tmp_path, "../out", good, MadeBy("s"))
    with pytest.raises(DataError, match="no column 'uid'"):
        write_table(tmp_path, "b", pa.table({"id": ["a"]}), MadeBy("s"))
    with pytest.raises(DataError, match="1 rows have no uid"):
        write_table(tmp_path, "b", pa.table({"uid": ["a", None]}), MadeBy("s"))
    (tmp_path / "tables/broken.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match=r"broken\.parquet: is not readable as Parquet"):
        read_table(tmp_path, "broken")


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([1, 2, None], True),
        (["a", None], True),
        ([[1, 2], []], True),
        ([True, False], True),
        ([1, 1.5], False),
        ([1, True], False),
        ([{"a": 1}], False),
        ([(1, 2)], False),
        ([2**70], False),
        (["\ud800"], False),
        ([None], False),
        ([[1, "a"]], False),
    ],
)
def test_arrow_takes_only_what_it_gives_back(values: list[object], kept: bool) -> None:
    column = column_of(values)
    assert (column is not None) == kept
    if column is not None:
        assert column.to_pylist() == values
