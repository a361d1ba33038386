"""What holds for every kind of index: builds that go on, kills at random, compaction, export, formats, queries of several parts."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from diptych.core.errors import ConfigError, DataError, RunError
from diptych.core.image import BytesImage, ImageSource
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.index.facts import Facts
from diptych.index.kinds import open_index
from diptych.index.kinds.dense import DenseIndex
from diptych.index.kinds.lexical import LexicalIndex
from diptych.index.lexicon import BM25Encoder
from diptych.index.plan import SearchPlan


def bare(kit: Any, start: int, stop: int) -> Pool:
    """Without columns that cost time to declare."""
    return Pool.from_samples([Sample(s.uid, s.image, s.texts[:1]) for s in kit.pool(start, stop)], name="bare")


# ---------------------------------------------------------------- builds


def test_a_build_that_was_stopped_goes_on(kit: Any, tmp_path: Path) -> None:
    asked: list[str] = []

    class Counting(kit.model):  # type: ignore[misc]
        stop_at = 1000

        def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Any:
            if len(asked) >= self.stop_at:
                raise KeyboardInterrupt
            asked.extend(image.name for image in images)
            return super().embed_images(images)

    pool = bare(kit, 0, 1500)
    with pytest.raises(KeyboardInterrupt):
        DenseIndex.build(Counting(), pool, tmp_path / "index")
    assert not (tmp_path / "index").exists()
    assert len(asked) == 1024  # two blocks
    going_on = Counting()
    going_on.stop_at = 10_000
    with DenseIndex.build(going_on, pool, tmp_path / "index") as index:
        assert index.uids() == sorted(pool.uids)
    assert sorted(asked) == sorted(pool.uids)  # nothing twice
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_another_pool_or_model_starts_a_build_anew(kit: Any, tmp_path: Path) -> None:
    class Stops(kit.model):  # type: ignore[misc]
        def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Any:
            if images[0].name != "u0":
                raise KeyboardInterrupt
            return super().embed_images(images)

    with pytest.raises(KeyboardInterrupt):
        DenseIndex.build(Stops(), bare(kit, 0, 600), tmp_path / "index")
    with DenseIndex.build(kit.model(fingerprint="bb22"), bare(kit, 0, 600), tmp_path / "index") as index:
        assert index.info.model["fingerprint"] == "bb22"
        assert len(index) == 600


ZYGOTE = """
import os, sys
sys.path.insert(0, {here!r})
from conftest import Named
from diptych.core.sample import Sample, Text
from diptych.core.image import BytesImage
from diptych.data.dataset import Pool
from diptych.index.kinds.dense import DenseIndex
import qdrant_edge
def pool(start, stop):
    return Pool.from_samples([Sample(f"u{{i}}", BytesImage(b"", f"u{{i}}"), (Text(f"text {{i}}"),)) for i in range(start, stop)])
for line in sys.stdin:
    start, child = int(line), os.fork()
    if child == 0:
        print("pid", os.getpid(), flush=True)
        with DenseIndex.open({folder!r}, Named()) as index:
            for first in range(start, start + 10_000, 20):
                index.add(pool(first, first + 20), progress=False)
                print("added", first + 20, flush=True)
                index.remove([f"u{{first}}"])
                print("removed", first, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print("over", flush=True)
"""


def kill_at_random(kit: Any, folder: Path, times: int) -> None:
    """A child adds and removes; it is killed at a random moment; whatever it said it had done must be so, and nothing else."""
    DenseIndex.build(kit.model(), bare(kit, 0, 20), folder).close()
    code = ZYGOTE.format(here=str(Path(__file__).parent), folder=str(folder))
    zygote = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert zygote.stdin is not None
    assert zygote.stdout is not None
    rng, there, gone = random.Random(0), 20, set[int]()

    def said() -> list[str]:
        assert zygote.stdout is not None
        line = zygote.stdout.readline()
        assert line, f"what forks the children has ended: {zygote.wait()}"
        return line.split()

    for _ in range(times):
        zygote.stdin.write(f"{there}\n")
        zygote.stdin.flush()
        pid = int(said()[1])
        heard = [said() for _ in range(rng.randint(0, 3))]
        time.sleep(rng.uniform(0, 0.15))
        os.kill(pid, signal.SIGKILL)
        start = there
        while (line := said()) != ["over"]:
            heard.append(line)
        for line in heard:
            if line[0] == "added":
                there = int(line[1])
            else:
                gone.add(int(line[1]))
        with DenseIndex.open(folder, kit.model()) as index:
            found = {int(uid[1:]) for uid in index.uids()}
            assert set(range(there)) - gone <= found | {there - 20}, "an acknowledged item is lost"
            assert not gone & found, "a removed item is back"
            unfinished = found - set(range(there))
            assert unfinished <= set(range(there, there + 20))
            for i in rng.sample(sorted(found), 5):
                assert index.search_text(f"u{i}", 1)[0].uid == f"u{i}"
            if there > start and there - 20 not in found:
                gone.add(there - 20)  # removed, and killed before it could say so
            index.remove([f"u{i}" for i in unfinished])
    zygote.stdin.close()
    zygote.wait()
    assert there > 20
    assert gone


def test_killed_at_random(kit: Any, tmp_path: Path) -> None:
    kill_at_random(kit, tmp_path / "index", 5)


@pytest.mark.slow
def test_killed_at_random_often(kit: Any, tmp_path: Path) -> None:
    kill_at_random(kit, tmp_path / "index", 50)


# ---------------------------------------------------------------- changes


def test_what_is_there_can_be_passed_over(kit: Any, tmp_path: Path) -> None:
    class Other(kit.model):  # type: ignore[misc]
        def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Any:
            return super().embed_images([BytesImage(b"", f"other {image.name}") for image in images])

    folder = tmp_path / "index"
    DenseIndex.build(kit.model(), bare(kit, 0, 10), folder).close()
    with DenseIndex.open(folder, Other()) as index:
        assert index.add(bare(kit, 5, 15), existing="skip") == 5
        assert index.search_text("u7", 1)[0].score == pytest.approx(1.0, abs=1e-5)
        assert index.search_text("u12", 1)[0].score < 0.99
        assert index.add(bare(kit, 7, 8)) == 1
        assert index.search_text("u7", 1)[0].score < 0.99
        with pytest.raises(ConfigError, match="existing is 'keep'"):
            index.add(bare(kit, 0, 1), existing="keep")  # type: ignore[arg-type]


def test_a_sample_with_fewer_texts_than_before_leaves_none_behind(kit: Any, tmp_path: Path) -> None:
    many = Pool.from_samples([Sample("a", None, (Text("one"), Text("two"), Text("three")))])
    few = Pool.from_samples([Sample("a", None, (Text("four"),)), Sample("b", None, (Text("five"),))])
    with DenseIndex.build(kit.model(), many, tmp_path / "index", what="texts") as index:
        index.add(few)
        index.add(Pool.from_samples([Sample("b", None, ())]))
        assert {hit.payload["text"] for hit in index.search_text("x", 10)} == {"four"}


def test_an_image_that_can_be_read_now_is_no_longer_named(kit: Any, tmp_path: Path) -> None:
    good = bare(kit, 0, 3)
    bad = replace(good[0], uid="bad", image=BytesImage(b"", "broken"))
    with DenseIndex.build(kit.model(), Pool.from_samples([*good, bad]), tmp_path / "index") as index:
        assert [u.uid for u in index.info.unreadable] == ["bad"]
        index.add(Pool.from_samples([replace(bad, image=BytesImage(b"", "mended"))]))
        assert index.info.unreadable == ()
        assert len(index) == 4


def test_columns_of_the_manifest(kit: Any, tmp_path: Path) -> None:
    pool = kit.pool(0, 12).with_columns({"width": [100 + i for i in range(12)], "height": [50] * 12})
    pool = pool.with_columns({"source": ["web" if i < 6 else "book" for i in range(12)]})
    with DenseIndex.build(kit.model(), pool, tmp_path / "index") as index:

        def found(**where: Any) -> set[str]:
            return {hit.uid for hit in index.search_text("x", 50, where=where)}

        assert found(width={">=": 108}) == {"u8", "u9", "u10", "u11"}
        assert found(source="book", licence="MIT") == {"u7", "u9", "u11"}
        assert found(language="de", split="test") == {"u0", "u5", "u10"}
        assert found(language="fr") == set()
        assert found(score={">": 0.5, "<=": 1.0}) == {"u5", "u6", "u7", "u8"}


def on_disk(folder: Path, needle: bytes) -> bool:
    return any(needle in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_compact_leaves_nothing_of_what_was_removed(kit: Any, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    secret = Sample("u_secret", BytesImage(b"", "u_secret"), (Text("xyzzy plugh"),))
    samples = [replace(sample, extras={"side": i}) for i, sample in enumerate(bare(kit, 0, 50))]
    with DenseIndex.build(kit.model(), Pool.from_samples([*samples, secret]), folder) as index:
        before = index.search_text("u5", 20, where={"side": {"<": 30}})
        index.remove(["u_secret"])
        assert on_disk(folder, b"xyzzy")
        index.compact()
        assert not on_disk(folder, b"xyzzy")
        assert index.search_text("u5", 20, where={"side": {"<": 30}}) == before
        index.add(bare(kit, 50, 55))
        index.compact()
    with DenseIndex.open(folder, kit.model()) as index:
        assert len(index) == 55
        assert sorted(path.name for path in folder.iterdir()) == ["checksums.bin", "gone.jsonl", "index.json", "shard-3"]


def test_compact_that_was_stopped_changes_nothing(kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "index"
    index = DenseIndex.build(kit.model(), bare(kit, 0, 30), folder)

    def stop(self: Facts, folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Facts, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        index.compact()
    index.close()
    assert (folder / "shard-2").exists()
    with DenseIndex.open(folder, kit.model()) as again:
        assert again.search_text("u3", 1)[0].uid == "u3"
        assert not (folder / "shard-2").exists()


def test_export(kit: Any, tmp_path: Path) -> None:
    with DenseIndex.build(kit.model(), kit.pool(0, 40), tmp_path / "dense") as index:
        assert index.export(tmp_path / "out" / "items.parquet") == 40
        rows = {row["uid"]: row for row in pq.read_table(tmp_path / "out" / "items.parquet").to_pylist()}
        np.testing.assert_array_equal(np.float32(rows["u7"]["vector"]), kit.vector("u7", 16))
        assert (rows["u8"]["ok"], rows["u7"]["side"], rows["u7"]["language"]) == (True, 39, ["en", "de"])
        index.export(tmp_path / "bare.parquet", vectors=False)
        assert "vector" not in pq.read_schema(tmp_path / "bare.parquet").names
        assert index.export(tmp_path / "uids.txt") == 40
        assert (tmp_path / "uids.txt").read_text().split() == index.uids()
        with pytest.raises(ConfigError, match=r"ends in '\.csv'"):
            index.export(tmp_path / "x.csv")
    with LexicalIndex.build(BM25Encoder(), bare(kit, 0, 2), tmp_path / "words") as index:
        index.export(tmp_path / "words.parquet")
        row = pq.read_table(tmp_path / "words.parquet").to_pylist()[0]
        assert {term for term, _ in row["vector_words"]} == {"text", row["uid"][1:]}


# ---------------------------------------------------------------- formats


def test_an_index_of_format_1_is_brought_up_to_date(kit: Any, tmp_path: Path) -> None:
    import qdrant_edge as engine

    from diptych.index.items import point_id

    shard = tmp_path / "shard"
    shard.mkdir()
    config = engine.EdgeConfig(vectors=engine.EdgeVectorParams(size=16, distance=engine.Distance.Dot), wal_enabled=True)
    opened = engine.EdgeShard.create(str(shard), config)
    points = [engine.Point(point_id(f"u{i}"), kit.vector(f"u{i}", 16).tolist(), {"uid": f"u{i}", "n": i}) for i in range(9)]
    opened.update(engine.UpdateOperation.upsert_points(points))
    opened.close()
    facts = {
        "format": 1,
        "kind": "dense",
        "what": "images",
        "model": {"name": "named", "fingerprint": "aa11"},
        "data": {"name": "old", "fingerprint": "0", "samples": 9},
        "dim": 16,
        "columns": {"n": "integer", "uid": "text"},
        "unreadable": [{"uid": "x", "reason": "gone"}],
    }
    (tmp_path / "index.json").write_text(json.dumps(facts))
    (tmp_path / "source.json").write_text(json.dumps({"model": "runs/a", "data": "emoji"}))
    with open_index(tmp_path, kit.model()) as index:
        assert index.search("u4", 1)[0].payload == {"n": 4}
        assert index.info.source == {"model": "runs/a", "data": "emoji"}
        assert [hit.uid for hit in index.search_text("x", 9, where={"n": {">": 6}}) if hit.uid != "u8"] == ["u7"]
        index.add(bare(kit, 9, 11))
        index.compact()
        assert len(index) == 11
    assert json.loads((tmp_path / "index.json").read_text())["format"] == 2
    assert not (tmp_path / "source.json").exists()


def test_what_cannot_be_opened_says_why(kit: Any, tmp_path: Path) -> None:
    DenseIndex.build(kit.model(), bare(kit, 0, 3), tmp_path / "index").close()
    with pytest.raises(RunError, match=r"of kind 'dense' \(expected 'lexical'\)"):
        LexicalIndex.open(tmp_path / "index")
    (tmp_path / "index" / "index.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        open_index(tmp_path / "index")


# ---------------------------------------------------------------- queries of several parts


def best(kit: Any, uids: Sequence[str], query: np.ndarray, k: int) -> list[str]:
    return sorted(uids, key=lambda uid: -float(kit.vector(uid, 16) @ query))[:k]


def test_examples_and_arithmetic(kit: Any, tmp_path: Path) -> None:
    pool = bare(kit, 0, 100)
    a, b, c, text, image = (kit.vector(key, 16) for key in ("u1", "u2", "u3", "a text", "a picture"))
    with DenseIndex.build(kit.model(), pool, tmp_path / "index") as index:

        def ask(**parts: Any) -> list[str]:
            return [hit.uid for hit in index.answer(SearchPlan.of(**parts, k=7))]

        others = [uid for uid in pool.uids if uid not in ("u1", "u2", "u3")]
        assert [hit.uid for hit in index.search_like("u1", 7)] == best(kit, [u for u in pool.uids if u != "u1"], a, 7)
        good = (a + b) / np.linalg.norm(a + b)
        assert ask(like=("u1", "u2"), unlike=("u3",)) == best(kit, others, good - 0.5 * c, 7)
        source = BytesImage(b"", "a picture")
        assert ask(image=source, text="a text", weight=-1.5) == best(kit, pool.uids, image - 1.5 * text, 7)
        assert ask(text="a text", weight=-1.0) == best(kit, pool.uids, -text, 7)
        assert ask(text="a text") == best(kit, pool.uids, text, 7)
        with pytest.raises(ConfigError, match="cancel out"):
            index.answer(SearchPlan.of(like=("u1",), unlike=("u1",), against=1.0))
        with pytest.raises(DataError, match=r"no item of .* has the uid 'nobody'"):
            index.search_like("nobody")
        with pytest.raises(ConfigError, match="nothing to search for"):
            SearchPlan.of(unlike=("u1",))
    with LexicalIndex.build(BM25Encoder(), pool, tmp_path / "words") as words:
        assert words.answer(SearchPlan.of(text="text 5", k=1))[0].uid == "u5"
        assert words.answer(SearchPlan.of(like=("u5",), k=1))[0].uid != "u5"
        with pytest.raises(ConfigError, match="cannot add and subtract"):
            words.answer(SearchPlan.of(text="text 5", unlike=("u1",)))


@pytest.mark.parametrize("threshold", [0.94, 0.3, -1.0])
def test_nothing_twice(kit: Any, tmp_path: Path, threshold: float) -> None:
    """Forty copies of each picture, a little changed, so that one look is not enough."""

    class Copies(kit.model):  # type: ignore[misc]
        def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Any:
            rows = [kit.vector(im.name.partition("_")[0], 16) + 0.01 * kit.vector(im.name, 16) for im in images]
            return np.stack([row / np.linalg.norm(row) for row in rows])

    samples = [Sample(f"p{i}_{j}", BytesImage(b"", f"p{i}_{j}")) for i in range(8) for j in range(40)]
    vectors = dict(zip((s.uid for s in samples), Copies().embed_images([s.image for s in samples]), strict=True))
    with DenseIndex.build(Copies(), Pool.from_samples(samples), tmp_path / "index") as index:
        query = kit.vector("q", 16)
        kept: list[str] = []
        for uid in sorted(vectors, key=lambda uid: -float(vectors[uid] @ query)):
            if all(float(vectors[uid] @ vectors[other]) <= threshold for other in kept):
                kept.append(uid)
        for k in (1, 5, 100):
            assert [hit.uid for hit in index.search_vectors(query[None], k, distinct=threshold)[0]] == kept[:k]
        index.deepest = 50
        found = [hit.uid for hit in index.search_vectors(query[None], 100, distinct=threshold)[0]]
        nearest = sorted(vectors, key=lambda uid: -float(vectors[uid] @ query))[:50]
        assert found == [uid for uid in kept if uid in nearest]
        with pytest.raises(ConfigError, match="distinct is 3"):
            index.search_text("q", distinct=3)
