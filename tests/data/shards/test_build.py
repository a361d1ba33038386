"""Building and opening: nothing is changed on the way, a kill costs one shard, a full disk leaves a folder that can go on."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import signal
import tarfile
import textwrap
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from warm_programs import run

from diptych.core.errors import DataError, RunError
from diptych.core.image import ArrayImage, BytesImage, FileImage
from diptych.core.sample import ORIGINS, Sample, Text
from diptych.core.scene_graph import Region, Relation
from diptych.data.dataset import Pool
from diptych.data.lineage.record import FILE as LINEAGE
from diptych.data.media.decode import decode
from diptych.data.shards import write as shards
from diptych.data.shards.build import build, open_built
from diptych.data.shards.tar_index import index_tar
from diptych.data.shards.verify import verify


def picture(seed: int, kind: str = "JPEG", side: int = 20) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def small_pool(n: int = 30, name: str = "small") -> Pool:
    kinds = ["JPEG", "PNG", "WEBP"]
    return Pool.from_samples(
        [Sample(f"u{i:03d}", BytesImage(picture(i, kinds[i % 3]), f"p{i}"), (Text(f"text {i}"),)) for i in range(n)], name=name
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LINEAGE
    }


# ---------------------------------------------------------------- round trip

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="./\\"), min_size=1, max_size=12)
texts = st.builds(Text, words, st.sampled_from(["", "de", "zh-Hans"]), st.sampled_from(ORIGINS))
boxes = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(10, 19), st.integers(10, 19)).map(
    lambda b: tuple(map(float, b))
)
regions = st.builds(
    Region,
    boxes,
    words,
    st.lists(words, max_size=2).map(tuple),
    st.floats(0, 1),
    st.one_of(st.none(), st.just({"size": [2, 3], "counts": "04"}), st.just([[0.0, 1.5, 2.0, 3.0]])),
)
plain = st.one_of(st.integers(-(2**70), 2**70), st.floats(allow_nan=False), words, st.booleans())
extras = st.dictionaries(
    st.sampled_from(["label", "score", "deep", "größe"]),
    st.one_of(plain, st.lists(plain, max_size=3), st.dictionaries(words, plain, max_size=2)),
    max_size=3,
)


@st.composite
def made_samples(draw: Any) -> list[Sample]:
    uids = draw(st.lists(names, max_size=6, unique=True))
    made = []
    for uid in uids:
        found = tuple(draw(st.lists(regions, max_size=3)))
        ends = st.integers(0, max(len(found) - 1, 0))
        edges = st.lists(st.builds(Relation, ends, words, ends, st.floats(0, 1)), max_size=2) if found else st.just([])
        seed = draw(st.integers(0, 5))
        image = draw(st.sampled_from([None, BytesImage(picture(seed)), BytesImage(picture(seed, "PNG"))]))
        group, licence, source = draw(words), draw(words), draw(words)
        made.append(
            Sample(
                uid,
                image,
                tuple(draw(st.lists(texts, max_size=3))),
                found,
                tuple(draw(edges)),
                group,
                licence,
                source,
                draw(extras),
            )
        )
    return made


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(made_samples(), st.integers(1, 4))
def test_what_goes_in_comes_out(tmp_path_factory: pytest.TempPathFactory, made: list[Sample], shard_samples: int) -> None:
    folder = tmp_path_factory.mktemp("built")
    report = build(Pool.from_samples(made), folder, shard_samples=shard_samples)
    opened = open_built(folder)
    assert report.samples == len(opened) == len(made)
    assert report.fingerprint == opened.fingerprint
    by_uid = {sample.uid: sample for sample in opened}
    for sample in made:
        again = by_uid[sample.uid]
        for field in ("texts", "regions", "relations", "group", "licence", "source", "extras"):
            assert getattr(again, field) == getattr(sample, field), field
        assert (again.image is None) == (sample.image is None)
        if again.image is not None and sample.image is not None:
            assert again.image.read() == sample.image.read()
    assert opened.content_fingerprint() == report.fingerprint  # what is written down is what the content gives


def test_pixels_are_stored_without_loss(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (5, 7, 3), dtype=np.uint8), rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)]
    build(Pool.from_samples([Sample(f"a{i}", ArrayImage(pixels)) for i, pixels in enumerate(arrays)]), tmp_path / "out")
    for sample in open_built(tmp_path / "out"):
        assert sample.image is not None
        stored = np.array(Image.open(io.BytesIO(sample.image.read())))
        assert np.array_equal(stored, arrays[int(sample.uid[1])])


# ---------------------------------------------------------------- layout


def test_shards_are_tars_that_anyone_can_read(tmp_path: Path) -> None:
    pool = small_pool()
    report = build(pool, tmp_path / "out", shard_samples=8)
    assert report.shards == 4
    manifest = {row["uid"]: row for row in pq.read_table(tmp_path / "out/manifest.parquet").to_pylist()}
    extension = {"jpeg": "jpg", "png": "png", "webp": "webp"}
    seen = []
    for tar in sorted((tmp_path / "out/shards").glob("*.tar")):
        with tarfile.open(tar) as archive:
            members = archive.getmembers()
            keys = [member.name.partition(".")[0] for member in members]
            assert keys == sorted(keys)
            assert keys[0::3] == keys[1::3] == keys[2::3]  # image, text and JSON are neighbours
            for image, text, sidecar in zip(members[0::3], members[1::3], members[2::3], strict=True):
                row = manifest[image.name.partition(".")[0]]
                file = archive.extractfile(image)
                assert file is not None
                data = file.read()
                assert image.name == f"{row['uid']}.{extension[row['image_format']]}"
                assert (image.offset_data, image.size, row["shard"]) == (row["image_offset"], row["image_size"], tar.name)
                assert hashlib.sha256(data).hexdigest() == row["sha256"]
                assert Image.open(io.BytesIO(data)).size == (row["width"], row["height"])
                assert (image.mtime, image.uid, image.gid) == (0, 0, 0)
                file = archive.extractfile(text)
                assert file is not None
                assert (text.name, file.read().decode()) == (f"{row['uid']}.txt", f"text {int(row['uid'][1:])}")
                file = archive.extractfile(sidecar)
                assert file is not None
                assert json.loads(file.read())["caption"] == f"text {int(row['uid'][1:])}"
                seen.append(row["uid"])
        stored = pq.read_table(tar.with_name(f"{tar.stem}.idx.parquet"))
        assert index_tar(tar).members.equals(stored.replace_schema_metadata(None))  # rebuilt == stored
    assert sorted(seen) == list(pool.uids)
    assert seen != sorted(seen)  # shards are shuffled among each other


def test_webdataset_reads_it(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    build(small_pool(), tmp_path / "out", shard_samples=100)
    rows = list(wds.WebDataset(str(tmp_path / "out/shards/00000.tar"), shardshuffle=False).decode("pil"))
    assert len(rows) == 30
    assert all("json" in row and {"jpg", "png", "webp"} & set(row) for row in rows)


def test_same_samples_same_bytes_in_any_order(tmp_path: Path) -> None:
    pool = small_pool()
    build(pool, tmp_path / "one", shard_samples=8)
    build(pool.select(range(29, -1, -1)), tmp_path / "two", shard_samples=8)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


# ---------------------------------------------------------------- what is wrong with images


def test_bad_images_cost_themselves_and_are_named(tmp_path: Path) -> None:
    good = picture(1)
    (tmp_path / "cut.jpg").write_bytes(picture(2, side=64)[:900])
    bad = {
        "cut": FileImage(tmp_path / "cut.jpg"),
        "gone": FileImage(tmp_path / "gone.jpg"),
        "text": BytesImage(b"hello, I am no image", "t"),
        "none": BytesImage(b"", "n"),
        "halfpng": BytesImage(picture(3, "PNG", 64)[:-3000], "h"),
        "flat": ArrayImage(np.zeros((4, 4), np.uint8)),
    }
    pool = Pool.from_samples([Sample(uid, image) for uid, image in bad.items()] + [Sample("good", BytesImage(good))])
    report = build(pool, tmp_path / "out")
    assert (report.samples, report.quarantined) == (1, 6)
    opened = open_built(tmp_path / "out")
    assert opened.uids == ("good",)
    assert {row.uid for row in opened.quarantine} == set(bad)
    reasons = {row.uid: (row.stage, row.reason) for row in opened.quarantine}
    assert reasons["gone"] == ("read", "No such file or directory")
    assert reasons["cut"][0] == "image"
    assert "not an image" in reasons["text"][1]
    assert pq.read_table(tmp_path / "out/quarantine.parquet").column_names == ["uid", "stage", "reason", "file"]


def test_every_stored_image_decodes(tmp_path: Path) -> None:
    build(small_pool(), tmp_path / "out")
    for sample in open_built(tmp_path / "out"):
        assert sample.image is not None
        assert decode(sample.image, exact=True).shape == (20, 24, 3)


# ---------------------------------------------------------------- folders that are in use


def test_a_finished_folder_is_kept_refused_or_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(small_pool(), out, shard_samples=8)
    before = contents(out)
    assert build(small_pool(), out, shard_samples=8).kept == 4
    assert contents(out) == before
    with pytest.raises(DataError, match="already holds another data set"):
        build(small_pool(10), out, shard_samples=8)
    assert contents(out) == before
    assert build(small_pool(10), out, overwrite=True).samples == 10
    assert len(open_built(out)) == 10
    assert len(list((out / "shards").iterdir())) == 2


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="is not empty"):
        build(small_pool(), tmp_path, overwrite=True)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}
    with pytest.raises(DataError, match=r"has no diptych\.json"):
        open_built(tmp_path)


def test_an_extra_that_cannot_be_stored_is_named(tmp_path: Path) -> None:
    pool = Pool.from_samples([Sample("a", extras={"thing": object()})])
    with pytest.raises(DataError, match="field 'thing': a object cannot be stored"):
        build(pool, tmp_path / "out")


# ---------------------------------------------------------------- interruptions


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_stopped_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    build(small_pool(), tmp_path / "whole", shard_samples=8)
    store, calls = shards.store_shard, []

    def stop(pool: Pool, rows: list[int], path: Path, **options: Any) -> shards.ShardRecords:
        calls.append(path.name)
        if len(calls) == at + 1:
            raise Killed
        return store(pool, rows, path, **options)

    monkeypatch.setattr("diptych.data.shards.build.store_shard", stop)
    with pytest.raises(Killed):
        build(small_pool(), tmp_path / "out", shard_samples=8)
    with pytest.raises(DataError, match="unfinished build"):
        open_built(tmp_path / "out")
    report = build(small_pool(), tmp_path / "out", shard_samples=8)
    assert report.kept == at
    assert len(calls) == at + 1 + 4 - at  # finished shards were not made again
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_other_data_do_not_continue_a_stopped_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise Killed

    monkeypatch.setattr("diptych.data.shards.build._write_tables", stop)
    with pytest.raises(Killed):
        build(small_pool(), tmp_path / "out", shard_samples=8)
    monkeypatch.undo()
    assert build(small_pool(20), tmp_path / "out", shard_samples=8).kept == 0
    assert len(open_built(tmp_path / "out")) == 20


def test_kill_9_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    """A real process, really killed in its third shard."""
    build(small_pool(), tmp_path / "whole", shard_samples=8)
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_build import small_pool
        from diptych.data.shards import build as module
        real, calls = module.store_shard, []
        def store(pool, rows, path, **options):
            calls.append(path)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(pool, rows, path, **options)
        module.store_shard = store
        module.build(small_pool(), {str(tmp_path / "out")!r}, shard_samples=8)
        """)
    )
    assert run(str(script)).returncode == -signal.SIGKILL
    assert build(small_pool(), tmp_path / "out", shard_samples=8).kept == 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_half_written_files_of_a_killed_build_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On resume, when a finished build is asked for again, and by `verify`, which leaves files that somebody may be writing."""
    out = tmp_path / "out"
    left = [out / "shards/.00001.tar.0badf00d", out / ".manifest.parquet.12345678", out / "tables/.texts.parquet.0badcafe"]
    kept = out / "shards/.notes"

    def leave() -> None:
        for path in [*left, kept]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"half")

    def remaining() -> list[Path]:
        return [path for path in [*left, kept] if path.exists()]

    store, calls = shards.store_shard, []

    def stop(*arguments: Any, **options: Any) -> shards.ShardRecords:
        calls.append(arguments)
        if len(calls) == 2:
            leave()
            raise Killed
        return store(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("diptych.data.shards.build.store_shard", stop)
        with pytest.raises(Killed):
            build(small_pool(), out, shard_samples=8)
    assert build(small_pool(), out, shard_samples=8).kept == 1
    assert remaining() == [kept]
    left.append(out / "shards/.00000.part.parquet")  # of a kill between the mark and the removal of these
    leave()
    build(small_pool(), out, shard_samples=8)
    assert remaining() == [kept]
    leave()
    assert verify(out).swept == 0
    for path in left:
        os.utime(path, (0, 0))
    assert verify(out, update=False).swept == 0
    report = verify(out)
    assert (report.swept, report.ok) == (4, True)
    assert "4 half-written files of a killed build were removed" in report.lines()[0]
    assert remaining() == [kept]


@pytest.mark.parametrize("room", [0, 3_000, 30_000])
def test_a_full_disk_ends_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    build(small_pool(), tmp_path / "whole", shard_samples=8)
    used = 0

    def write(file: IO[bytes], data: bytes) -> None:
        nonlocal used
        used += len(data)
        if used > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file.write(data)

    monkeypatch.setattr(shards, "write_bytes", write)
    with pytest.raises(RunError, match="the disk is full") as caught:
        build(small_pool(), tmp_path / "out", shard_samples=8)
    assert "\n" not in str(caught.value)
    left = contents(tmp_path / "out")
    assert not [name for name in left if name.endswith(".tar") and f"shards/.{Path(name).stem}.part.parquet" not in left]
    assert "diptych.json" not in left
    monkeypatch.undo()
    build(small_pool(), tmp_path / "out", shard_samples=8)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_disk_that_fills_up_under_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("diptych.data.columns.write_atomic", full)
    with pytest.raises(RunError, match="the disk is full"):
        build(small_pool(), tmp_path / "out")
    with pytest.raises(DataError, match="unfinished"):
        open_built(tmp_path / "out")
    monkeypatch.undo()
    assert build(small_pool(), tmp_path / "out").samples == 30
