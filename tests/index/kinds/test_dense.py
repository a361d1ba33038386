"""The dense index against exact search; filters, changes, refusals, and a kill in the middle of its life."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from warm_programs import Program, run

from diptych.core.errors import ConfigError, DataError, RunError, ShapeError, UnknownName
from diptych.core.image import BytesImage
from diptych.data.dataset import Pool
from diptych.index import collection
from diptych.index.exact import ExactIndex
from diptych.index.kinds.dense import DenseIndex, point_id


def oracle(kit: Any, pool: Any, dim: int = 16) -> ExactIndex:
    payloads = [{**s.extras, "licence": s.licence, "group": s.group} for s in pool]
    return ExactIndex(np.stack([kit.vector(uid, dim) for uid in pool.uids]), pool.uids, payloads)


CONDITIONS: list[Any] = [
    None,
    {"split": "test"},
    {"style": ["noto", "fluent"], "ok": True},
    {"side": {">=": 100, "<": 400}, "score": {">": 10.0}},
    {"side": 77},
]


@pytest.mark.parametrize("indexed_from", [0, 10_000])
def test_finds_what_exact_search_finds(
    kit: Any, tmp_path: Path, indexed_from: int, monkeypatch: pytest.MonkeyPatch, parity: Any
) -> None:
    monkeypatch.setattr(collection, "INDEXED_FROM", indexed_from)
    pool = kit.pool(0, 600)
    queries = np.stack([kit.vector(f"q{i}", 16) for i in range(20)])
    pairs = []
    with DenseIndex.build(kit.model(), pool, tmp_path / "index") as index:
        for where in CONDITIONS:
            found = index.search_vectors(queries, 10, where=where)
            want = oracle(kit, pool).search_vectors(queries, 10, where=where)
            assert [[hit.uid for hit in row] for row in found] == [[hit.uid for hit in row] for row in want]
            scores = [[hit.score for row in rows for hit in row] for rows in (found, want)]
            np.testing.assert_allclose(*scores, atol=1e-5)
            pairs.append(scores)
    parity("laion", "hits and scores of the index, filtered and not", "exact search over all vectors", pairs, tolerance=1e-5)


@pytest.mark.slow
def test_recall_of_the_graph(kit: Any, tmp_path: Path) -> None:
    """Large enough that the engine builds its graph. Random vectors are the hardest case: effort must buy recall."""
    pool = kit.pool(0, 30_000)
    queries = np.stack([kit.vector(f"q{i}", 128) for i in range(50)])
    with DenseIndex.build(kit.model(dim=128), pool, tmp_path / "index") as index:
        want = [{h.uid for h in row} for row in oracle(kit, pool, 128).search_vectors(queries, 10)]
        exact = [{h.uid for h in row} for row in index.search_vectors(queries, 10, exact=True)]
        assert exact == want
        recalls = []
        for effort in (16, 128, 1024):
            graph = [{h.uid for h in row} for row in index.search_vectors(queries, 10, effort=effort)]
            recalls.append(np.mean([len(a & b) / 10 for a, b in zip(graph, want, strict=True)]))
        assert recalls == sorted(recalls)
        assert recalls[-1] >= 0.95


def test_by_text_by_image_and_what_comes_with_a_hit(kit: Any, tmp_path: Path) -> None:
    with DenseIndex.build(kit.model(), kit.pool(0, 40), tmp_path / "index") as index:
        hit = index.search("u5", k=1)[0]
        assert (hit.uid, hit.score) == ("u5", pytest.approx(1.0, abs=1e-5))
        assert hit.payload == {
            "split": "test",
            "style": "fluent",
            "side": 37,
            "score": 0.625,
            "ok": False,
            "group": "g2",
            "licence": "MIT",
            "caption": "text 5",
        }
        assert index.search(BytesImage(b"", "u9"), k=1)[0].uid == "u9"
        assert index.search_image(BytesImage(b"", "u8"), k=1)[0].payload["ok"] is True
        (tmp_path / "u7.png").write_bytes(b"")
        assert index.search_image(tmp_path / "u7.png", k=1)[0].score < 1.0
        assert len(index.search("anything", k=1000)) == 40


def test_index_of_texts(kit: Any, tmp_path: Path) -> None:
    with DenseIndex.build(kit.model(), kit.pool(0, 20), tmp_path / "index", what="texts") as index:
        assert len(index) == 40
        hit = index.search_text("Text 3", 1)[0]
        assert (hit.uid, hit.payload["text"], hit.payload["language"]) == ("u3", "Text 3", "de")
        assert index.search_text("Text 3", 1, where={"language": "en"})[0].payload["language"] == "en"
        assert index.remove(["u3"]) == 2
        assert len(index) == 38


def test_add_replace_remove(kit: Any, tmp_path: Path) -> None:
    with DenseIndex.build(kit.model(), kit.pool(0, 30), tmp_path / "index") as index:
        assert index.add(kit.pool(20, 50)) == 30
        assert len(index) == 50
        assert index.search_text("u45", 1)[0].uid == "u45"
        assert index.remove(["u45", "u1", "never there"]) == 2
        assert "u45" not in {hit.uid for hit in index.search_text("u45", 100)}
        extra = Pool.from_samples([replace(kit.pool(60, 61)[0], extras={"score": 7, "colour": "red"})])
        index.add(extra)
        assert index.search_text("u60", 5, where={"colour": "red"})[0].uid == "u60"
    with DenseIndex.open(tmp_path / "index") as index:
        assert index.uids() == sorted(f"u{i}" for i in [*range(50), 60] if i not in (1, 45))
        assert index.info.count == 49
        assert index.info.columns["colour"] == "text"
        assert index.remove([]) == 0


def test_column_of_whole_numbers_becomes_broken_ones(kit: Any, tmp_path: Path) -> None:
    with DenseIndex.build(kit.model(), kit.pool(0, 10), tmp_path / "index") as index:
        index.add(Pool.from_samples([replace(kit.pool(60, 61)[0], extras={"side": 35.5})]))
        found = index.search_text("x", 50, where={"side": {">=": 35, "<": 36}})
        assert {hit.uid for hit in found} == {"u3", "u60"}
        assert [hit.uid for hit in index.search_text("x", 50, where={"side": 35.5})] == ["u60"]


def test_broken_images_cost_only_themselves(kit: Any, tmp_path: Path) -> None:
    good = kit.pool(0, 5)
    bad = [replace(good[0], uid=f"bad{i}", image=BytesImage(b"", f"broken{i}")) for i in range(2)]
    blind = replace(good[0], uid="blind", image=None)
    with DenseIndex.build(kit.model(), Pool.from_samples([*bad, *good, blind]), tmp_path / "index") as index:
        assert len(index) == 5
        assert index.add(Pool.from_samples(bad)) == 0  # the same ones again: named once
        assert [(u.uid, "truncated" in u.reason) for u in index.info.unreadable] == [("bad0", True), ("bad1", True)]
    with pytest.raises(DataError, match="nothing in 'samples' could be embedded"):
        DenseIndex.build(kit.model(), Pool.from_samples(bad), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_refusals(kit: Any, tmp_path: Path) -> None:
    pool, model, folder = kit.pool(0, 10), kit.model(), tmp_path / "index"
    index = DenseIndex.build(model, pool, folder)
    with pytest.raises(RunError, match="open in another process"):
        DenseIndex.open(folder)
    query = kit.vector("q", 16)[None]
    with pytest.raises(UnknownName, match="did you mean 'style'"):
        index.search_vectors(query, where={"stlye": "noto"})
    with pytest.raises(ConfigError, match="k is 0"):
        index.search_text("x", 0)
    with pytest.raises(ShapeError, match=r"queries are \[1, 15\]"):
        index.search_vectors(query[:, 1:])
    with pytest.raises(DataError, match="query of number 0 is not finite"):
        index.search_vectors(query * np.nan)
    with pytest.raises(DataError, match="no such file"):
        index.search_image(tmp_path / "absent.png")
    index.close()
    with pytest.raises(RunError, match="is closed"):
        index.search_text("x")
    with pytest.raises(RunError, match=r"model 'named' \(aa11\); 'other' \(bb22\) cannot search"):
        DenseIndex.open(folder, kit.model(name="other", fingerprint="bb22"))
    with DenseIndex.open(folder) as silent, pytest.raises(RunError, match="opened without a model"):
        silent.search_text("x")
    with pytest.raises(RunError, match="does not exist"):
        DenseIndex.open(tmp_path / "absent")
    with pytest.raises(RunError, match="it has no index"):
        DenseIndex.open(tmp_path)
    with pytest.raises(RunError, match="exists: overwrite it"):
        DenseIndex.build(model, pool, folder)
    with pytest.raises(RunError, match="will not be replaced"):
        DenseIndex.build(model, pool, tmp_path, overwrite=True)
    with pytest.raises(DataError, match="is empty"):
        DenseIndex.build(model, pool.select([]), tmp_path / "new")
    with pytest.raises(ConfigError, match="what is 'sounds'"):
        DenseIndex.build(model, pool, tmp_path / "new", what="sounds")  # type: ignore[arg-type]
    DenseIndex.build(model, kit.pool(0, 3), folder, overwrite=True).close()
    with DenseIndex.open(folder) as again:
        assert len(again) == 3
    facts = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**facts, "format": 9}))
    with pytest.raises(RunError, match="format 9, and this version of Diptych reads 1 to 2"):
        DenseIndex.open(folder)


def test_model_with_a_bad_vector_leaves_no_index(kit: Any, tmp_path: Path) -> None:
    class Bad(kit.model):  # type: ignore[misc]
        def embed_images(self, images: Any, *, batch_size: int = 64) -> Any:
            rows = super().embed_images(images)
            rows[3] = np.nan
            return rows

    with pytest.raises(DataError, match="image of u3 is not finite"):
        DenseIndex.build(Bad(), kit.pool(0, 8), tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def test_uid_given_twice_is_refused(kit: Any, tmp_path: Path) -> None:
    class Twice:
        name, fingerprint, uids, groups = "twice", "0", ("u1", "u1"), ("u1", "u1")

        def __len__(self) -> int:
            return 2

        def __getitem__(self, row: int) -> Any:
            return kit.pool(1, 2)[0]

    with pytest.raises(DataError, match="uid u1 is given twice"):
        DenseIndex.build(kit.model(), Twice(), tmp_path / "index")  # type: ignore[arg-type]


def test_point_names_are_stable() -> None:
    assert str(point_id("u5")) == "68394500-eb8e-576c-9532-426ecfe62986"
    assert len({point_id("u5"), point_id("u5", 0), point_id("u5", 1), point_id("u50")}) == 4


KILLED = """
import sys
sys.path.insert(0, {here!r})
from conftest import Named, pool
from diptych.index.kinds.dense import DenseIndex
index = DenseIndex.open({folder!r}, Named())
for start in range(100, 1000, 50):
    index.add(pool(start, start + 50), progress=False)
    index.remove([f"u{{start - 100}}"])
    print(start + 50, flush=True)
import time; time.sleep(60)
"""


def test_nothing_that_add_or_remove_returned_from_is_lost_by_a_kill(kit: Any, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    DenseIndex.build(kit.model(), kit.pool(0, 100), folder).close()
    code = KILLED.format(here=str(Path(__file__).parents[1]), folder=str(folder))
    child = Program("-c", code)
    said = [int(child.stdout.readline()) for _ in range(6)]
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with DenseIndex.open(folder, kit.model()) as index:
        there = set(index.uids())
        removed = {f"u{stop - 150}" for stop in said}
        assert {f"u{i}" for i in range(said[-1])} - removed <= there
        assert not removed & there
        for uid in ("u99", f"u{said[-1] - 1}"):
            assert index.search_text(uid, 1)[0].uid == uid


def test_a_killed_build_is_not_there_and_goes_on(kit: Any, tmp_path: Path) -> None:
    code = f"""
import sys, os, signal
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from conftest import Named, pool
from diptych.index.kinds.dense import DenseIndex
class Dies(Named):
    calls = 0
    def embed_images(self, images, *, batch_size=64):
        Dies.calls += 1
        if Dies.calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed_images(images)
DenseIndex.build(Dies(), pool(0, 3000), {str(tmp_path / "index")!r})
"""
    assert run("-c", code).returncode == -signal.SIGKILL
    assert not (tmp_path / "index").exists()
    asked = 0

    class Counting(kit.model):  # type: ignore[misc]
        def embed_images(self, images: Any, *, batch_size: int = 64) -> Any:
            nonlocal asked
            asked += len(images)
            return super().embed_images(images)

    with DenseIndex.build(Counting(), kit.pool(0, 3000), tmp_path / "index") as index:
        assert len(index) == 3000
        assert asked == 3000 - 2 * 512  # what was stored before the kill is not embedded again
        assert index.search_text("u3", 1)[0].uid == "u3"
