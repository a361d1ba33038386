"""Tables of strangers: what they name outside of a folder is left out, and nothing of its content is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import diptych as dp
from diptych.cli import main
from diptych.core.errors import DataError, DecodeError
from diptych.core.image import FileImage
from diptych.data.media.decode import decode
from diptych.data.quarantine import read_quarantine
from diptych.data.read import read
from diptych.data.shards.build import build

from .hostile import png

SECRET = "root:x:0:0"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures/a.png").write_bytes(png())
    (folder / "pictures/link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "secret.png").write_bytes(png(9))
    (tmp_path / "secret.txt").write_text(SECRET)
    names = [
        "pictures/a.png",
        "pictures/../pictures/a.png",
        str(folder / "pictures/a.png"),
        "../secret.png",
        "pictures/../../secret.txt",
    ]
    names += [str(tmp_path / "secret.png"), str(tmp_path / "secret.txt"), "pictures/link.png"]
    rows = [{"uid": f"u{n}", "image": name, "caption": f"picture {n}"} for n, name in enumerate(names)]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "t.jsonl"


@pytest.mark.parametrize("inside", ["own", "folder"])
def test_what_lies_outside_is_left_out_before_it_is_opened(table: Path, tmp_path: Path, inside: str) -> None:
    pool = read(table, inside=table.parent if inside == "folder" else inside)
    assert pool.uids == ("u0", "u1", "u2", "u7")  # the link is found out when it is opened
    assert [bad.uid for bad in pool.quarantine] == ["u3", "u4", "u5", "u6"]
    assert all("lies outside of" in bad.reason for bad in pool.quarantine)
    report = build(pool, tmp_path / "out")
    assert (report.samples, report.quarantined) == (3, 5)
    assert SECRET not in str(read_quarantine(tmp_path / "out"))


def test_without_a_limit_nothing_is_said_of_what_lies_outside(table: Path, tmp_path: Path) -> None:
    build(read(table), tmp_path / "out")
    left_out = {bad.uid: bad.reason for bad in read_quarantine(tmp_path / "out")}
    assert left_out.keys() == {"u4", "u6", "u7"}
    for uid in ("u4", "u6"):
        assert "nothing of its content is said" in left_out[uid]
    shown = json.dumps(left_out)
    assert SECRET not in shown
    assert SECRET[:8].encode().hex(" ") not in shown
    with pytest.raises(DecodeError, match="nothing of its content"):
        decode(FileImage(tmp_path / "secret.txt", str(table.parent)))
    with pytest.raises(DecodeError, match="start with 72 6f"):  # a file that the user named
        decode(FileImage(tmp_path / "secret.txt"))


def test_other_media_and_annotations_are_confined_too(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(png(1))
    for place in (folder, tmp_path):
        np.save(place / "cloud.npy", np.zeros((4, 3), np.float32))
    (folder / "t.csv").write_text(f"points,caption\ncloud.npy,one\n{tmp_path}/cloud.npy,two\n../cloud.npy,three\n")
    pool = read(folder / "t.csv", media={"points": "cloud"}, inside="own")
    assert [sample.texts[0].string for sample in pool] == ["one"]
    images = [{"id": n, "file_name": name} for n, name in enumerate(["a.png", "../b.png", str(tmp_path / "b.png")])]
    notes = [{"image_id": n, "caption": f"text {n}"} for n in range(3)]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": notes}))
    assert len(read(folder / "captions.json")) == 3
    assert len(read(folder / "captions.json", inside="own")) == 1
    assert len(read(folder / "captions.json", inside=tmp_path)) == 3


def test_nothing_inside_is_an_error_in_a_line(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["data", "inspect", str(table), "--inside", str(tmp_path / "empty")]) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "so it is with all 8 rows" in said
    assert main(["data", "build", str(table), str(tmp_path / "out"), "--inside", "own", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 3


def test_a_table_from_afar_names_nothing_of_this_machine(table: Path, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    with files.open("/t.jsonl", "wb") as file:
        file.write(table.read_bytes())
    address = "memory://t.jsonl"
    assert read(address, root=table.parent).uids == ("u0", "u1", "u2", "u7")
    assert len(read(address, root=table.parent, inside="/")) == 8
    assert read(address).uids == ("u0", "u1", "u7")  # relative to nothing of this machine


def test_a_curated_set_is_confined_to_the_folder_of_its_source(table: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "curated"
    (folder / "tables").mkdir(parents=True)
    pq.write_table(pa.table({"uid": pa.array([], pa.string())}), folder / "tables/removed.parquet")
    source = {"source": str(table.parent / "t.csv"), "fingerprint": ""}
    (table.parent / "t.csv").write_text("image,caption\npictures/a.png,one\n")
    source["fingerprint"] = read(table.parent / "t.csv").fingerprint
    (folder / "curation.json").write_text(json.dumps({"input": source, "columns": []}))
    assert len(read(folder, inside="own")) == 1
    with pytest.raises(DataError, match="outside of"):
        read(folder, inside=folder)


def test_the_service_confines_its_data_by_default(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diptych.serve.collection.served_data import DataPart

    real, given = DataPart.open, []

    class Stop(Exception):
        pass

    def caught(address: str, inside: str = "") -> None:
        given.append(len(real(address, inside=inside).data))
        raise Stop

    monkeypatch.setattr(DataPart, "open", caught)
    dp.index("words", read(table), tmp_path / "index", kind="lexical", what="texts", progress=False).close()
    for more in ([], ["--inside", "/"]):
        with pytest.raises(Stop):
            main(["serve", "words", str(tmp_path / "index"), "--data", str(table), "--port", "0", *more])
    assert given == [4, 8]
