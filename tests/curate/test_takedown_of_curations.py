"""A takedown of a pool leaves its curations open, without what was taken down and its byte-equal copies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from diptych.cli import main
from diptych.core.errors import DataError
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.sample import Sample, Text
from diptych.curate.duplicates.exact import ExactDuplicates
from diptych.curate.duplicates.near import NearDuplicates
from diptych.curate.engine.pool import curate
from diptych.curate.engine.sources import open_pool
from diptych.data.dataset import Pool
from diptych.data.shards.append import add
from diptych.data.shards.build import build, open_built
from diptych.data.shards.takedown import takedown, taken_down


def sample(uid: str, seed: int, text: str) -> Sample:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), np.uint8)
    return Sample(uid, ArrayImage(pixels), (Text(text),), group=uid)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A pool in which u00 has two byte-equal copies, its curation, and a curation of that."""
    samples = [sample(f"u{n:02}", n, f"text {n}") for n in range(10)]
    samples += [sample("v00", 0, "the same picture"), sample("v01", 0, "once more")]
    pool, first, second = tmp_path / "pool", tmp_path / "first", tmp_path / "second"
    build(Pool.from_samples(samples), pool, shard_samples=5)
    curate(open_pool(pool), [ExactDuplicates()], first, source=str(pool))
    curate(open_pool(first), [NearDuplicates()], second, source=str(first))
    return pool, first, second


def test_curations_stay_open_without_what_was_taken_down(folders: tuple[Path, Path, Path]) -> None:
    pool, first, second = folders
    texts = {s.uid: s.texts for s in open_pool(second)}
    assert sorted(texts) == [f"u{n:02}" for n in range(10)]
    report = takedown(pool, ["u00", "u04"])
    assert report.copies == ("v00", "v01")
    assert "taken down as well: 2 byte-equal copies (v00, v01)" in report.lines()
    takedown(pool, ["u05"])  # a second one: the chain has two links
    for folder in (first, second):
        opened = open_pool(folder)
        assert sorted(opened.uids) == ["u01", "u02", "u03", "u06", "u07", "u08", "u09"]
        assert {s.uid: s.texts for s in opened} == {uid: texts[uid] for uid in opened.uids}
        assert any("taken down after this curation" in note for note in opened.notes)
    again = curate(open_pool(pool), [ExactDuplicates()])
    assert not {"v00", "v01"} & set(again.kept.uids), "no copy comes back"


def test_another_change_still_closes_them(folders: tuple[Path, Path, Path]) -> None:
    pool, first, second = folders
    takedown(pool, ["u03"])
    add(pool, Pool.from_samples([sample("w00", 99, "new")]))
    takedown(pool, ["u04"])
    for folder in (first, second):
        with pytest.raises(DataError, match="has changed"):
            open_pool(folder)


def test_another_curation_of_the_same_pool_is_no_subset(folders: tuple[Path, Path, Path]) -> None:
    pool, first, second = folders
    takedown(pool, ["u03"])
    curate(open_pool(pool), [ExactDuplicates(merge_texts=False)], first, source=str(pool))
    with pytest.raises(DataError, match="has changed"):
        open_pool(second)


def test_copies_may_be_left_and_are_named(folders: tuple[Path, Path, Path]) -> None:
    pool, _, _ = folders
    report = takedown(pool, ["u00"], copies=False)
    assert set(open_built(pool).uids) >= {"v00", "v01"}
    assert report.lines()[-1] == "! left in the data: 2 byte-equal copies (v00, v01)"


def test_by_hash_now_and_later(folders: tuple[Path, Path, Path]) -> None:
    pool, _, _ = folders
    built = open_built(pool)
    data = built[built.uids.index("u00")].image.read()
    sha256 = dict(zip(built.uids, built.column("sha256"), strict=True))
    report = takedown(pool, hashes=[sha256["u00"], "f" * 64])
    assert set(report.uids) == {"u00", "v00", "v01"}
    assert taken_down(pool).hashes == {sha256["u00"], "f" * 64}
    again = add(pool, Pool.from_samples([Sample("x", BytesImage(data, "x"), (Text("again"),))]))
    assert (again.samples, again.taken_down) == (0, 1)


def test_the_command_reaches_curations(folders: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    pool, first, second = folders
    assert b"once more" in b"".join(path.read_bytes() for path in first.rglob("*.parquet"))
    assert main(["data", "takedown", str(pool), "v01", "--no-copies", "--curated", str(first), str(second), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["copies"] == ["u00", "v00"]
    assert b"once more" not in b"".join(path.read_bytes() for path in first.rglob("*.parquet")), "not as a variant either"
    assert sorted(open_pool(second).uids) == [f"u{n:02}" for n in range(10)]
    assert main(["data", "takedown", str(pool), "u07", "--curated", str(pool)]) == 2
    assert "not an output of `diptych curate`" in capsys.readouterr().err


def test_a_curation_hides_what_was_taken_out_of_it_alone(folders: tuple[Path, Path, Path]) -> None:
    _, first, _ = folders
    takedown(first, ["u02"])
    assert "u02" not in open_pool(first).uids
