"""Bad scene-graph files: each fault costs what it must and no more, and one line names file and row."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diptych.cli import main
from diptych.core.errors import DataError, DiptychError, MissingExtra
from diptych.data.dataset import Pool
from diptych.data.graphs import FORMATS
from diptych.data.graphs.formats.vg150 import load_h5, save_h5
from diptych.data.read import read
from diptych.data.shards.build import build, open_built


def edited(file: Path, change: Callable[[Any], Any]) -> None:
    """Change the value in a JSON file in place."""
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def reasons(pool: Pool) -> list[str]:
    assert all(bad.uid == "" for bad in pool.quarantine)  # a uid here would take the whole image away after a build
    return [str(bad) for bad in pool.quarantine]


# ---------------------------------------------------------------- boxes, with COCO as the example


@pytest.mark.parametrize(
    ("bbox", "line"),
    [
        ([10, 5, 0, 70], r"val\.json, row 0: annotation 0 \('man'\) was left out: \(10, 5, 10, 75\) has no area"),
        ([10, 5, -4, 70], "has no area"),
        ([120, 5, 30, 70], r"\(120, 5, 150, 75\) lies outside the image of 100 x 80 pixels"),
        ([-20, 5, 20, 70], "lies outside"),
        ([10, 5, "wide", 70], "is not a box"),
        ([10, 5, 4], "is not a box"),
        (None, "is not a box"),
    ],
)
def test_a_box_that_cannot_be_used_goes_with_its_relations(bbox: Any, line: str, published: Any) -> None:
    folder = published.coco()
    edited(folder / "val.json", lambda value: value["annotations"][0].update(bbox=bbox))
    pool = read(folder)
    first, second = reasons(pool)
    assert re.search(line, first)
    assert second.endswith("row 0: relation 0 ('flying') was left out: box 70 was left out")
    assert [region.label for region in pool[0].regions] == ["kite"]
    assert pool[0].relations == ()


def test_a_box_that_sticks_out_is_cut_and_said_so(published: Any) -> None:
    folder = published.coco()
    edited(folder / "val.json", lambda value: value["annotations"][0].update(bbox=[-10, 5, 200, 70]))
    pool = read(folder)
    assert pool[0].regions[0].box == (0, 5, 100, 75)
    assert [r.split(": ")[1] for r in reasons(pool)] == [
        "annotation 0 ('man') (-10, 5, 190, 75) was cut to the image of 100 x 80 pixels"
    ]
    assert len(pool[0].relations) == 1


def test_one_pixel_over_the_edge_is_rounding(published: Any) -> None:
    folder = published.coco()
    edited(folder / "val.json", lambda value: value["annotations"][0].update(bbox=[-1, 5, 102, 75.5]))
    pool = read(folder)
    assert pool[0].regions[0].box == (0, 5, 100, 80)
    assert pool.quarantine == []


def test_later_relations_find_their_boxes_after_one_was_left_out(published: Any) -> None:
    folder = published.coco()

    def change(value: Any) -> None:
        value["annotations"].insert(0, {"id": 5, "image_id": 3, "category_id": 2, "bbox": [0, 0, 0, 0]})

    edited(folder / "val.json", change)
    assert read(folder)[0].graph.triplets() == [("man", "flying", "kite")]


# ---------------------------------------------------------------- labels, relations, images


def test_coco_names_what_points_nowhere(published: Any) -> None:
    folder = published.coco()

    def change(value: Any) -> None:
        value["annotations"] += [
            {"id": 72, "image_id": 3, "category_id": 99, "bbox": [1, 1, 5, 5]},
            {"id": 73, "image_id": 8, "category_id": 2, "bbox": [1, 1, 5, 5]},
            {"id": 70, "image_id": 3, "category_id": 2, "bbox": [1, 1, 5, 5]},
        ]
        value["rel_annotations"] += [
            {"id": 2, "image_id": 3, "subject_id": 70, "object_id": 500, "predicate_id": 4},
            {"id": 3, "image_id": 3, "subject_id": 70, "object_id": 71, "predicate_id": 44},
        ]
        value["images"] += [{"id": 3, "file_name": "a.jpg"}, {"id": 4, "file_name": "gone.jpg"}, {"id": 5}]

    edited(folder / "val.json", change)
    pool = read(folder)
    assert [line.partition("val.json, ")[2] for line in reasons(pool)] == [
        "row 3: annotation 3 is of image_id 8, which is not among the images",
        "row 0: annotation 2 was left out: category_id 99 is not among the categories",
        "row 0: annotation 4 ('man') was left out: its id 70 was taken before",
        "row 0: relation 1 ('flying') was left out: there is no box 500",
        "row 0: relation 2 was left out: predicate_id 44 is not among the rel_categories",
        f"row 1: image 3 is a duplicate; the first is in {folder / 'val.json'}, row 0",
        "row 2: image gone.jpg does not exist",
        "row 3: field 'file_name': has no 'file_name' among id",
    ]
    assert pool[0].graph.triplets() == [("man", "flying", "kite")]


def test_what_was_left_out_is_still_said_after_a_build_and_costs_no_image(published: Any, tmp_path: Path) -> None:
    folder = published.coco()
    edited(folder / "val.json", lambda value: value["annotations"][0].update(bbox=[0, 0, 0, 0]))
    pool = read(folder)
    build(pool, tmp_path / "built")
    again = open_built(tmp_path / "built")
    assert len(again) == 1
    assert {bad.reason for bad in again.quarantine} == {bad.reason for bad in pool.quarantine}


def test_hico_leaves_out_an_image_whose_triplet_points_past_its_boxes(published: Any) -> None:
    """Its published readers do the same; counts of training triplets depend on it."""
    folder = published.hico_det()

    def change(value: Any) -> None:
        value[0]["hoi_annotation"][1]["object_id"] = 7
        value.append({**value[0], "file_name": "HICO_train2015_00000002.jpg", "hoi_annotation": []})

    edited(folder / "annotations/trainval_hico.json", change)
    published.image("images/train2015/HICO_train2015_00000002.jpg")
    pool = read(folder)
    assert pool.uids == ("HICO_test2015_00000006", "HICO_train2015_00000002")
    assert "trainval_hico.json, row 0: field 'hoi_annotation': a triplet points at box 7, and there are 3" in reasons(pool)[0]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda v: v[0]["annotations"][2].update(category_id=12), "box 2 was left out: category_id 12 is not one of COCO's"),
        (lambda v: v[0]["annotations"][2].update(category_id="x"), "field 'category_id': 'x' is not a number"),
        (lambda v: v[0]["hoi_annotation"][0].update(category_id=118), "category_id 118 is not one of the 117 verbs"),
        (lambda v: v[0].pop("annotations"), "has no 'annotations' among file_name, img_id, hoi_annotation"),
        (lambda v: v.append(v[0]), "image HICO_train2015_00000001.jpg is a duplicate"),
        (lambda v: v.append(7), "row 1: is int"),
    ],
)
def test_hico_faults(change: Callable[[Any], Any], line: str, published: Any) -> None:
    folder = published.hico_det()
    edited(folder / "annotations/trainval_hico.json", change)
    assert any(line in reason for reason in reasons(read(folder)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[1]["role_object_id"].pop(), r"vcoco_train\.json, row 1: 'hit' has 2, 2, 2, 5 image_id"),
        (lambda v: v[1]["role_object_id"].reverse(), "does not begin with the people"),
        (lambda v: v[1].pop("label"), "row 1, field 'label'"),
    ],
)
def test_v_coco_lists_that_do_not_fit(change: Callable[[Any], Any], message: str, published: Any) -> None:
    folder = published.v_coco()
    edited(folder / "data/vcoco/vcoco_train.json", change)
    with pytest.raises(DataError, match=message):
        read(folder)


def test_v_coco_object_that_coco_does_not_have(published: Any) -> None:
    folder = published.v_coco()
    edited(folder / "data/vcoco/vcoco_train.json", lambda value: value[1].update(role_object_id=[11, 14, 12, 0, 999, 0]))
    assert reasons(read(folder))[0].endswith("relation 2 ('hit obj') was left out: there is no box 999")


def test_visual_genome_faults(published: Any) -> None:
    folder = published.visual_genome()
    edited(folder / "objects.json", lambda value: value.append({"image_id": 77, "objects": []}))
    edited(folder / "objects.json", lambda value: value.append(value[0]))

    def nameless(value: Any) -> None:
        value[0]["relationships"][1]["object"] = None
        value[0]["relationships"][0]["predicate"] = " "

    edited(folder / "relationships.json", nameless)
    said = reasons(read(folder))
    assert "objects.json, row 2: image_id 77 is not in image_data.json" in said[0]
    assert "objects.json, row 3: image_id 1 is a duplicate" in said[1]
    assert said[2].endswith("row 0: relation 0 was left out: it has no predicate")
    assert said[3].endswith("row 0: relation 1 ('on') was left out: there is no box None")


def test_psg_and_open_images_faults(published: Any) -> None:
    folder = published.psg()
    edited(folder / "psg.json", lambda value: value["data"][0].update(relations=[[0, 5, 1], [0, 1, 9], [0, 1]]))
    said = reasons(read(folder))
    assert [line.split(": ", 1)[1] for line in said] == [
        "relation 0 ('standing on') was left out: there is no box 5",
        "relation 1 was left out: predicate 9 is not one of the 2 classes",
        "relation 2 was left out: [0, 1] is not [subject, object, predicate]",
    ]


def test_open_images_csv_label_without_a_name(published: Any) -> None:
    folder = published.open_images_csv()
    (folder / "class-descriptions-boxable.csv").write_text("LabelName,DisplayName\n/m/04yx4,Man\n")
    pool = read(folder)
    assert "box 1 was left out: LabelName /m/0342h is not in the class descriptions" in reasons(pool)[0]
    assert [region.label for region in pool[0].regions] == ["Man"]


# ---------------------------------------------------------------- whole files


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("open-images-csv", "vg150")])
def test_a_file_that_was_cut_off(name: str, published: Any) -> None:
    folder = getattr(published, name.replace("-", "_"))()
    file = max(folder.rglob("*.json"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=rf"{file.name}: is not JSON: .* in line 1, column \d+"):
        read(folder, format=name)


@pytest.mark.parametrize("name", FORMATS)
def test_images_that_lie_elsewhere(name: str, published: Any, h5: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    folder = getattr(published, name.replace("-", "_"))()
    whole = read(folder).uids
    for image in sorted(folder.rglob("*.jpg")):
        target = elsewhere / "images" / image.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        image.rename(target)
    with pytest.raises(DataError, match=r"was found nowhere near \(expected root=FOLDER"):
        read(folder)
    assert read(folder, root=elsewhere / "images").uids == whole


def test_an_image_that_is_no_image_costs_itself(published: Any) -> None:
    folder = published.hico_det()
    (folder / "images/test2015/HICO_test2015_00000006.jpg").write_bytes(b"not a picture")
    pool = read(folder)
    assert pool.uids == ("HICO_train2015_00000001",)
    assert "HICO_test2015_00000006.jpg cannot be read" in reasons(pool)[0]


def test_a_line_break_in_a_name_does_not_break_the_message(published: Any) -> None:
    folder = published.hico_det()
    edited(folder / "annotations/trainval_hico.json", lambda value: value[0].update(file_name="a\nb.jpg"))
    assert reasons(read(folder))[0].endswith("row 0: image a\\nb.jpg does not exist")


def test_columns_and_unknown_formats_are_refused(published: Any) -> None:
    folder = published.psg()
    with pytest.raises(DataError, match="psg has no columns to choose from"):
        read(folder, text="caption")
    with pytest.raises(DiptychError, match=r"unknown format 'pgs'; did you mean 'psg'\?"):
        read(folder, format="pgs")
    with pytest.raises(DataError, match=r"contains no V-COCO|contains no vcoco_\*\.json"):
        read(folder, format="v-coco")


# ---------------------------------------------------------------- h5


def test_h5_without_h5py(published: Any, monkeypatch: pytest.MonkeyPatch, h5: None) -> None:
    folder = published.vg150()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtra, match=r"needs the package 'h5py': pip install 'h5py.*diptych\[h5\]"):
        read(folder)


def test_h5_that_was_cut_off(published: Any, h5: None) -> None:
    file = published.vg150() / "VG-SGG-with-attri.h5"
    file.write_bytes(file.read_bytes()[:-700])
    with pytest.raises(DataError, match=r"VG-SGG-with-attri\.h5: cannot be read as HDF5: .*truncated"):
        read(published.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("split"), "has no split"),
        (lambda a: a.pop("boxes_1024"), "has no boxes_1024"),
        (lambda a: a.update(labels=a["labels"][:-1]), "lengths differ: boxes_1024 3, labels 2, attributes 3"),
        (lambda a: a.update(relationships=a["relationships"].reshape(-1)), r"'relationships' has the shape \[4\]"),
        (lambda a: a.update(split=a["split"][:-1]), "lengths differ"),
    ],
)
def test_h5_that_is_not_whole(change: Callable[[Any], Any], message: str, published: Any, h5: None) -> None:
    file = published.vg150() / "VG-SGG-with-attri.h5"
    arrays = load_h5(file)
    change(arrays)
    file.unlink()
    save_h5(file, arrays)
    with pytest.raises(DataError, match=message):
        read(published.folder)


def test_h5_rows_that_point_nowhere_cost_themselves(published: Any, h5: None) -> None:
    file = published.vg150() / "VG-SGG-with-attri.h5"
    arrays = load_h5(file)
    arrays["img_to_last_box"] = np.array([1, -1, 9])
    arrays["labels"] = np.array([[78], [151], [20]])
    arrays["relationships"] = np.array([[0, 2], [1, 0]])
    file.unlink()
    save_h5(file, arrays)
    pool = read(published.folder)
    assert pool.uids == ("1", "2")
    assert [line.split(".h5, ")[1] for line in reasons(pool)] == [
        "row 0: box 1 was left out: label 151 is not in the dictionaries",
        "row 0: relation 0 ('holding') was left out: there is no box 2",
        "row 0: relation 1 ('near') was left out: box 1 was left out",
        "row 2: img_to_first_box, img_to_last_box are 2, 9, and there are 3 in all",
    ]


def test_h5_and_image_data_must_agree(published: Any, h5: None) -> None:
    folder = published.vg150()
    edited(folder / "image_data.json", lambda value: value.__delitem__(slice(2)))
    with pytest.raises(DataError, match=r"image_data\.json: lists 2 images \(expected the 3 of VG-SGG"):
        read(folder)


# ---------------------------------------------------------------- anything at all

junk = st.none() | st.booleans() | st.integers(-3, 200) | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("open-images-csv", "vg150")])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_anywhere_gives_a_pool_or_one_clear_line(name: str, data: st.DataObject, published: Any) -> None:
    folder = getattr(published, name.replace("-", "_"))()
    file = data.draw(st.sampled_from(sorted(folder.rglob("*.json"))))
    value = json.loads(file.read_text())
    node, steps = value, data.draw(st.integers(1, 6))
    for step in range(steps):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        if step == steps - 1 or not isinstance(node[key], dict | list):
            node[key] = data.draw(junk)
            break
        node = node[key]
    file.write_text(json.dumps(value))
    pool, said = outcome(folder, name)
    assert "\n" not in said
    if pool is None:
        assert str(folder) in said
    else:
        for sample in pool:
            assert all(0 <= end < len(sample.regions) for r in sample.relations for end in (r.subject, r.object))
            assert all(r.box[0] < r.box[2] and r.box[1] < r.box[3] for r in sample.regions)


def outcome(folder: Path, name: str) -> tuple[Pool | None, str]:
    """A pool, or the line that says why there is none."""
    try:
        return read(folder, format=name), ""
    except DiptychError as error:
        return None, str(error)


# ---------------------------------------------------------------- the command line


def test_build_and_export_commands(published: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = published.psg()
    assert main(["data", "build", str(folder), str(tmp_path / "built"), "--format", "psg"]) == 0
    assert main(["data", "export", str(tmp_path / "built"), str(tmp_path / "out"), "--format", "open-images"]) == 0
    assert "2 samples as open-images in" in capsys.readouterr().out
    pool = read(tmp_path / "out")
    assert [sample.graph.triplets() for sample in pool.split("train")] == [[("person", "standing on", "grass")]]
    assert main(["data", "export", str(tmp_path / "built"), str(tmp_path / "o2"), "--format", "vg151"]) != 0
    assert "unknown format 'vg151'; did you mean 'vg150'?" in capsys.readouterr().err


def test_export_of_a_world_as_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "export", "world:links?n=3", str(tmp_path / "out"), "--format", "coco", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["format"] == "coco"
    assert value["samples"] > 0
    assert all(Path(file).is_file() for file in value["files"])
