"""Columns out: what is written reads again, here and by the libraries that it is for."""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import diptych as dp
from diptych.cli import main
from diptych.core.errors import UnknownName
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.export import FORMS, export_pool
from diptych.data.lineage.record import lineage_of
from diptych.data.shards.build import build


@pytest.fixture
def pool() -> Pool:
    samples = [
        Sample(
            f"s{row}",
            ArrayImage(np.full((6, 8, 3), row * 50, np.uint8)),
            (Text(f"thing, {row}"), Text("wrong", origin="negative"), Text("more")),
            group=f"g{row}",
            extras={"score": row / 2, "split": "train" if row else "test", "embedding": [0.5, float(row)]},
        )
        for row in range(3)
    ]
    return Pool.from_samples(samples, name="three")


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_reads_again(form: str, pool: Pool, tmp_path: Path) -> None:
    if form == "datasets":
        datasets = pytest.importorskip("datasets")
    assert export_pool(pool, tmp_path / "out", form) == 3
    out = tmp_path / "out"
    again = dp.read(
        datasets.load_from_disk(str(out)) if form == "datasets" else out, text="caption" if form != "img2dataset" else None
    )
    assert [again[row].texts[0].string for row in range(3)] == [f"thing, {row}" for row in range(3)]
    assert [again[row].image.pil().getpixel((0, 0))[0] for row in range(3)] == pytest.approx([0, 50, 100], abs=2)  # type: ignore[union-attr]
    assert again.column("split") == ["test", "train", "train"]
    assert again.column("score") == [0.0, 0.5, 1.0]


def test_every_column_is_there(pool: Pool, tmp_path: Path) -> None:
    export_pool(pool, tmp_path / "csv", "csv")
    rows = list(csv.DictReader((tmp_path / "csv" / "data.csv").open()))
    assert json.loads(rows[2]["captions"]) == ["thing, 2", "more"]
    assert json.loads(rows[2]["embedding"]) == [0.5, 2.0]
    export_pool(pool, tmp_path / "parquet", "parquet", images=False)
    table = pq.read_table(tmp_path / "parquet" / "data.parquet")
    assert "image" not in table.column_names
    assert table["embedding"].to_pylist()[1] == [0.5, 1.0]
    export_pool(pool, tmp_path / "tars", "img2dataset")
    with tarfile.open(tmp_path / "tars" / "00000.tar") as tar:
        names = tar.getnames()
    assert [name for name in names if name.endswith(".txt")] == ["000000000.txt", "000000001.txt", "000000002.txt"]
    assert pq.read_table(tmp_path / "tars" / "00000.parquet")["key"].to_pylist() == ["000000000", "000000001", "000000002"]


def test_a_csv_is_written_in_batches(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longest: list[int] = []
    column = Pool.column
    monkeypatch.setattr(Pool, "column", lambda self, name: longest.append(len(self)) or column(self, name))
    late = Pool.from_samples([Sample("z", texts=(Text("no picture"),), extras={"score": 1.5})]) + pool
    export_pool(late, tmp_path / "whole", "csv")
    monkeypatch.setattr("diptych.data.export.BATCH", 2)
    longest.clear()
    assert export_pool(late, tmp_path / "parts", "csv") == 4
    assert max(longest) == 2
    assert (tmp_path / "parts" / "data.csv").read_bytes() == (tmp_path / "whole" / "data.csv").read_bytes()
    rows = list(csv.DictReader((tmp_path / "parts" / "data.csv").open()))
    assert list(rows[0])[-1] == "image"
    assert [row["image"] for row in rows] == ["", *(f"images/s{row}.webp" for row in range(3))]


@pytest.mark.parametrize("form", ["parquet", "datasets"])
def test_tables_are_written_in_batches(form: str, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A type that only the last row decides, a row without a picture first and one that is left out: as a table of all rows at once."""
    if form == "datasets":
        pytest.importorskip("datasets")
    longest: list[int] = []
    column = Pool.column
    bare = Sample("z", texts=(Text("no picture"),), extras={"score": 1, "mixed": 1, "caption_score": None})
    broken = Sample("y", BytesImage(b"no picture"), extras={"score": "left out"})
    last = Sample("x", extras={"score": 2**40, "mixed": "text", "caption_score": {"a": 1}})
    late = Pool.from_samples([bare, broken, *pool, last])
    monkeypatch.setattr("diptych.data.export.BATCH", 2)
    monkeypatch.setattr(Pool, "column", lambda self, name: longest.append(len(self)) or column(self, name))
    assert export_pool(late, tmp_path / "out", form) == 5
    assert max(longest) == 2
    monkeypatch.undo()
    if form == "datasets":
        import datasets

        table = datasets.load_from_disk(str(tmp_path / "out")).data.table
    else:
        table = pq.read_table(tmp_path / "out" / "data.parquet")
        assert pq.ParquetFile(tmp_path / "out" / "data.parquet").metadata.num_row_groups == 1
    assert table.column_names == ["uid", "caption", "captions", *(n for n in late.column_names if n != "uid"), "image"]
    assert table["uid"].to_pylist() == ["z", "s0", "s1", "s2", "x"]
    assert table["caption"].to_pylist() == ["no picture", "thing, 0", "thing, 1", "thing, 2", ""]
    assert table["captions"].to_pylist() == [["no picture"], *([f"thing, {row}", "more"] for row in range(3)), []]
    pictures = table["image"].to_pylist()
    assert [picture and picture["path"] for picture in pictures] == [None, "s0.webp", "s1.webp", "s2.webp", None]
    assert [picture is None or picture["bytes"][8:12] == b"WEBP" for picture in pictures] == [True] * 5
    assert table["score"].to_pylist() == [1.0, 0.0, 0.5, 1.0, float(2**40)]
    assert table["mixed"].to_pylist() == ["1", None, None, None, '"text"']
    assert table["caption_score"].to_pylist() == [None, None, None, None, {"a": 1}]
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"lineage.json"}
    assert not list((tmp_path / "out").glob(".*"))


def test_a_picture_that_cannot_be_read_is_left_out_and_a_wrong_form_named(tmp_path: Path) -> None:
    pool = Pool.from_samples([Sample("a", BytesImage(b"no picture")), Sample("b", ArrayImage(np.zeros((4, 4, 3), np.uint8)))])
    assert export_pool(pool, tmp_path / "out", "parquet") == 1
    with pytest.raises(UnknownName, match="did you mean 'parquet'"):
        export_pool(pool, tmp_path / "none", "parket")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "export", "world:scenes?n=4&test=2", str(tmp_path / "out"), "--format", "csv", "--split", "test", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 2
    assert main([*words[:5], "parket"]) == 2
    assert "did you mean 'parquet'?" in capsys.readouterr().err


@pytest.mark.parametrize("form", FORMS)
def test_what_led_to_an_export_lies_beside_it(form: str, pool: Pool, tmp_path: Path) -> None:
    if form == "datasets":
        pytest.importorskip("datasets")
    build(pool, tmp_path / "built", source="a far place")
    export_pool(pool, tmp_path / "out", form, images=False, source=str(tmp_path / "built"))
    steps = lineage_of(tmp_path / "out")
    assert [(step.step, step.source) for step in steps] == [
        ("data build", "a far place"),
        ("data export", str(tmp_path / "built")),
    ]
    assert (steps[1].config, steps[1].counts) == ({"format": form, "images": False}, {"samples": 3})
    assert steps[1].fingerprint == pool.fingerprint
