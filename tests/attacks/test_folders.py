"""Folders that are not what they seem: half of a data set, two kinds of data in one, a manifest or a link that leads outside."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import tarfile
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from warm_programs import run

from diptych.cli import main
from diptych.core.errors import DataError
from diptych.core.image import BytesImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.inspect import inspect
from diptych.data.read import read
from diptych.data.shards.build import build, open_built
from diptych.data.shards.takedown import takedown
from diptych.data.shards.verify import verify


def png(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 90, 9)).save(file, "PNG")
    return file.getvalue()


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:03d}.png").write_bytes(png(number))
        (folder / f"{number:03d}.txt").write_text(f"picture {number}")
    return folder


def samples(count: int) -> Pool:
    return Pool.from_samples([Sample(f"u{n}", BytesImage(png(n)), (Text(f"text {n}"),)) for n in range(count)], name="small")


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """What `diptych data build` leaves that is killed at its third shard."""
    source, out = pictures(tmp_path / "pictures", 35), tmp_path / "out"
    script = f"""
        import os, signal
        from diptych.data.shards import build
        from diptych.cli import main
        real, calls = build.store_shard, []
        def store(*args, **options):
            calls.append(1)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)
        build.store_shard = store
        main(["data", "build", {str(source)!r}, {str(out)!r}, "--shard-samples", "10", "--json"])
        """
    assert run("-c", textwrap.dedent(script)).returncode == -signal.SIGKILL
    assert len(list((out / "shards").glob("*.tar"))) == 2
    return out


# ---------------------------------------------------------------- half a data set


def test_a_killed_build_is_not_taken_for_a_data_set(killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resume = f"diptych data build {tmp_path / 'pictures'} {killed} --shard-samples 10"
    commands = [
        ["data", "inspect", str(killed)],
        ["data", "build", str(killed), str(tmp_path / "other")],
        ["data", "verify", str(killed)],
        ["data", "takedown", str(killed), "001"],
    ]
    for command in commands:
        assert main(command) != 0, command
        said = capsys.readouterr().err
        assert "2 shards are done" in said, command
        assert f"`{resume}` to go on" in said, command
        assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "other").exists()
    assert not (killed / "quarantine.parquet").exists()
    for part in (
        killed / "shards",
        killed / "shards/00000.tar",
        f"{killed}/shards/*.tar",
        f"{killed}/shards/{{00000..00001}}.tar",
    ):
        with pytest.raises(DataError, match="unfinished build"):
            read(part)
    assert main(resume.split()[1:]) == 0
    assert len(read(killed)) == 35


def test_a_killed_build_is_not_trained_on(killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "clip", "--data", str(killed), "--out", str(tmp_path / "run")]) == 1
    assert "2 shards are done" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("gone", ["diptych.json", "unfinished.json"])
def test_nothing_falls_through_to_some_tars(killed: Path, gone: str) -> None:
    """Also where the file that says so was lost with the kill, or by hand."""
    if gone == "diptych.json":
        assert main(json.loads((killed / "unfinished.json").read_text())["command"].split()[1:]) == 0
    (killed / gone).unlink()
    with pytest.raises(DataError, match=r"unfinished build|without its"):
        read(killed)
    with pytest.raises(DataError, match=r"unfinished build|without its"):
        open_built(killed)


def test_a_build_that_replaces_another_leaves_the_old_one_until_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(samples(5), tmp_path / "out", shard_samples=2)

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    for place in ("store_shard", "_write_tables", "publish"):
        with monkeypatch.context() as patch:
            patch.setattr(f"diptych.data.shards.build.{place}", killed)
            with pytest.raises(Killed):
                build(samples(9), tmp_path / "out", shard_samples=4, overwrite=True)
        assert len(read(tmp_path / "out")) == 5
        assert verify(tmp_path / "out").ok
    assert build(samples(7), tmp_path / "out", shard_samples=4, overwrite=True).samples == 7
    assert sorted(os.listdir(tmp_path)) == ["out"]
    assert sorted(os.listdir(tmp_path / "out/shards")) == [f"0000{n}.{e}" for n in (0, 1) for e in ("idx.parquet", "tar")]


def test_a_download_that_was_killed_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for name, data in (("000000000.jpg", png()), ("000000000.txt", b"a")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    pq.write_table(pa.table({"key": ["000000000"]}), tmp_path / "00000.parquet")
    (tmp_path / "links.json").write_text(json.dumps({"links": "x", "options": {}, "shards": 3}))
    with pytest.raises(DataError, match=r"1 of 3 shards of a download .*diptych data download"):
        read(tmp_path)
    (tmp_path / "links.json").write_text(json.dumps({"links": "x", "options": {}, "shards": 1}))
    assert len(read(tmp_path)) == 1


def test_a_curation_that_was_killed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    pq.write_table(pa.table({"uid": ["a"]}), tmp_path / "tables/step_00_min_side.parquet")
    with pytest.raises(DataError, match="a curation that did not end"):
        read(tmp_path)


# ---------------------------------------------------------------- two kinds in one folder


def stray_tar(folder: Path) -> str:
    with tarfile.open(folder / "old.tar", "w") as tar:
        for name, data in (("x.png", png()), ("x.txt", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return "old.tar"


def test_a_stray_tar_does_not_hide_pictures(tmp_path: Path) -> None:
    pictures(tmp_path / "set/birds", 3)
    stray_tar(tmp_path / "set")
    with pytest.raises(DataError, match=r"holds the tar old\.tar and the picture birds/000\.png") as caught:
        read(tmp_path / "set")
    assert "\n" not in str(caught.value)
    assert len(read(tmp_path / "set/birds")) == 3
    assert len(read(tmp_path / "set/old.tar")) == 1
    stray_tar(tmp_path / "set/birds")
    (tmp_path / "set/old.tar").unlink()
    with pytest.raises(DataError, match=r"the tar birds/old\.tar and the picture"):
        read(tmp_path / "set")


def test_a_table_and_other_data_are_both_named(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set", 3)
    (folder / "all.csv").write_text("image,caption\n000.png,zero\n")
    with pytest.raises(DataError, match=r"holds the table all\.csv and pictures with texts beside them, such as 000\.txt"):
        read(folder)
    for text in folder.glob("*.txt"):
        text.unlink()
    assert [text.string for sample in read(folder) for text in sample.texts] == ["zero"]
    stray_tar(folder)
    with pytest.raises(DataError, match=r"the tar old\.tar and the picture 000\.png"):
        read(folder)
    for picture in folder.glob("*.png"):
        picture.unlink()
    with pytest.raises(DataError, match=r"the tar old\.tar and the table all\.csv"):
        read(folder)


# ---------------------------------------------------------------- paths that lead outside


def rewritten(folder: Path, **columns: object) -> None:
    """The manifest with other values in its first row."""
    table = pq.read_table(folder / "manifest.parquet")
    for name, value in columns.items():
        values = [value, *table[name].to_pylist()[1:]]
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    pq.write_table(table, folder / "manifest.parquet")


@pytest.fixture
def built(tmp_path: Path) -> Path:
    build(samples(6), tmp_path / "built", shard_samples=3)
    return tmp_path / "built"


@pytest.mark.parametrize(
    "name",
    ["../../victim/shards/00000.tar", "{absolute}", "../shards/00000.tar", "a/../00000.tar", "..", "", "x\0y", "y" * 10_000],
)
def test_a_manifest_that_leads_outside_is_refused_before_anything_is_written(built: Path, tmp_path: Path, name: str) -> None:
    victim = shutil.copytree(built, tmp_path / "victim")
    rewritten(built, shard=name.format(absolute=victim / "shards/00000.tar"))
    before = {path: path.read_bytes() for top in (built, victim) for path in top.rglob("*") if path.is_file()}
    for use in (lambda: read(built), lambda: verify(built), lambda: takedown(built, ["u0", "u1"])):
        with pytest.raises(
            DataError, match=r"manifest\.parquet, field 'shard': names the shard .*\(expected a file in shards/"
        ) as caught:
            use()
        assert len(str(caught.value)) < 600
    assert {path: path.read_bytes() for top in (built, victim) for path in top.rglob("*") if path.is_file()} == before


def test_a_table_of_media_that_leads_outside_is_refused(tmp_path: Path) -> None:
    source = pictures(tmp_path / "set", 2)
    for number in range(2):
        np.save(source / f"{number:03d}.cloud.npy", np.zeros((4, 3), np.float32))
    out = tmp_path / "out"
    build(read(source), out)
    table = pq.read_table(out / "tables/media.parquet")
    files = pa.array(["../../set/000.txt", *table["file"].to_pylist()[1:]])
    pq.write_table(table.set_column(table.schema.get_field_index("file"), "file", files), out / "tables/media.parquet")
    for use in (read, verify, lambda folder: takedown(folder, ["000"])):
        with pytest.raises(DataError, match="names the shard"):
            use(out)


@pytest.mark.parametrize(
    "part", ["shards/00000.tar", "shards", "manifest.parquet", "tables", "tables/texts.parquet", "diptych.json"]
)
def test_links_out_of_a_built_folder_are_refused(built: Path, tmp_path: Path, part: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(built / part, elsewhere)
    (built / part).symlink_to(elsewhere)
    before = elsewhere.read_bytes() if elsewhere.is_file() else sorted(os.listdir(elsewhere))
    for use in (read, verify, lambda folder: takedown(folder, ["u0"])):
        with pytest.raises(DataError, match="is a link that leads out of"):
            use(built)
    assert before == (elsewhere.read_bytes() if elsewhere.is_file() else sorted(os.listdir(elsewhere)))
    assert len(read(built, follow_links=True)) == 6


def test_links_inside_a_folder_are_what_they_lead_to(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set", 2)
    (folder / "again.png").symlink_to(folder / "000.png")
    (folder / "again.txt").symlink_to("000.txt")
    assert [sample.texts[0].string for sample in read(folder)] == ["picture 0", "picture 1", "picture 0"]
    (tmp_path / "link").symlink_to(folder)  # the folder itself may be one
    assert len(read(tmp_path / "link")) == 3


def test_links_out_of_a_source_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("root:x:0:0")
    (tmp_path / "secret.png").write_bytes(png(200))
    folder = pictures(tmp_path / "set", 2)
    (folder / "caption.png").write_bytes(png(100))
    (folder / "caption.txt").symlink_to(secret)
    (folder / "picture.png").symlink_to(tmp_path / "secret.png")
    (folder / "picture.txt").write_text("a picture")
    pictures(tmp_path / "more", 1)
    (folder / "more").symlink_to(tmp_path / "more")
    (folder / "circle").symlink_to(folder)
    pool = read(folder)
    assert [sample.texts[0].string for sample in pool if sample.texts] == ["picture 0", "picture 1"]
    reasons = [str(bad) for bad in pool.quarantine]
    assert sum("is a link that leads out of" in reason for reason in reasons) == 2
    assert sum("is a link to a folder" in reason for reason in reasons) == 2
    assert "root:x" not in "".join(reasons)
    followed = read(folder, follow_links=True)
    assert {sample.texts[0].string for sample in followed} == {"picture 0", "picture 1", "root:x:0:0", "a picture"}
    assert all(sample.image is not None and sample.image.read() for sample in followed)


def test_links_of_tables_tars_and_annotations_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "away", 2)
    stray_tar(tmp_path / "away")
    (tmp_path / "away/t.csv").write_text("image,caption\n000.png,zero\n")
    for name in ("old.tar", "t.csv"):
        folder = tmp_path / f"set-{name}"
        folder.mkdir()
        (folder / name).symlink_to(tmp_path / "away" / name)
        with pytest.raises(DataError, match="is a link that leads out of"):
            read(folder)
    assert len(read(tmp_path / "set-old.tar", follow_links=True)) == 1
    folder = tmp_path / "table"
    folder.mkdir()
    (folder / "t.csv").write_text("image,caption\n000.png,zero\nin.png,one\n")
    (folder / "in.png").write_bytes(png())
    (folder / "000.png").symlink_to(tmp_path / "away/000.png")
    report = build(read(folder), tmp_path / "built")
    assert (report.samples, report.quarantined) == (1, 1)
    assert "is a link that leads out of" in report.reasons[0]
    assert build(read(folder, follow_links=True), tmp_path / "all").samples == 2


def test_what_is_said_in_the_manifest_is_held_against_the_shards(built: Path) -> None:
    """Absurd sizes and offsets cost their samples, and no memory."""
    size = (built / "shards/00000.tar").stat().st_size
    for offset, length in ((512, 10**15), (10**15, 5), (-7, 5), (512, -1), (size - 2, 3), (2**63 - 1, 2**63 - 1), (512, 0)):
        rewritten(built, image_offset=offset, image_size=length)
        pool = read(built)
        assert len(pool) == 5
        assert f"its place is {length:,} bytes from byte {offset:,} of a shard of {size:,}" in str(pool.quarantine[0])
        assert len(inspect(pool).lines()) > 3
    report = verify(built, update=False)
    assert [bad.stage for bad in report.bad] == ["verify"]
