"""Verifying a built folder: every planted fault is found, named and, where it is a sample's, put into quarantine."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diptych.core.errors import DataError
from diptych.core.image import BytesImage
from diptych.core.sample import Sample, Text
from diptych.data.columns import MadeBy, write_table
from diptych.data.dataset import Pool
from diptych.data.shards.build import build, open_built
from diptych.data.shards.verify import verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = []
    for i in range(9):
        file = io.BytesIO()
        Image.new("RGB", (30, 30), (i, i, i)).save(file, "PNG")
        made.append(Sample(f"u{i}", BytesImage(file.getvalue()), (Text(f"t{i}"),)))
    build(Pool.from_samples([*made, Sample("words", texts=(Text("no image"),))]), tmp_path / "out", shard_samples=4)
    return tmp_path / "out"


def place(folder: Path, uid: str) -> dict:
    return next(row for row in pq.read_table(folder / "manifest.parquet").to_pylist() if row["uid"] == uid)


def test_all_is_well(folder: Path) -> None:
    report = verify(folder)
    assert (report.ok, report.exit_code, report.samples, report.problems) == (True, 0, 10, [])
    assert report.image_bytes > 0
    json.dumps(report.to_json())


def test_a_flipped_byte_costs_one_sample(folder: Path) -> None:
    row = place(folder, "u4")
    tar = folder / "shards" / row["shard"]
    data = bytearray(tar.read_bytes())
    data[row["image_offset"] + 40] ^= 1
    tar.write_bytes(data)
    report = verify(folder, update=False)
    assert [(bad.uid, bad.stage) for bad in report.bad] == [("u4", "verify")]
    assert "sha256" in report.bad[0].reason
    assert report.exit_code == 1
    assert "u4" in open_built(folder).uids  # nothing was changed
    verify(folder)
    opened = open_built(folder)
    assert "u4" not in opened.uids
    assert len(opened) == 9
    assert [bad.uid for bad in opened.quarantine] == ["u4"]
    assert verify(folder).ok  # what is in quarantine is known


def test_a_cut_and_a_missing_shard(folder: Path) -> None:
    cut, gone = folder / "shards/00000.tar", folder / "shards/00001.tar"
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    gone.unlink()
    report = verify(folder)
    assert "00001.tar is missing" in report.problems
    assert any("00000.tar: cut at byte" in problem for problem in report.problems)
    assert any(problem.startswith("00000.idx.parquet does not fit") for problem in report.problems)
    manifest = pq.read_table(folder / "manifest.parquet").to_pylist()
    lost = {row["uid"] for row in manifest if row["shard"] == "00001.tar"}
    lost |= {
        row["uid"]
        for row in manifest
        if row["shard"] == "00000.tar" and row["image_offset"] + row["image_size"] > len(whole) // 2 and row["image_offset"] >= 0
    }
    assert {bad.uid for bad in report.bad} == lost
    assert not lost & set(open_built(folder).uids)


def test_a_wrong_index_is_found(folder: Path) -> None:
    index = folder / "shards/00000.idx.parquet"
    table = pq.read_table(index)
    pq.write_table(table.set_column(1, "offset", pa.array([0] * len(table), pa.int64())), index)
    assert verify(folder).problems == ["00000.idx.parquet does not fit 00000.tar"]


def test_texts_changed_by_hand_and_strange_uids(folder: Path) -> None:
    write_table(folder, "scores", pa.table({"uid": ["u1", "stranger"], "score": [1, 2]}), MadeBy("s"))
    texts = pq.read_table(folder / "tables/texts.parquet")
    changed = texts.set_column(1, "string", pa.array(["changed"] * len(texts), pa.large_string()))
    write_table(folder, "texts", changed, MadeBy("hand"))
    problems = verify(folder).problems
    assert "table 'scores' has 1 rows of uids that the manifest does not have" in problems
    assert any(problem.startswith("the fingerprint is") for problem in problems)


def test_what_is_no_data_set_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match=r"has no diptych\.json"):
        verify(tmp_path)
    mark = json.loads((folder / "diptych.json").read_text())
    (folder / "diptych.json").write_text(json.dumps({**mark, "format": 99}))
    with pytest.raises(DataError, match="data format 99"):
        verify(folder)


def test_images_end_to_end_in_one_plain_file(folder: Path) -> None:
    """Shards need not be tars: offsets, sizes and hashes are all that reading needs."""
    manifest = pq.read_table(folder / "manifest.parquet")
    blob, offsets = b"", []
    for row in manifest.to_pylist():
        offsets.append(len(blob) if row["image_offset"] >= 0 else -1)
        tar = (folder / "shards" / row["shard"]).read_bytes()
        blob += tar[row["image_offset"] : row["image_offset"] + row["image_size"]] if row["image_offset"] >= 0 else b""
    for file in (folder / "shards").iterdir():
        file.unlink()
    (folder / "shards/all.bin").write_bytes(blob)
    manifest = manifest.set_column(1, "shard", pa.array(["all.bin"] * len(manifest)))
    pq.write_table(manifest.set_column(2, "image_offset", pa.array(offsets, pa.int64())), folder / "manifest.parquet")
    assert verify(folder).ok
    (folder / "shards/all.bin").write_bytes(bytes(len(blob)))
    assert len(verify(folder, update=False).bad) == 9
