"""Tables of links: what is taken, what is left out and said, and that the cut into files does not matter."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diptych.cli import main
from diptych.core.errors import DataError
from diptych.curate.engine.sources import open_pool
from diptych.data.quarantine import read_quarantine
from diptych.data.read import read
from diptych.data.read.links import holds_web_links, is_links, pair_uid, read_links


def write(path: Path, **columns) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def broken_strings(values: list[bytes]) -> pa.Array:
    """A string column with bytes that are no UTF-8, as careless writers make them."""
    data = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(data), data.buffers())


def test_laions_columns_and_identity_of_a_pair(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", URL=["http://x/1", "http://x/1"], TEXT=["a dog", "a cat"], similarity=[0.3, 0.1])
    pool = read_links(tmp_path)
    assert set(pool.uids) == {pair_uid("http://x/1", "a dog"), pair_uid("http://x/1", "a cat")}
    row = pool[pool.uids.index(pair_uid("http://x/1", "a dog"))]
    assert (row.texts[0].string, row.texts[0].origin, row.image) == ("a dog", "alt", None)
    assert row.extras == {"url": "http://x/1", "similarity": 0.3}


def test_what_is_broken_costs_itself_and_has_a_line(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", uid=["a", "b", "c"], caption=broken_strings([b"fine", b"caf\xe9", b"good"]))
    write(tmp_path / "b.parquet", uid=["d"], words=["no text column"])
    (tmp_path / "c.parquet").write_bytes(b"PAR1 cut short")
    write(tmp_path / "d.parquet", uid=["e", "f", "a"], caption=["yes", None, "fine"])
    pool = read_links(tmp_path)
    assert pool.uids == ("a", "c", "e")
    said = sorted((Path(bad.file).name, bad.uid, bad.reason.split("(")[0]) for bad in pool.quarantine)
    assert said[0] == ("", "a", "the same pair was there before")
    assert said[1] == ("a.parquet", "", "row 1: the caption is not UTF-8")
    assert said[2] == ("b.parquet", "", "has no column of texts among uid, words")
    assert said[3][0] == "c.parquet"
    assert said[3][2].startswith("is not readable as Parquet")
    assert said[4] == ("d.parquet", "", "row 1: no text")
    assert len(said) == 5


def test_the_command_keeps_the_quarantine_and_exits_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("daft", reason="the extra curate is not installed")
    write(tmp_path / "in" / "a.parquet", uid=["a", "b"], caption=broken_strings([b"12 cats", b"\xff"]))
    assert main(["curate", "metaclip", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert "1 left out while reading" in capsys.readouterr().out
    assert [bad.reason for bad in read_quarantine(tmp_path / "out")] == ["row 1: the caption is not UTF-8"]


def test_nothing_left_is_an_error_of_one_line(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", uid=["a"], words=["x"])
    with pytest.raises(DataError, match=r"contains no row of a text; first problem: .*has no column of texts among uid, words"):
        read_links(tmp_path)
    write(tmp_path / "b" / "a.parquet", uid=["a"], caption=pa.array([None], pa.string()))
    assert len(read_links(tmp_path / "b")) == 0


def test_the_cut_into_files_does_not_matter(tmp_path: Path) -> None:
    rows = [("u1", "one"), ("u2", "two"), ("u1", "another"), ("u3", "three")]
    for name, order in (("x", [0, 1, 2, 3]), ("y", [2, 3, 1, 0])):
        for number, row in enumerate(order):
            write(tmp_path / name / f"{number}.parquet", uid=[rows[row][0]], caption=[rows[row][1]])
    one, other = read_links(tmp_path / "x"), read_links(tmp_path / "y")
    assert one.uids == other.uids == ("u1", "u2", "u3")
    assert [s.texts for s in one] == [s.texts for s in other]
    assert one.fingerprint == other.fingerprint


def test_the_folder_of_data_links_is_a_pool_of_links(tmp_path: Path) -> None:
    """`data links` writes the pages that opted out, and its history, beside the table."""
    write(tmp_path / "links.parquet", uid=["a", "b"], url=["http://x/1", "http://x/2"], text=["a dog", "a cat"])
    write(tmp_path / "quarantine.parquet", uid=[""], stage=["opt-out"], reason=["the page says noai"], file=["a.warc"])
    (tmp_path / "lineage.json").write_text("[]")
    assert is_links(tmp_path)
    pool = open_pool(str(tmp_path))
    assert list(pool.uids) == ["a", "b"]
    assert pool.quarantine == []
    (tmp_path / "notes.json").write_text("[]")
    assert not is_links(tmp_path)


def test_tables_with_images_are_not_links(tmp_path: Path) -> None:
    assert not is_links(write(tmp_path / "a.parquet", image=["x.jpg"], caption=["a"]))
    assert is_links(write(tmp_path / "b" / "a.parquet", url=["http://x"], caption=["a"]))
    assert open_pool(tmp_path / "b").uids == (pair_uid("http://x", "a"),)
    assert not is_links(tmp_path / "nowhere")


def test_links_open_wherever_data_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Read, inspected and exported without pictures; where one is needed, the message names the command that fetches them."""
    write(tmp_path / "links" / "a.parquet", url=["http://x/1", "http://x/2"], text=["a dog", "a cat"], stars=[1, 5])
    links, out = str(tmp_path / "links"), tmp_path / "out.parquet"
    pool = read(links)
    assert {(sample.image, sample.texts[0].string, sample.extras["stars"]) for sample in pool} == {
        (None, "a dog", 1),
        (None, "a cat", 5),
    }
    assert pool.fingerprint == read_links(tmp_path / "links").fingerprint
    assert f"diptych data download {links} SHARDS" in pool.notes[0]
    assert main(["data", "inspect", links]) == 0
    assert "2 samples have no image" in capsys.readouterr().out
    assert main(["data", "export", links, str(out), "--format", "parquet"]) == 0
    assert read_links(out).uids == pool.uids
    assert main(["data", "export", links, str(tmp_path / "coco")]) == 1
    assert "diptych data download" in capsys.readouterr().err
    assert main(["train", "clip", "--data", links, "--out", str(tmp_path / "run"), "--steps", "1"]) == 1
    assert "needs 'image'" in (message := capsys.readouterr().err)
    assert "diptych data download" in message


def test_a_table_without_addresses_of_the_web_is_read_as_before(tmp_path: Path) -> None:
    assert not holds_web_links(write(tmp_path / "a.parquet", url=["one.jpg"], text=["a"]))
    assert not holds_web_links(write(tmp_path / "b.parquet", text=["a"]))
    assert holds_web_links(write(tmp_path / "c.parquet", URL=["", "HTTPS://x/1"], TEXT=["a", "b"]))
    (tmp_path / "d.parquet").write_bytes(b"none")
    assert not holds_web_links(tmp_path / "d.parquet")
