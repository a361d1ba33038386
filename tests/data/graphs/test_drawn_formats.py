"""Exports of Label Studio and CVAT: boxes, polygons, attributes and relations as they were drawn, and what is left out with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diptych as dp
from diptych.cli import main
from diptych.core.errors import DataError
from diptych.data.graphs import format_of
from diptych.data.media.decode import encode_png

WIDE, HIGH = 200, 100


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(np.zeros((HIGH, WIDE, 3), np.uint8)))


def shape(key: str, label: str, x: float, y: float, width: float, height: float, **value: Any) -> dict[str, Any]:
    box = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": [label], **value}
    return {"id": key, "type": "rectanglelabels", "from_name": "label", "to_name": "image", "original_width": WIDE, "value": box}


def link(one: str, two: str, *labels: str, direction: str = "right") -> dict[str, Any]:
    return {"type": "relation", "from_id": one, "to_id": two, "direction": direction, "labels": [*labels]}


def studio(folder: Path) -> Path:
    """Two tasks: one with shapes and relations of every kind, one that was skipped."""
    picture(folder / "pictures/plan.png")
    triangle = {"points": [[50, 50], [100, 50], [50, 100]], "polygonlabels": ["room"]}
    polygon = {"id": "r", "type": "polygonlabels", "original_width": WIDE, "original_height": HIGH, "value": triangle}
    result = [
        shape("d", "door", 10, 20, 5, 30),
        shape("w", "window", 0, 0, 10, 10, rectanglelabels=["window", "old"]),
        shape("t", "table", 40, 40, 10, 10, rotation=30),
        polygon,
        {"id": "d", "type": "choices", "from_name": "state", "to_name": "image", "value": {"choices": ["open"]}},
        {"id": "k", "type": "keypointlabels", "value": {"x": 1, "y": 1, "keypointlabels": ["knob"]}},
        link("d", "r", "opens into"),
        link("w", "d", "left of", direction="left"),
        link("w", "r", "touches", direction="bi"),
        link("w", "r"),
    ]
    tasks = [
        {"id": 7, "data": {"image": "/data/upload/1/0f3c9a12-plan.png"}, "annotations": [{"result": result}]},
        {
            "id": 8,
            "data": {"image": "/data/local-files/?d=pictures/other.png"},
            "annotations": [{"was_cancelled": True, "result": []}],
        },
    ]
    (folder / "project.json").write_text(json.dumps(tasks))
    return folder / "project.json"


def test_label_studio(tmp_path: Path) -> None:
    file = studio(tmp_path)
    assert format_of(file) == "label-studio"
    for source in (file, tmp_path):
        pool = dp.read(source)
        graph = pool[0].graph
        assert len(pool) == 1
        assert [region.label for region in graph.regions] == ["door", "window", "room"]
        assert graph.regions[0].box == (20, 20, 30, 50)
        assert [region.attributes for region in graph.regions] == [("open",), ("old",), ()]
        assert graph.regions[2].box == (100, 50, 200, 100)
        assert sorted(graph.triplets()) == [
            ("door", "left of", "window"),
            ("door", "opens into", "room"),
            ("room", "touches", "window"),
            ("window", "touches", "room"),
        ]
        reasons = " | ".join(str(bad) for bad in pool.quarantine)
        for reason in ("it is turned", "keypointlabels is neither a box nor a polygon", "it has no label"):
            assert reason in reasons, reason


def test_the_commands_of_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    studio(tmp_path / "plans")
    assert main(["data", "build", str(tmp_path / "plans"), str(tmp_path / "built")]) == 0
    assert main(["data", "inspect", str(tmp_path / "built"), "--json"]) == 0
    assert [region.label for region in dp.read(tmp_path / "built")[0].graph.regions] == ["door", "window", "room"]
    assert main(["data", "export", str(tmp_path / "built"), str(tmp_path / "out"), "--format", "coco"]) == 0
    assert len(dp.read(tmp_path / "out")[0].graph.triplets()) == 4


def test_label_studio_with_several_annotators(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    several = [{"result": [shape("1", "cat", 0, 0, 50, 50)]}, {"ground_truth": True, "result": [shape("1", "dog", 0, 0, 50, 50)]}]
    (tmp_path / "p.json").write_text(json.dumps([{"id": 1, "data": {"image": "s3://pictures/a.png"}, "annotations": several}]))
    pool = dp.read(tmp_path / "p.json")
    assert [region.label for region in pool[0].graph.regions] == ["dog"]
    assert "has 2 annotations, of which one was read" in str(pool.quarantine[0])


def test_label_studio_with_labels_beside_shapes(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    box = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0}
    result = [
        {"id": "1", "type": "rectangle", "from_name": "bbox", "value": box},
        {"id": "1", "type": "labels", "from_name": "label", "value": {**box, "labels": ["word", "bold"]}},
        {"id": "2", "type": "labels", "from_name": "label", "value": {**box, "labels": ["nowhere"]}},
        {"id": "3", "type": "rectangle", "from_name": "bbox", "value": box},
    ]
    tasks = [{"id": 1, "data": {"ocr": "/data/upload/1/a.png"}, "annotations": [{"result": result}]}]
    (tmp_path / "p.json").write_text(json.dumps(tasks))
    pool = dp.read(tmp_path / "p.json", format="label-studio")
    assert [(region.label, region.attributes) for region in pool[0].graph.regions] == [("word", ("bold",))]
    assert pool[0].graph.regions[0].box == (20, 20, 80, 60)
    reasons = " | ".join(str(bad) for bad in pool.quarantine)
    assert "labels is neither a box nor a polygon" in reasons
    assert "it has no label" in reasons


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><name>plans</name></task></meta>
<image id="0" name="plans/a.png" subset="Train" width="200" height="100">
 <box label="door" xtl="10" ytl="20" xbr="30" ybr="50" occluded="0"><attribute name="state">open</attribute>
  <attribute name="glass">true</attribute><attribute name="fire">false</attribute></box>
 <box label="table" xtl="1" ytl="2" xbr="30" ybr="50" rotation="12.5"/>
 <polygon label="room" points="100,50;200,50;100,100"/><points label="knob" points="4,4"/></image>
<image id="1" name="plans/b.png" subset="Validation" width="200" height="100"/></annotations>
"""


def cvat(folder: Path) -> Path:
    """Two pictures, one without a shape."""
    for name in "ab":
        picture(folder / f"images/plans/{name}.png")
    (folder / "annotations.xml").write_text(CVAT)
    return folder / "annotations.xml"


def test_cvat(tmp_path: Path) -> None:
    cvat(tmp_path)
    for source in (tmp_path, tmp_path / "annotations.xml"):
        pool = dp.read(source)
        assert [*pool.split_names] == ["train", "val"]
        regions = pool[0].graph.regions
        assert [(region.label, region.box, region.attributes) for region in regions] == [
            ("door", (10, 20, 30, 50), ("open", "glass")),
            ("room", (100, 50, 200, 100), ()),
        ]
        assert regions[1].mask is not None
        reasons = " | ".join(str(bad) for bad in pool.quarantine)
        assert "it is turned" in reasons
        assert "a points is neither a box nor a polygon" in reasons


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotations/>", "declares its own entities"),
        ("<annotations><image", "is not XML"),
        ("<annotations><track id='0'/></annotations>", "contains no image below <annotations>"),
    ],
)
def test_xml_that_is_refused(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "annotations.xml").write_text(content)
    with pytest.raises(DataError, match=reason):
        dp.read(tmp_path / "annotations.xml")
