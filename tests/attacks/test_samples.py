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
from PIL import Image

from diptych.core.errors import DataError, DecodeError
from diptych.core.image import FileImage
from diptych.data.columns import read_parquet
from diptych.data.dataset import Pool
from diptych.data.inspect import inspect
from diptych.data.media.decode import decode
from diptych.data.quarantine import Bad, read_quarantine
from diptych.data.read import read
from diptych.data.read.links import read_links
from diptych.data.shards.build import build, open_built
from diptych.data.web.web_archive import links_of

NESTED = "[" * 100_000 + "]" * 100_000
DIGITS = "1" * 5_000
LONG = "x" * 10_000


def png(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 90, 9)).save(file, "PNG")
    return file.getvalue()


def survives(pool: Pool, texts: list[str], tmp_path: Path) -> list[str]:
    """Every use of the pool works on what is left; returns the lines of the quarantine."""
    assert [text.string for sample in pool for text in sample.texts] == texts
    build(pool, tmp_path / "survived")
    built = open_built(tmp_path / "survived")
    assert sorted(text.string for sample in built for text in sample.texts) == sorted(texts)
    assert inspect(pool).lines()
    lines = [str(bad) for bad in pool.quarantine]
    assert len(read_quarantine(tmp_path / "survived")) == len(set(pool.quarantine))
    assert all("\n" not in line and line.encode() for line in lines)
    return lines


# ---------------------------------------------------------------- JSON

SIDECARS = {
    "nested": ('{"caption": ' + NESTED + "}", "nested more than 100 deep"),
    "deep": ('{"caption": "a", "extra": ' + "[" * 150 + "]" * 150 + "}", "nested more than 100 deep"),
    "digits": ('{"caption": "a", "n": ' + DIGITS + "}", "more digits than Python reads"),
    "list": ("[1]", "holds a JSON list"),
    "caption-object": ('{"caption": {"a": 1}}', "its txt holds an object"),
    "caption-lists": ('{"caption": [["a"]]}', "its txt holds a list in a list"),
    "caption-number": ('{"caption": 7.5}', ""),
    "fields": (json.dumps({"caption": "a"} | {f"f{n}": n for n in range(2_000)}), "2,001 fields"),
    "surrogate": ('{"caption": "\\ud800"}', "half a surrogate pair"),
    "size": ('{"caption": "' + "a" * 17_000_000 + '"}', "at most 16,777,216"),
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
    with pytest.raises(DataError):
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
    assert Bad("caf\udce9", "read", "\ud800", "caf\udce9.jpg").file == r"caf\xe9.jpg"


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
    pool = read(tmp_path / "t.csv")
    assert len(pool[0].texts) == 60_002


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


# ---------------------------------------------------------------- COCO


def test_coco_rows_of_the_wrong_shape(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(png(1))
    good = [{"id": 1, "file_name": "a.png"}, {"id": "two", "file_name": "b.png"}]
    images: list[Any] = [*good, 7, None, [], {}, {"id": 3}, {"id": [1], "file_name": "a.png"}, {"id": 4, "file_name": 5}, good[0]]
    images += [{"id": 5, "file_name": "nul\0.png"}, {"id": 6, "file_name": LONG}]
    annotations: list[Any] = [
        {"image_id": 1, "caption": "one"},
        {"image_id": 1, "caption": None},
        {"image_id": 1, "caption": ["x"]},
        {"image_id": [1], "caption": "x"},
        {"image_id": {}, "caption": "x"},
        {"image_id": True, "caption": "x"},
        {"caption": "x"},
        "x",
        None,
        {"image_id": 99, "caption": "x"},
        {"image_id": "two", "caption": "two"},
    ]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    lines = survives(read(tmp_path / "captions.json"), ["one", "two"], tmp_path)
    for place in ("image 2:", "image 3:", "image 6:", "image 7: its id is a list", "image 8: its file_name is a int"):
        assert any(place in line for line in lines), place
    for place in (
        "annotation 1: its caption is a NoneType",
        "annotation 2:",
        "annotation 3:",
        "annotation 5:",
        "annotation 7: is a str",
    ):
        assert any(place in line for line in lines), place
    assert any("image_id 99" in line for line in lines)


def test_karpathy_rows_of_the_wrong_shape(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    good = {"filename": "a.png", "split": "train", "sentences": [{"raw": "one"}, {"raw": 5}, {}, "x"]}
    images = [7, {"filename": "a.png"}, {**good, "sentences": "x"}, {**good, "split": ["x"]}, good]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images}))
    lines = survives(read(tmp_path / "captions.json"), ["one"], tmp_path)
    assert sum("image " in line for line in lines) == 7


def test_a_list_with_other_things_in_it(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "list.json").write_text(json.dumps([1, {"image": "a.png", "caption": "one"}, None, "x"]))
    assert len(survives(read(tmp_path / "list.json"), ["one"], tmp_path)) == 3


@pytest.mark.parametrize("content", [NESTED, f'{{"images": {DIGITS}}}', '{"images": [' + NESTED + "]}"])
def test_files_of_annotations_that_cannot_be_parsed_say_so_in_a_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path / "captions.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError):
        read(tmp_path / "captions.json", format="coco")


# ---------------------------------------------------------------- scene graphs

COCO_GRAPH: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
    "annotations": [{"id": 70, "image_id": 1, "category_id": 2, "bbox": [1, 1, 4, 4]}],
    "categories": [{"id": 2, "name": "man"}],
}


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("images", {"id": 2, "file_name": "nul\0.png"}),
        ("images", {"id": 2, "file_name": LONG}),
        ("images", {"id": 2, "file_name": ["a.png"]}),
        ("images", {"id": 2, "file_name": "caf\udce9.png"}),
        ("images", {"id": [2], "file_name": "a.png"}),
        ("images", {"id": 2, "file_name": "b.png", "width": 10**400, "height": 5}),
        ("images", {"id": 2, "file_name": "b.png", "width": [1], "height": "x"}),
        ("annotations", {"id": 71, "image_id": 1, "category_id": 2, "bbox": [10**400, 1, 2, 3]}),
        ("annotations", {"id": 71, "image_id": 1, "category_id": [2], "bbox": [1, 1, 2, 3]}),
        ("annotations", {"id": {}, "image_id": 1, "category_id": 2, "bbox": [1, 1, 2, 3]}),
        ("annotations", {"id": 71, "image_id": 1, "category_id": 2, "bbox": {"x": 1}}),
        ("annotations", {"id": 71, "image_id": 1, "category_id": 2, "bbox": [1, 1, 2, 3], "score": DIGITS}),
        ("annotations", [1]),
    ],
)
def test_a_hostile_row_of_scene_graphs(tmp_path: Path, part: str, value: Any) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png())
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(png())
    graph = {**COCO_GRAPH, part: [*COCO_GRAPH[part], value]}
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    pool = read(tmp_path / "graph.json", format="coco")
    kept = [sample.uid for sample in pool]
    assert kept in (["a"], ["a", "b"])
    build(pool, tmp_path / "out")
    assert pool.quarantine or kept == ["a", "b"] or part == "annotations"


def test_labels_that_no_table_can_hold(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png())
    images = [{"id": n, "file_name": f"{name}.png", "width": 8, "height": 8} for n, name in enumerate("ab")]
    boxes = [{"id": n, "image_id": n, "category_id": n, "bbox": [1, 1, 4, 4]} for n in range(2)]
    categories = [{"id": 0, "name": "man"}, {"id": 1, "name": "\ud800"}]
    (tmp_path / "graph.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    pool = read(tmp_path / "graph.json", format="coco")
    assert pool.uids == ("a",)
    assert "half a surrogate pair" in str(pool.quarantine[0])


# ---------------------------------------------------------------- web archives


def wat(*records: str) -> bytes:
    parts = []
    for number, content in enumerate(records):
        data = content.encode()
        head = f"WARC/1.0\r\nWARC-Type: metadata\r\nWARC-Target-URI: http://page{number}/\r\nContent-Length: {len(data)}\r\n\r\n"
        parts.append(head.encode() + data + b"\r\n\r\n")
    return b"".join(parts)


def page(*links: Any, base: Any = None) -> str:
    html = {"Links": list(links), "Head": {"Base": base}}
    return json.dumps({"Envelope": {"Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": html}}}})


def test_hostile_records_of_an_archive(tmp_path: Path) -> None:
    pytest.importorskip("warcio")
    link = {"path": "IMG@/src", "url": "a.jpg", "alt": "one"}
    nested = '{"Envelope": ' + '{"a":' * 50_000 + "1" + "}" * 50_000 + "}"
    records = [
        page(link),
        nested,
        '{"Envelope": ' + DIGITS + "}",
        page(link, base="http://["),
        page({**link, "alt": "\ud800"}),
        page({**link, "url": [1]}, 7, None),
        page({**link, "alt": "last"}),
    ]
    (tmp_path / "x.wat").write_bytes(wat(*records))
    bad: list[Bad] = []
    assert [found.text for found in links_of(tmp_path / "x.wat", bad)] == ["one", "one", "last"]
    reasons = [one.reason for one in bad]
    assert any("nested more than 100 deep" in reason for reason in reasons)
    assert any("more digits" in reason for reason in reasons)
    assert any("surrogate" in reason for reason in reasons)
    assert len(bad) == 3


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
