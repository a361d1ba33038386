"""Column tables: what is written is read, with the step that made it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import DataError, UnknownName
from diptych.data.columns import MadeBy, column_of, read_parquet, read_table, rows_of_uid, table_names, write_parquet, write_table

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


def test_rows_of_one_uid_over_row_groups(tmp_path: Path) -> None:
    table = pa.table({"uid": ["a", "b", "a", "c", "a"], "value": [1, 2, 3, 4, 5], "boxes": [[1.0], [], [2.0], None, [3.0]]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    assert rows_of_uid(tmp_path / "t.parquet", "a") == [row for row in table.to_pylist() if row["uid"] == "a"]
    assert rows_of_uid(tmp_path / "t.parquet", "x") == []
    write_parquet(tmp_path / "u.parquet", pa.table({"value": [1]}))
    assert rows_of_uid(tmp_path / "u.parquet", "a") == []
    (tmp_path / "v.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-20])
    with pytest.raises(DataError, match=r"v.parquet: is not readable as Parquet"):
        rows_of_uid(tmp_path / "v.parquet", "a")


def test_parquet_is_read_without_a_file_of_python_that_a_thread_of_arrow_could_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "t.parquet", pa.table({"uid": ["a"], "value": [1]}))
    sources = []
    real = pq.ParquetFile

    def watched(source: object) -> object:
        sources.append(source)
        return real(source)

    monkeypatch.setattr(pq, "ParquetFile", watched)
    monkeypatch.setattr(pq, "read_table", None)
    assert read_parquet(tmp_path / "t.parquet", ["value"]).to_pylist() == [{"value": 1}]
    assert rows_of_uid(tmp_path / "t.parquet", "a") == [{"uid": "a", "value": 1}]
    assert {type(source) for source in sources} == {pa.OSFile}
    with pytest.raises(DataError, match="has no column 'other'"):
        read_parquet(tmp_path / "t.parquet", ["value", "other"])
