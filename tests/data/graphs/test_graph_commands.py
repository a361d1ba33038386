"""Scene graphs from the command line: each published form is built, inspected and exported, and every fault is said with file and row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.cli import main
from diptych.data.dataset import Pool
from diptych.data.graphs import FORMATS
from diptych.data.graphs.facts import graph_facts
from diptych.data.graphs.formats.vg150 import load_h5, save_h5
from diptych.data.read import read
from diptych.data.shards.build import open_built

Change = Callable[[Any], Any]


def made(published: Any, name: str) -> Path:
    folder: Path = getattr(published, name.replace("-", "_"))()
    return folder


def command(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 0
    return capsys.readouterr().out


# ---------------------------------------------------------------- build, inspect, export


@pytest.mark.parametrize("name", FORMATS)
def test_build_inspect_and_export_by_command(
    name: str, published: Any, h5: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, built = made(published, name), tmp_path / "built"
    pool = read(folder)
    assert f"{len(pool)} samples in 1 shards" in command(capsys, "data", "build", str(folder), str(built))
    assert "every image is what was written" in command(capsys, "data", "verify", str(built))
    report = json.loads(command(capsys, "data", "inspect", str(built), "--json"))
    assert report["graphs"]["regions"] == sum(len(sample.regions) for sample in pool)
    assert report["graphs"]["relations"] == sum(len(sample.relations) for sample in pool)
    assert not any("no sample has a text" in line for line in report["warnings"])
    assert "scene graphs:" in command(capsys, "data", "inspect", str(built))
    command(capsys, "data", "export", str(built), str(tmp_path / "out"), "--format", name)
    again = {sample.extras["image_id"]: sample for sample in read(tmp_path / "out")}
    for sample in pool:
        if sample.relations:
            assert sorted(again[sample.extras["image_id"]].graph.triplets()) == sorted(sample.graph.triplets())


def test_inspect_of_a_world_says_what_its_graphs_hold(capsys: pytest.CaptureFixture[str]) -> None:
    out = command(capsys, "data", "inspect", "world:links?n=8&val=2&test=2&unseen=0")
    assert re.search(r"scene graphs: \d+ regions of \d+ labels, 24 relations of \d predicates \(2\.00 an image\)", out)
    assert "no sample has a text" not in out


# ---------------------------------------------------------------- what inspect counts


def test_facts_count_what_is_odd(published: Any) -> None:
    folder = made(published, "coco")

    def change(value: Any) -> None:
        value["rel_annotations"] += [
            {"id": 2, "image_id": 3, "subject_id": 70, "object_id": 71, "predicate_id": 4},
            {"id": 3, "image_id": 3, "subject_id": 70, "object_id": 70, "predicate_id": 4},
        ]
        value["annotations"] += [{"id": 72, "image_id": 3, "category_id": 9, "bbox": [1, 1, 1.5, 30]}]
        value["images"] += [{"id": 4, "file_name": "b.jpg"}]

    edit(folder / "val.json", change)
    published.image("images/b.jpg")
    facts = graph_facts(read(folder))
    assert facts is not None
    assert (facts.images, facts.regions, facts.relations) == (2, 3, 3)
    assert (facts.without_regions, facts.without_relations) == (1, 1)
    assert (facts.doubled, facts.to_itself, facts.small, facts.rare) == (1, 1, 1, 1)
    assert (facts.labels, facts.predicates) == ({"kite": 2, "man": 1}, {"flying": 3})
    assert facts.warnings == [
        "1 relations repeat another one between the same two regions",
        "1 boxes are thinner than 2 pixels",
    ]
    assert facts.lines() == [
        "scene graphs: 3 regions of 2 labels, 3 relations of 1 predicates (1.50 an image)",
        "images without a region: 1; without a relation: 1",
        "labels: kite 2, man 1",
        "predicates: flying 3; with fewer than 10 relations: 1",
        "relations of a region to itself (no object): 1",
    ]


def test_pools_without_graphs_have_no_facts_and_boxes_alone_are_said_to_be_alone(published: Any) -> None:
    published.image("a.jpg")
    (published.folder / "a.txt").write_text("a word")
    assert graph_facts(read(published.folder)) is None
    boxes = made(published, "psg")
    edit(boxes / "psg.json", lambda value: [row.update(relations=[]) for row in value["data"]])
    facts = graph_facts(read(boxes / "psg.json"))
    assert facts is not None
    assert facts.warnings == ["there are regions and no relation: only boxes and labels can be learned"]


# ---------------------------------------------------------------- faults, form by form


def edit(file: Path, change: Change) -> None:
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def at(*path: Any, **changes: Any) -> Change:
    """Update the object at this path."""
    return lambda value: reduce(getitem, path, value).update(changes)


def into(*path: Any, value: Any) -> Change:
    """Replace what stands at this path."""
    return lambda whole: reduce(getitem, path[:-1], whole).__setitem__(path[-1], value)


def repeated(*path: Any) -> Change:
    """Write the first entry of a list once more at its end."""
    return lambda whole: (rows := reduce(getitem, path, whole)).append(rows[0])


@dataclass(frozen=True)
class OnFile:
    """A change of a file as it lies there, and not of the JSON in it."""

    change: Callable[[Path], Any]


def every_list_repeated(value: Any) -> None:
    for key in ("annotation", "filenames", "size"):
        repeated(key)(value)


def arrays(**changes: Change) -> OnFile:
    """Change data sets of the h5 in place."""

    def change(file: Path) -> None:
        held = load_h5(file)
        for name, each in changes.items():
            each(held[name])
        file.unlink()
        save_h5(file, held)

    return OnFile(change)


def replaced(old: str, new: str) -> OnFile:
    def change(file: Path) -> None:
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return OnFile(change)


def copied_to_test(file: Path) -> None:
    file.with_name("vcoco_test.json").write_bytes(file.read_bytes())


def put(place: Any, value: Any) -> Change:
    return lambda array: array.__setitem__(place, np.array(value))


OUTSIDE, FLAT = r"lies outside the image of 100 x 80 pixels", r"has no area"
HICO, PAIRS = "annotations/trainval_hico.json", "instances_train2015.json"
COCO, ACTIONS = "data/instances_vcoco_all_2014.json", "data/vcoco/vcoco_train.json"
VCOCO, VG, OI, CSV = "annotations/test_vcoco.json", "objects.json", "vrd-val-anno.json", "oidv6-validation-annotations-vrd.csv"
H5 = "VG-SGG-with-attri.h5"

# form, fault, the file that is changed, the change, and what must be said: file, row and reason
FAULTS: list[tuple[str, str, str, Any, str]] = [
    (
        "hico-det",
        "outside",
        HICO,
        at(0, "annotations", 0, bbox=[150, 5, 190, 75]),
        rf"trainval_hico.json, row 0: box 0 .*{OUTSIDE}",
    ),
    ("hico-det", "flat", HICO, at(0, "annotations", 0, bbox=[10, 5, 10, 75]), rf"trainval_hico.json, row 0: box 0 .*{FLAT}"),
    (
        "hico-det",
        "missing",
        HICO,
        at(0, "hoi_annotation", 0, object_id=9),
        r"trainval_hico.json, row 0: .* points at box 9, and there are 3",
    ),
    (
        "hico-det",
        "label",
        HICO,
        at(0, "annotations", 0, category_id=12),
        r"trainval_hico.json, row 0: box 0 .*12 is not one of COCO's",
    ),
    ("hico-det", "twice", HICO, repeated(), r"trainval_hico.json, row 1: image HICO_train2015_00000001.jpg is a duplicate"),
    (
        "hico-det-pairs",
        "outside",
        PAIRS,
        into("annotation", 0, "boxes_o", 0, value=[150, 5, 190, 75]),
        rf"{PAIRS}, row 0: box 1 .*{OUTSIDE}",
    ),
    (
        "hico-det-pairs",
        "flat",
        PAIRS,
        into("annotation", 0, "boxes_o", 0, value=[20, 40, 20, 78]),
        rf"{PAIRS}, row 0: box 1 .*{FLAT}",
    ),
    (
        "hico-det-pairs",
        "label",
        PAIRS,
        into("annotation", 0, "object", 0, value=99),
        rf"{PAIRS}, row 0: box 1 .*object 99 is unknown",
    ),
    ("hico-det-pairs", "twice", PAIRS, every_list_repeated, rf"{PAIRS}, row 1: image .* is a duplicate"),
    (
        "v-coco",
        "outside",
        COCO,
        at("annotations", 1, bbox=[150, 5, 30, 30]),
        rf"vcoco_train.json, row 0: annotation 1 of instances_vcoco_all_2014.json .*{OUTSIDE}",
    ),
    (
        "v-coco",
        "flat",
        COCO,
        at("annotations", 1, bbox=[10, 5, 0, 30]),
        rf"vcoco_train.json, row 0: annotation 1 of instances_vcoco_all_2014.json .*{FLAT}",
    ),
    (
        "v-coco",
        "missing",
        ACTIONS,
        into(1, "role_object_id", 4, value=999),
        r"vcoco_train.json, row 0: relation .* there is no box 999",
    ),
    (
        "v-coco",
        "label",
        COCO,
        at("annotations", 1, category_id=99),
        r"vcoco_train.json, row 0: annotation 1 of instances_vcoco_all_2014.json.*category_id 99 is not among",
    ),
    ("v-coco", "twice", ACTIONS, OnFile(copied_to_test), r"vcoco_train.json, row 0: image 42 is a duplicate; .*vcoco_test.json"),
    (
        "v-coco-hoia",
        "outside",
        VCOCO,
        at(0, "annotations", 0, bbox=[150, 5, 190, 75]),
        rf"test_vcoco.json, row 0: box 0 .*{OUTSIDE}",
    ),
    ("v-coco-hoia", "flat", VCOCO, at(0, "annotations", 0, bbox=[10, 5, 10, 75]), rf"test_vcoco.json, row 0: box 0 .*{FLAT}"),
    ("v-coco-hoia", "missing", VCOCO, at(0, "hoi_annotation", 0, object_id=9), r"test_vcoco.json, row 0: .*there is no box 9"),
    (
        "v-coco-hoia",
        "label",
        VCOCO,
        at(0, "annotations", 0, category_id=12),
        r"test_vcoco.json, row 0: box 0 .*12 is not one of COCO's",
    ),
    ("v-coco-hoia", "twice", VCOCO, repeated(), r"test_vcoco.json, row 1: image .* is a duplicate"),
    ("visual-genome", "outside", VG, at(0, "objects", 0, x=150), rf"image_data.json, row 0: object 5 .*{OUTSIDE}"),
    ("visual-genome", "flat", VG, at(0, "objects", 0, w=0), rf"image_data.json, row 0: object 5 .*{FLAT}"),
    (
        "visual-genome",
        "missing",
        "relationships.json",
        at(0, "relationships", 0, object=None),
        r"image_data.json, row 0: relation 0 .*there is no box None",
    ),
    ("visual-genome", "label", VG, at(0, "objects", 0, names=[" "]), r"image_data.json, row 0: object 5 .*has no label"),
    ("visual-genome", "twice", "image_data.json", repeated(), r"image_data.json, row 2: image 1 is a duplicate"),
    ("rlipv2", "outside", "tagged.json", at(0, "objects", 0, x=150), rf"tagged.json, row 0: box 0 .*{OUTSIDE}"),
    ("rlipv2", "flat", "tagged.json", at(0, "objects", 0, h=0), rf"tagged.json, row 0: box 0 .*{FLAT}"),
    (
        "rlipv2",
        "missing",
        "tagged.json",
        at(0, "relationships", 0, subject_id=99),
        r"tagged.json, row 0: relation 0 .*there is no box 99",
    ),
    ("rlipv2", "label", "tagged.json", at(0, "objects", 0, names=""), r"tagged.json, row 0: box 0 .*has no label"),
    ("rlipv2", "twice", "tagged.json", repeated(), r"tagged.json, row 2: image 7 is a duplicate"),
    ("vg150", "outside", H5, arrays(boxes_1024=put(0, [2000, 400, 20, 20])), rf"{H5}, row 0: box 0 .*{OUTSIDE}"),
    ("vg150", "flat", H5, arrays(boxes_1024=put(0, [300, 400, 0, 20])), rf"{H5}, row 0: box 0 .*{FLAT}"),
    ("vg150", "missing", H5, arrays(relationships=put(0, [0, 2])), rf"{H5}, row 0: relation 0 .*there is no box 2"),
    ("vg150", "label", H5, arrays(labels=put(0, 151)), rf"{H5}, row 0: box 0 .*label 151 is not in the dictionaries"),
    ("vg150", "twice", "image_data.json", at(1, image_id=1), rf"{H5}, row 1: image 1 is a duplicate"),
    ("coco", "outside", "val.json", at("annotations", 0, bbox=[150, 5, 9, 9]), rf"val.json, row 0: annotation 0 .*{OUTSIDE}"),
    ("coco", "flat", "val.json", at("annotations", 0, bbox=[10, 5, 0, 9]), rf"val.json, row 0: annotation 0 .*{FLAT}"),
    ("coco", "missing", "val.json", at("rel_annotations", 0, object_id=9), r"val.json, row 0: relation 0 .*there is no box 9"),
    (
        "coco",
        "label",
        "val.json",
        at("annotations", 0, category_id=7),
        r"val.json, row 0: annotation 0 .*category_id 7 is not among",
    ),
    ("coco", "twice", "val.json", repeated("images"), r"val.json, row 1: image 3 is a duplicate"),
    (
        "psg",
        "outside",
        "psg.json",
        at("data", 0, "annotations", 0, bbox=[150, 5, 160, 75]),
        rf"psg.json, row 0: box 0 .*{OUTSIDE}",
    ),
    ("psg", "flat", "psg.json", at("data", 0, "annotations", 0, bbox=[10, 5, 10, 75]), rf"psg.json, row 0: box 0 .*{FLAT}"),
    ("psg", "missing", "psg.json", at("data", 0, relations=[[0, 5, 1]]), r"psg.json, row 0: relation 0 .*there is no box 5"),
    (
        "psg",
        "label",
        "psg.json",
        at("data", 0, "annotations", 0, category_id=7),
        r"psg.json, row 0: box 0 .*7 is not one of the 3 classes",
    ),
    ("psg", "twice", "psg.json", repeated("data"), r"psg.json, row 2: image 5 is a duplicate"),
    ("open-images", "outside", OI, into(0, "bbox", 0, value=[150, 5, 190, 75]), rf"{OI}, row 0: box 0 .*{OUTSIDE}"),
    ("open-images", "flat", OI, into(0, "bbox", 0, value=[10, 5, 10, 75]), rf"{OI}, row 0: box 0 .*{FLAT}"),
    ("open-images", "missing", OI, into(0, "rel", 0, value=[0, 7, 0]), rf"{OI}, row 0: relation 0 .*there is no box 7"),
    ("open-images", "label", OI, into(0, "det_labels", 0, value=601), rf"{OI}, row 0: box 0 .*det_label 601 is not one of the 2"),
    ("open-images", "twice", OI, repeated(), rf"{OI}, row 1: image 00a1 is a duplicate"),
    (
        "open-images-csv",
        "outside",
        CSV,
        replaced("0.300000,0.900000,0.500000,0.975000,plays", "1.5,1.9,0.5,0.9,plays"),
        rf"{CSV}, row 0: box 1 .*{OUTSIDE}",
    ),
    (
        "open-images-csv",
        "flat",
        CSV,
        replaced("0.300000,0.900000,0.500000,0.975000,plays", "0.3,0.3,0.5,0.9,plays"),
        rf"{CSV}, row 0: box 1 .*{FLAT}",
    ),
    (
        "open-images-csv",
        "label",
        CSV,
        replaced("/m/04yx4,/m/0342h,", "/m/04yx4,/m/none,"),
        rf"{CSV}, row 0: box 1 .*LabelName /m/none is not in",
    ),
]


@pytest.mark.parametrize(("name", "fault", "file", "change", "line"), FAULTS, ids=[f"{each[0]}-{each[1]}" for each in FAULTS])
def test_every_fault_is_said_with_file_and_row(
    name: str, fault: str, file: str, change: Any, line: str, published: Any, h5: None, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = made(published, name)
    whole = read(folder)
    if isinstance(change, OnFile):
        change.change(folder / file)
    else:
        edit(folder / file, change)
    out = command(capsys, "data", "build", str(folder), str(tmp_path / "built"))
    assert re.search(line, out), out
    pool = open_built(tmp_path / "built")
    assert sound(pool)
    if fault != "missing" or name != "hico-det":  # there a whole training image goes, as with every published reader
        assert set(pool.uids) == set(whole.uids) - ({"2"} if (name, fault) == ("vg150", "twice") else set())


def sound(pool: Pool) -> bool:
    """Every relation has its two regions, every region has an area."""
    ends = all(0 <= end < len(s.regions) for s in pool for r in s.relations for end in (r.subject, r.object))
    return ends and all(r.box[0] < r.box[2] and r.box[1] < r.box[3] and r.label for s in pool for r in s.regions)


def test_the_table_has_every_fault_that_a_form_can_have() -> None:
    every = {(name, fault) for name in FORMATS for fault in ("outside", "flat", "missing", "label", "twice")}
    # pairs carry their own boxes, and so do rows of the CSV; rows of one image of the CSV belong together
    cannot = {("hico-det-pairs", "missing"), ("open-images-csv", "missing"), ("open-images-csv", "twice")}
    assert {(name, fault) for name, fault, *_ in FAULTS} == every - cannot
