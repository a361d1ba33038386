"""Annotation files that somebody made wrong on purpose: COCO's lists, scene graphs, records of web archives."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from diptych.core.errors import DataError
from diptych.data.quarantine import QuarantineEntry
from diptych.data.read import read
from diptych.data.shards.build import build
from diptych.data.web.web_archive import links_of

from .hostile import DIGITS, LONG, NESTED, png, survives


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
    bad: list[QuarantineEntry] = []
    assert [found.text for found in links_of(tmp_path / "x.wat", bad)] == ["one", "one", "last"]
    reasons = [one.reason for one in bad]
    assert any("nested more than 100 deep" in reason for reason in reasons)
    assert any("more digits" in reason for reason in reasons)
    assert any("surrogate" in reason for reason in reasons)
    assert len(bad) == 3
