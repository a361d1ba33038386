"""A takedown reaches tars, manifest, tables, order and index; what stays is what it was; a kill in the middle can be repeated."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.helpers.killed import KillAt

from diptych.cli import main
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.sample import Sample, Text
from diptych.data.columns import MadeBy, read_table, table_names, write_table
from diptych.data.dataset import Pool
from diptych.data.load.order import span
from diptych.data.quarantine import read_quarantine
from diptych.data.shards.append import add
from diptych.data.shards.build import build, open_built
from diptych.data.shards.takedown import TakedownReport, takedown, taken_down
from diptych.data.shards.verify import verify
from diptych.index.embedding_table import EmbeddingTable, take_down_embeddings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    samples = [
        Sample(f"u{n:02}", ArrayImage(rng.integers(0, 256, (9, 7, 3), np.uint8)), (Text(f"text {n}"),), group=f"g{n % 5}")
        for n in range(20)
    ]
    build(Pool.from_samples(samples, name="twenty"), tmp_path / "data", shard_samples=7)
    scores = pa.table({"uid": [f"u{n:02}" for n in range(20)], "score": list(range(20))})
    write_table(tmp_path / "data", "scores", scores, MadeBy("by hand"))
    copies = pa.table({"uid": ["u09", "u10"], "duplicate_of": ["u03", "u04"]})
    write_table(tmp_path / "data", "copies", copies, MadeBy("by hand"))
    return tmp_path / "data"


GONE = ["u03", "u11", "u12"]


def test_gone_everywhere_and_the_rest_is_as_it_was(folder: Path) -> None:
    before = {s.uid: (s.image.read(), s.texts, s.group) for s in open_built(folder)}
    report = takedown(folder, [*GONE, "unknown"], reason="asked for on paper")
    pool = open_built(folder)
    assert {s.uid: (s.image.read(), s.texts, s.group) for s in pool} == {u: v for u, v in before.items() if u not in GONE}
    assert (report.samples, report.asked) == (3, 4)
    assert set(report.tables) == {"texts", "scores", "copies"}
    for name in table_names(folder):
        assert not set(read_table(folder, name).table["uid"].to_pylist()) & set(GONE)
    assert read_table(folder, "copies").table["uid"].to_pylist() == ["u10"], "nothing names it either"
    assert read_table(folder, "scores").made_by["step"] == "by hand"
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "quarantine.parquet")
    assert b"text 11" not in content
    assert all(before[uid][0] not in content for uid in GONE)
    assert {(bad.uid, bad.reason) for bad in read_quarantine(folder)} >= {(uid, "asked for on paper") for uid in GONE}
    assert verify(folder, update=False).ok


def test_no_order_brings_it_back(folder: Path) -> None:
    takedown(folder, GONE)
    pool = open_built(folder)
    _, rows = span(0, len(pool), 0, 5 * len(pool))
    assert {pool.uids[row] for row in rows} == set(pool.uids)
    assert len(pool) == 17
    assert not set(pool.uids) & set(GONE)


def test_twice_and_a_whole_shard(folder: Path) -> None:
    first = set(open_built(folder).uids)
    by_shard: dict[str, list[str]] = {}
    pool = open_built(folder)
    for uid, shard in zip(pool.uids, pool.column("shard"), strict=True):
        by_shard.setdefault(shard, []).append(uid)
    whole = by_shard["00001.tar"]
    assert takedown(folder, whole).samples == 7
    assert takedown(folder, whole).samples == 0
    assert set(open_built(folder).uids) == first - set(whole)
    takedown(folder, [by_shard["00000.tar"][0]])
    takedown(folder, [by_shard["00000.tar"][1]])
    assert verify(folder, update=False).ok
    assert sorted(path.name for path in (folder / "shards").glob("*.tar")) == ["00000-r2.tar", "00002.tar"]


@pytest.mark.parametrize("apart", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_in_the_middle_hides_the_sample_and_can_be_repeated(
    folder: Path, tmp_path: Path, kill: KillAt, apart: int
) -> None:
    """At every moment (every third in the fast run) the folder can be read, and once the first step is done, nothing shows what was
    taken down."""
    everything = {f"u{n:02}" for n in range(20)}
    for at in count(0, apart):
        copy = Path(shutil.copytree(folder, tmp_path / f"copy{at}"))
        with kill(at) as killed:
            takedown(copy, GONE)
        hidden = {bad.uid for bad in read_quarantine(copy)} >= set(GONE)
        assert set(open_built(copy).uids) == (everything - set(GONE) if hidden else everything)
        if killed:
            takedown(copy, [])  # any next call goes on
            takedown(copy, [] if {bad.uid for bad in read_quarantine(copy)} else GONE)
        assert verify(copy, update=False).ok
        assert set(open_built(copy).uids) == everything - set(GONE)
        assert {p.suffix for p in (copy / "shards").iterdir() if p.name[0] != "."} == {".tar", ".parquet"}
        assert not (copy / "takedown.json").exists()
        if not killed:
            break
    assert at > 20


def test_by_condition_and_again_after_a_kill(folder: Path, kill: KillAt) -> None:
    group = [f"u{n:02}" for n in range(20) if n % 5 == 2]
    done: list[tuple[str, ...]] = []

    def fail(report: TakedownReport) -> None:
        raise OSError("the index is on another disk")

    with pytest.raises(OSError, match="another disk"):
        takedown(folder, where=["group=g2"], then=fail)
    assert not set(open_built(folder).uids) & set(group)
    takedown(folder, where=["group=g2"], then=lambda report: done.append(report.uids))
    assert done == [tuple(group)], "the condition meets nothing any more, and the indexes get the uids all the same"
    with pytest.raises(ConfigError, match="expected COLUMN=VALUE"):
        takedown(folder, where=["g2"])
    with pytest.raises(UnknownName):
        takedown(folder, where=["vendor=g2"])


def test_what_was_taken_down_is_not_taken_in_again(folder: Path) -> None:
    before = open_built(folder)
    again = Pool.from_samples([before[before.uids.index("u03")], replace(before[before.uids.index("u11")], uid="other")])
    again = Pool.from_samples([Sample(s.uid, BytesImage(s.image.read(), s.uid), s.texts) for s in again])
    takedown(folder, GONE)
    report = add(folder, again)
    assert (report.samples, report.taken_down) == (0, 2)
    assert "not taken in again" in "\n".join(report.lines())
    assert taken_down(folder).uids == set(GONE)
    assert len(taken_down(folder).hashes) == 3


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds neither a built data set nor tables"):
        takedown(tmp_path, ["a"])


def test_the_command_reaches_the_index(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import diptych as dp

    class Model:
        name, fingerprint = "fixed", "0" * 16

        def embed_images(self, images, *, batch_size: int = 64) -> np.ndarray:
            rows = np.random.default_rng(0).normal(size=(len(images), 8))
            return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

        def embed_texts(self, texts, *, batch_size: int = 256) -> np.ndarray:
            return self.embed_images(texts)

    index = dp.index(Model(), open_built(folder), tmp_path / "index", progress=False)
    index.close()
    EmbeddingTable(tmp_path / "vectors", Model()).fill(open_built(folder))
    (tmp_path / "list.txt").write_text("u11\nu12\n", encoding="utf-8")
    assert main(["data", "takedown", str(folder), "u03", "--embeddings", str(tmp_path / "typo")]) == 1
    assert "has no table of embeddings" in capsys.readouterr().err
    assert "u03" in open_built(folder).uids, "refused before the first change"
    command = [
        "data",
        "takedown",
        str(folder),
        "u03",
        "--file",
        str(tmp_path / "list.txt"),
        "--index",
        str(tmp_path / "index"),
        "--embeddings",
        str(tmp_path / "vectors"),
        "--json",
    ]
    assert main(command) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["samples"], facts["indexed"], facts["embedded"]) == (3, 3, 3)
    assert main(["data", "takedown", str(folder), "u04", "--index", str(tmp_path / "index")]) == 0
    said = capsys.readouterr().out
    assert f"! vectors of them may be left, and go with --embeddings {tmp_path / 'vectors'}" in said
    assert "--index" not in said
    take_down_embeddings(tmp_path / "vectors", ["u04", "u05"])
    assert main(["data", "takedown", str(folder), "u05"]) == 0
    said = capsys.readouterr().out
    assert f"! vectors of them may be left, and go with --index {tmp_path / 'index'}" in said
    assert "--embeddings" not in said
    from diptych.index.kinds.dense import DenseIndex

    with DenseIndex.open(tmp_path / "index") as opened:
        assert not set(opened.uids()) & set(GONE)
        assert len(opened) == 16
    shutil.rmtree(tmp_path / "index")
    assert main(["data", "takedown", str(folder), "u06", "--embeddings", str(tmp_path / "vectors")]) == 0
    shutil.rmtree(tmp_path / "vectors")
    assert main(["data", "takedown", str(folder), "u07"]) == 0
    said = capsys.readouterr().out
    assert "no table of embeddings and no index of them is beside the data" in said
    assert "!" not in said
