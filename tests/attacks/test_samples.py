"""One bad sample among good ones, in every reader: it costs itself, has a line in the quarantine that says why, and nothing else."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diptych.core.errors import DataError, DecodeError
from diptych.core.image import FileImage
from diptych.data.columns import read_parquet
from diptych.data.media.decode import decode
from diptych.data.quarantine import QuarantineEntry
from diptych.data.read import read
from diptych.data.read.links import read_links
from diptych.data.shards.build import build

from .hostile import DIGITS, LONG, NESTED, png, survives

# ---------------------------------------------------------------- JSON

SIDECARS = {
    "nested": ('{"caption": ' + NESTED + "}", "nested more than 100 deep"),
    "deep": ('{"caption": "a", "extra": ' + "[" * 150 + "]" * 150 + "}", "nested more than 100 deep"),
    "digits": ('{"caption": "a", "n": ' + DIGITS + "}", "more digits than Python accepts"),
    "list": ("[1]", "holds a JSON list"),
    "caption-object": ('{"caption": {"a": 1}}', "its txt holds an object"),
    "caption-lists": ('{"caption": [["a"]]}', "its txt holds a list in a list"),
    "caption-number": ('{"caption": 7.5}', ""),
    "fields": (json.dumps({"caption": "a"} | {f"f{n}": n for n in range(2_000)}), "2,001 fields"),
    "surrogate": ('{"caption": "\\ud800"}', "half a surrogate pair"),
    "size": ('{"caption": "' + "a" * 17_000_000 + '"}', "16,777,216"),
}


def write_folder(folder: Path, sidecars: dict[str, str | bytes]) -> Path:
    folder.mkdir()
    for number, (name, content) in enumerate(sidecars.items()):
        (folder / f"{name}.png").write_bytes(png(number))
        (folder / f"{name}.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def write_tar(folder: Path, sidecars: dict[str, str | bytes]) -> Path:
    with tarfile.open(folder.with_suffix(".tar"), "w") as tar:
        for number, (name, content) in enumerate(sidecars.items()):
            for ending, data in (("png", png(number)), ("json", content if isinstance(content, bytes) else content.encode())):
                info = tarfile.TarInfo(f"{name}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return folder.with_suffix(".tar")


Writer = Callable[[Path, dict[str, str | bytes]], Path]


@pytest.mark.parametrize("write", [write_folder, write_tar])
@pytest.mark.parametrize("name", SIDECARS)
def test_a_hostile_sidecar(tmp_path: Path, write: Writer, name: str) -> None:
    content, reason = SIDECARS[name]
    pool = read(write(tmp_path / "set", {"a": '{"caption": "one"}', "b": content, "c": '{"caption": "two"}'}))
    lines = survives(pool, ["one", "two"] if reason else ["one", "7.5", "two"], tmp_path)
    assert any(reason in line for line in lines) or not reason
    assert all("b" in line for line in lines)


@pytest.mark.parametrize("write", [write_folder, write_tar])
def test_uids_in_some_sidecars(tmp_path: Path, write: Writer) -> None:
    """One in a single sidecar names that sample; an empty one, and one of another kind, are as none; a second one costs itself."""
    sidecars: dict[str, Any] = {name: {"caption": name} for name in "abcdef"}
    sidecars["b"]["uid"] = "mine"
    sidecars["c"]["uid"] = ""
    sidecars["d"]["uid"] = None
    sidecars["e"]["uid"] = "mine"
    sidecars["f"]["uid"] = "a/b\0c"
    pool = read(write(tmp_path / "set", {name: json.dumps(value) for name, value in sidecars.items()}))
    assert pool.uids == ("a", "mine", "c", "d", "a_b-c")
    (line,) = survives(pool, ["a", "b", "c", "d", "f"], tmp_path)
    assert "uid 'mine' comes twice" in line


@pytest.mark.parametrize("cls", ["--5", "²", DIGITS, "x"])
def test_a_class_that_is_no_number(tmp_path: Path, cls: str) -> None:
    folder = tmp_path / "set"
    with tarfile.open(folder.with_suffix(".tar"), "w") as tar:
        for name, data in (("a.png", png()), ("a.cls", cls.encode()), ("b.png", png(1)), ("b.cls", b"3")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert read(folder.with_suffix(".tar")).column("cls") == [cls, 3]


def test_hostile_lines_of_a_jsonl_table(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(png(1))
    lines = [
        '{"image": "a.png", "caption": "one"}',
        '{"image": "a.png", "caption": ' + NESTED + "}",
        '{"image": "a.png", "caption": "x", "n": ' + DIGITS + "}",
        '{"image": "a.png", "caption": {"text": "x"}}',
        '{"image": "nul\\u0000.png", "caption": "x"}',
        json.dumps({"image": LONG + ".png", "caption": "x"}),
        json.dumps({"image": "d/" * 3_000 + "x.png", "caption": "x"}),
        '{"image": "b.png", "caption": ["two", null]}',
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    reasons = survives(read(tmp_path / "t.jsonl"), ["one", "two"], tmp_path)
    for reason in (
        "line 2",
        "line 3",
        "its caption holds an object",
        "a NUL character",
        "a path of 10,004 bytes",
        "a path of 6,005 bytes",
    ):
        assert any(reason in line for line in reasons), reason


# ---------------------------------------------------------------- names and kinds of files


def test_files_that_are_no_files_and_names_that_are_none(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a", "pipe-text", "socket"):
        (folder / f"{name}.png").write_bytes(png())
    (folder / "a.txt").write_text("one")
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe-text.txt")
    (folder / "folder.png").mkdir()
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "loop.png").symlink_to("loop.png")
    with socket.socket(socket.AF_UNIX) as server:
        old = Path.cwd()
        os.chdir(folder)  # a socket's address is short
        try:
            server.bind("socket.txt")
        finally:
            os.chdir(old)
        Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).write_bytes(png())
        Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9")).mkdir()
        Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9/x.png")).write_bytes(png())
        lines = survives(read(folder), ["one"], tmp_path)
    names = (
        "pipe.png: is a pipe",
        "pipe-text.txt: is a pipe",
        "socket.txt: is a socket",
        r"caf\xe9.png: its name",
        r"caf\xe9: its name",
    )
    for reason in names:
        assert any(reason in line for line in lines), (reason, lines)
    assert any("device.png" in line for line in lines)
    assert any("gone.png" in line for line in lines)
    assert any("loop.png" in line for line in lines)


def test_pipes_and_devices_that_a_table_names(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "t.csv").write_text("image,caption\na.png,one\npipe.png,two\n/dev/zero,three\n/dev/stdin,four\n.,five\n")
    report = build(read(tmp_path / "t.csv"), tmp_path / "out")
    assert (report.samples, report.quarantined) == (1, 4)
    reasons = "\n".join(report.reasons)
    for reason in ("is a pipe", "is a device", "is a folder"):
        assert reason in reasons
    with pytest.raises(DecodeError, match="is a pipe"):
        decode(FileImage(tmp_path / "pipe.png"))


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet", "t.tar", "t.json", "manifest.parquet"])
def test_a_source_that_is_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError):
        read(tmp_path)
    with pytest.raises(DataError, match="is a pipe"):
        read(tmp_path / name)


@pytest.mark.parametrize("source", ["a\0b.csv", LONG, "d/" * 3_000])
def test_a_source_that_nothing_can_be_called(source: str) -> None:
    with pytest.raises(DataError, match=r"is a (path|name)") as caught:
        read(source)
    assert len(str(caught.value)) < 300


def test_tars_and_tables_whose_names_are_not_utf8(tmp_path: Path) -> None:
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    place.mkdir()
    (place / "a.png").write_bytes(png())
    pq.write_table(pa.table({"image": ["a.png"], "caption": ["one"]}), tmp_path / "t.parquet")
    os.replace(tmp_path / "t.parquet", place / "t.parquet")
    assert survives(read(place / "t.parquet", name="odd"), ["one"], tmp_path) == []
    tar = write_tar(tmp_path / "x", {"a": '{"caption": "one"}'})
    os.replace(tar, place / "x.tar")
    with pytest.raises(DataError, match=r"caf\\xe9/x\.tar: its name is not UTF-8"):
        read(place / "x.tar")


def test_what_is_left_out_can_be_written_down(tmp_path: Path) -> None:
    assert QuarantineEntry("caf\udce9", "read", "\ud800", "caf\udce9.jpg").file == r"caf\xe9.jpg"


# ---------------------------------------------------------------- Parquet


def invalid_strings(values: list[bytes], kind: Any = None) -> pa.Array:
    """An Arrow column of strings whose bytes are whatever they are."""
    binary = pa.array(values, pa.binary())
    return pa.Array.from_buffers(kind or pa.string(), len(values), binary.buffers())


CAPTIONS: dict[str, tuple[Any, list[str], str]] = {
    "strings": (invalid_strings([b"one", b"caf\xe9", b"two"]), ["one", "two"], "row 1: its caption is not UTF-8"),
    "bytes": (pa.array([b"one", b"caf\xe9", b"two"]), ["one", "two"], "not UTF-8: byte 3 is 0xe9"),
    "large bytes": (pa.array([b"one", b"\xff", b"two"], pa.large_binary()), ["one", "two"], "not UTF-8: byte 0 is 0xff"),
    "numbers": (pa.array([1, None, 3]), ["1", "3"], "there is no text"),
    "floats": (pa.array([1.5, float("nan"), 3.0]), ["1.5", "nan", "3"], ""),
    "dictionary": (pa.array(["one", None, "two"]).dictionary_encode(), ["one", "two"], "there is no text"),
    "lists": (pa.array([["one"], [], ["two", None]]), ["one", "two"], "there is no text"),
    "lists of bytes": (pa.array([[b"one"], [b"\xff"], [b"two"]]), ["one", "two"], "not UTF-8"),
    "fixed lists": (pa.array([["one"], [None], ["two"]], pa.list_(pa.string(), 1)), ["one", "two"], "there is no text"),
    "lists of invalid": (
        pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), invalid_strings([b"one", b"\xff", b"two"])),
        ["one", "two"],
        "row 1: its caption is not UTF-8",
    ),
    "moments": (
        pa.array([0, None, 1000], pa.timestamp("ms")),
        ["1970-01-01 00:00:00.000", "1970-01-01 00:00:01.000"],
        "there is no text",
    ),
}


def parquet(folder: Path, **columns: Any) -> Path:
    for number in range(3):
        (folder / f"{number}.png").write_bytes(png(number))
    paths = columns.pop("image", pa.array(["0.png", "1.png", "2.png"]))
    pq.write_table(pa.table({"image": paths, **columns}), folder / "t.parquet")
    return folder / "t.parquet"


@pytest.mark.parametrize("kind", CAPTIONS)
def test_captions_of_any_type(tmp_path: Path, kind: str) -> None:
    column, texts, reason = CAPTIONS[kind]
    lines = survives(read(parquet(tmp_path, caption=column)), texts, tmp_path)
    assert any(reason in line for line in lines) or not reason


@pytest.mark.parametrize(
    "column",
    [
        pa.array([{"a": 1}] * 3),
        pa.array([[["a"]]] * 3),
        pa.array([[{"a": 1}]] * 3),
        pa.array([[("a", "b")]] * 3, pa.map_(pa.string(), pa.string())),
    ],
)
def test_a_column_that_cannot_be_captions_is_named(tmp_path: Path, column: Any) -> None:
    with pytest.raises(DataError, match=r"t\.parquet, field 'caption': column 'caption' holds .*\(expected texts"):
        read(parquet(tmp_path, caption=column))


def test_other_columns_with_invalid_bytes_and_absurd_values(tmp_path: Path) -> None:
    texts = pa.array(["one", "two", "three"])
    bad_bytes = invalid_strings([b"a", b"\xff", b"c"])
    for name in ("image", "uid", "group", "split", "licence", "note"):
        folder = tmp_path / name
        folder.mkdir()
        given = {name: invalid_strings([b"0.png", b"\xff.png", b"2.png"]) if name == "image" else bad_bytes}
        lines = survives(read(parquet(folder, caption=texts, **given)), ["one", "three"], folder)
        assert f"row 1: its {name} is not UTF-8" in lines[0]
    folder = tmp_path / "moments"
    folder.mkdir()
    odd = pa.array([2**62, 0, -(2**62)], pa.timestamp("us"))  # years 148,000
    pool = read(parquet(folder, caption=texts, taken=odd))
    assert survives(pool, ["one", "two", "three"], folder) == []
    assert any("taken" in note for note in pool.notes)


def test_paths_in_parquet_that_no_file_can_have(tmp_path: Path) -> None:
    paths = pa.array(["0.png", "a\0b.png", LONG])
    lines = survives(read(parquet(tmp_path, image=paths, caption=pa.array(["one", "two", "three"]))), ["one"], tmp_path)
    assert any("a NUL character" in line for line in lines)
    assert any("10,000 bytes" in line for line in lines)


def test_a_long_cell_and_an_odd_number_in_csv(tmp_path: Path) -> None:
    """Beyond the first block of a file a cell used to be too long and a number of another kind than those before."""
    (tmp_path / "a.png").write_bytes(png())
    rows = [f"a.png,{n},caption {n}" for n in range(60_000)]
    rows += ["a.png,not a number,late", f'a.png,7,"{"y" * 3_000_000}"']
    (tmp_path / "t.csv").write_text("image,score,caption\n" + "\n".join(rows) + "\n")
    assert len(read(tmp_path / "t.csv")[0].texts) == 60_001  # a text of three million letters is over the limit
    assert len(read(tmp_path / "t.csv", longest_text=4_000_000)[0].texts) == 60_002


def test_links_of_other_types(tmp_path: Path) -> None:
    folder = tmp_path / "links"
    folder.mkdir()
    pq.write_table(pa.table({"url": ["http://x/a", "http://x/b"], "caption": ["one", "two"], "n": [1, 2]}), folder / "a.parquet")
    pq.write_table(pa.table({"url": ["http://x/c"], "caption": pa.array([{"a": 1}])}), folder / "b.parquet")
    kinds = pa.schema([("url", pa.string()), ("caption", pa.binary()), ("n", pa.string()), ("uid", pa.string())])
    odd = {"url": ["http://x/d", "http://x/e"], "caption": [b"\xff", b"three"], "n": ["x", "y"], "uid": [None, None]}
    pq.write_table(pa.table(odd, schema=kinds), folder / "c.parquet")
    pool = read_links(folder)
    assert sorted(text.string for sample in pool for text in sample.texts) == ["one", "three", "two"]
    assert len(pool.quarantine) == 3


# ---------------------------------------------------------------- indexes of tars


@pytest.mark.parametrize(
    ("name", "offset", "size"), [("a.json", 10**15, 5), ("a.json", 512, 10**15), ("a.json", -5, 7), ("../../a.json", 512, 5)]
)
def test_an_index_that_does_not_fit_its_tar_is_made_anew(tmp_path: Path, name: str, offset: int, size: int) -> None:
    tar = write_tar(tmp_path / "set", {"a": '{"caption": "one"}'})
    read(tar)
    place = tmp_path / "set.idx.parquet"
    table = read_parquet(place)
    rows = pa.table([["a.png", name], [512, offset], [5, size]], schema=table.schema)
    pq.write_table(rows, place)
    os.utime(place)
    assert survives(read(tar), ["one"], tmp_path) == []
