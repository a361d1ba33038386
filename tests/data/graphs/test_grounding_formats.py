"""Sentences with boxes from made-up files in the exact forms of RefCOCO (MDETR's JSON), Flickr30k Entities and OmniLabel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diptych as dp
from diptych.core.errors import DataError
from diptych.data.graphs import format_of, read
from diptych.data.text.captions.phrases import sentences_of


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path)


def words(sample: Any) -> list[list[tuple[list[str], list[tuple[float, ...]], str]]]:
    """For each sentence, for each phrase its words, its boxes, its kind."""
    return [
        [
            (s.marked.words(n), [sample.regions[place].box for place in phrase.regions], phrase.kind)
            for n, phrase in enumerate(s.phrases)
        ]
        for s in sentences_of(sample)
    ]


MDETR: dict[str, Any] = {
    "info": [],
    "licenses": [],
    "images": [
        {"id": 0, "file_name": "COCO_train2014_000000000001.jpg", "height": 40, "width": 60, "original_id": 1,
         "caption": "red cup on the left", "dataset_name": "refcoco"},
        {"id": 1, "file_name": "COCO_train2014_000000000001.jpg", "height": 40, "width": 60, "original_id": 1,
         "caption": "the cup", "dataset_name": "refcoco"},
    ],
    "annotations": [
        {"id": 0, "image_id": 0, "bbox": [0, 0, 10, 20], "area": 200, "iscrowd": 0, "category_id": 1, "tokens_positive": [[0, 7]]},
        {"id": 1, "image_id": 1, "bbox": [0, 0, 10, 20], "area": 200, "iscrowd": 0, "category_id": 1, "tokens_positive": [[0, 7]]},
        {"id": 2, "image_id": 1, "bbox": [30, 0, 10, 20], "area": 200, "iscrowd": 0, "category_id": 1, "tokens_positive": [[0, 7]]},
    ],
    "categories": [{"supercategory": "object", "id": 1, "name": "object"}],
}  # fmt: skip


def test_refcoco_as_mdetr_writes_it(tmp_path: Path) -> None:
    picture(tmp_path / "train2014" / "COCO_train2014_000000000001.jpg")
    file = tmp_path / "finetune_refcoco_val.json"
    file.write_text(json.dumps(MDETR))
    assert format_of(file) == "mdetr"
    pool = dp.read(file)
    assert len(pool) == 1
    one, two = (0.0, 0.0, 10.0, 20.0), (30.0, 0.0, 40.0, 20.0)
    assert words(pool[0]) == [[(["red cup"], [one], "")], [(["the cup"], [one, two], "")]]
    assert [region.label for region in pool[0].regions] == ["red cup", "the cup"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens_positive": [[0, 99]]}, r"\[0, 99\] is outside the text of 19 characters"),
        ({"tokens_positive": []}, "annotation 0: the spans are"),
        ({"bbox": [0, 0, 10]}, "is not a box"),
        ({"image_id": 7}, "annotation 0 is of image_id 7"),
    ],
)
def test_faults_of_mdetr_files_are_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    picture(tmp_path / "COCO_train2014_000000000001.jpg")
    picture(tmp_path / "good.jpg")
    plain = json.loads(json.dumps(MDETR))
    plain["annotations"][0].update(change)
    good = {"id": 9, "file_name": "good.jpg", "height": 40, "width": 60, "caption": "a cup"}
    plain["images"].append(good)
    plain["annotations"].append({"image_id": 9, "bbox": [0, 0, 5, 5], "tokens_positive": [[0, 5]]})
    (tmp_path / "val.json").write_text(json.dumps(plain))
    pool = read(tmp_path / "val.json")
    assert len(pool) >= 1
    import re

    assert any(re.search(said, str(bad)) for bad in pool.quarantine), [str(bad) for bad in pool.quarantine]


def test_flickr30k_entities(tmp_path: Path) -> None:
    picture(tmp_path / "flickr30k-images" / "100.jpg")
    (tmp_path / "Sentences").mkdir()
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "test.txt").write_text("100\n")
    (tmp_path / "Sentences" / "100.txt").write_text(
        "Two [/EN#1/people young guys] with [/EN#2/bodyparts shaggy hair] in [/EN#0/notvisual the yard] .\n"
        "Nobody knows .\n[/EN#1/people Men] at [/EN#3/scene night] near [/EN#2/bodyparts/other hair] .\n"
    )
    (tmp_path / "Annotations" / "100.xml").write_text(
        "<annotation><filename>100.jpg</filename><size><width>60</width><height>40</height></size>"
        "<object><name>1</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>"
        "<object><name>1</name><name>2</name>"
        "<bndbox><xmin>30</xmin><ymin>0</ymin><xmax>40</xmax><ymax>20</ymax></bndbox></object>"
        "<object><name>3</name><scene>1</scene><nobndbox>1</nobndbox></object></annotation>"
    )
    assert format_of(tmp_path) == "flickr30k-entities"
    pool = dp.read(tmp_path)
    one, two = (0.0, 0.0, 10.0, 20.0), (30.0, 0.0, 40.0, 20.0)
    assert sentences_of(pool[0])[0].text == "Two young guys with shaggy hair in the yard ."
    assert words(pool[0]) == [
        [(["young guys"], [one, two], "people"), (["shaggy hair"], [two], "bodyparts"), (["the yard"], [], "notvisual")],
        [(["Men"], [one, two], "people"), (["night"], [], "scene"), (["hair"], [two], "bodyparts/other")],
    ]  # the sentence without a phrase is passed over
    assert pool[0].extras["split"] == "test"
    (tmp_path / "Annotations" / "100.xml").write_text("<annotation><object>")
    with pytest.raises(DataError, match="is not XML"):
        read(tmp_path)


def test_omnilabel(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg")
    file = tmp_path / "dataset_all_val_v0.1.3.json"
    plain: dict[str, Any] = {
        "info": {},
        "images": [{"id": 5, "file_name": "images/a.jpg"}],
        "descriptions": [
            {"id": 1, "text": "cup", "image_ids": [5], "anno_info": {"type": "object_category"}},
            {"id": 2, "text": "the cup that is not red", "image_ids": [5], "anno_info": {"type": "object_description"}},
            {"id": 3, "text": "a dog", "image_ids": [5], "anno_info": {"type": "object_description"}},
        ],
        "annotations": [
            {"id": 1, "image_id": 5, "bbox": [0, 0, 10, 20], "description_ids": [1, 2]},
            {"id": 2, "image_id": 5, "bbox": [30, 0, 10, 20], "description_ids": [1], "iscrowd": 1},
        ],
    }
    file.write_text(json.dumps(plain))
    assert format_of(file) == "omnilabel"
    pool = dp.read(file)
    one, two = (0.0, 0.0, 10.0, 20.0), (30.0, 0.0, 40.0, 20.0)
    assert words(pool[0]) == [
        [(["cup"], [one, two], "category")],
        [(["the cup that is not red"], [one], "description")],
        [(["a dog"], [], "description")],
    ]
    assert [region.attributes for region in pool[0].regions] == [(), ("crowd",)]
    plain["descriptions"][2]["anno_info"] = {"type": "D"}
    file.write_text(json.dumps(plain))
    with pytest.raises(DataError, match=r"'D' is not a description type"):
        read(file)
    plain["descriptions"][2]["anno_info"] = {"type": "object_description"}
    plain["annotations"][1]["description_ids"] = []
    file.write_text(json.dumps(plain))
    with pytest.raises(DataError, match=r"annotation 1 has the description_ids \[\]"):
        read(file)
    del plain["descriptions"]
    file.write_text(json.dumps(plain))
    with pytest.raises(DataError, match="descriptions"):
        read(file, format="omnilabel")


def test_a_box_that_is_left_out_leaves_its_phrase(tmp_path: Path) -> None:
    picture(tmp_path / "COCO_train2014_000000000001.jpg")
    plain = json.loads(json.dumps(MDETR))
    plain["annotations"][0]["bbox"] = [100, 100, 10, 20]  # outside the image
    (tmp_path / "val.json").write_text(json.dumps(plain))
    pool = read(tmp_path / "val.json")
    assert words(pool[0]) == [
        [(["red cup"], [], "")],
        [(["the cup"], [(0.0, 0.0, 10.0, 20.0), (30.0, 0.0, 40.0, 20.0)], "")],
    ]
    assert any("annotation 0" in str(bad) for bad in pool.quarantine)


LVIS: dict[str, Any] = {
    "images": [
        {"id": 7, "coco_url": "http://images.cocodataset.org/val2017/000000000007.jpg", "width": 60, "height": 40,
         "neg_category_ids": [2], "not_exhaustive_category_ids": [3]},
        {"id": 8, "coco_url": "http://images.cocodataset.org/train2017/000000000008.jpg", "width": 60, "height": 40,
         "neg_category_ids": [], "not_exhaustive_category_ids": []},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 10, 20], "area": 200.0, "segmentation": [[0, 0, 10, 0, 10, 20]]},
        {"id": 2, "image_id": 7, "category_id": 3, "bbox": [30, 0, 10, 20], "area": 200.0, "segmentation": []},
        {"id": 3, "image_id": 8, "category_id": 2, "bbox": [30, 0, 10, 20], "area": 200.0, "segmentation": []},
    ],
    "categories": [
        {"id": 1, "name": "aerosol_can", "synonyms": ["aerosol_can", "spray_can"], "synset": "aerosol.n.02",
         "def": "a dispenser that holds a substance under pressure", "frequency": "c", "image_count": 64, "instance_count": 109},
        {"id": 2, "name": "bow_(weapon)", "synonyms": ["bow_(weapon)"], "synset": "bow.n.04", "def": "a weapon for shooting arrows",
         "frequency": "r", "image_count": 6, "instance_count": 8},
        {"id": 3, "name": "bow_(decorative_ribbons)", "synonyms": ["bow_(decorative_ribbons)"], "synset": "bow.n.08",
         "def": "a decorative interlacing of ribbons", "frequency": "f", "image_count": 1, "instance_count": 1},
    ],
}  # fmt: skip


def test_lvis_says_what_was_looked_for(tmp_path: Path) -> None:
    picture(tmp_path / "val2017" / "000000000007.jpg")
    picture(tmp_path / "000000000008.jpg")
    file = tmp_path / "lvis_v1_val.json"
    file.write_text(json.dumps(LVIS))
    assert format_of(file) == "lvis"
    one, two = dp.read(file)
    assert [region.label for region in one.regions] == ["aerosol_can", "bow_(decorative_ribbons)"]
    assert one.extras["absent"] == ["bow_(weapon)"]
    assert one.extras["partial"] == ["bow_(decorative_ribbons)"]
    assert one.extras["frequency"] == {"aerosol_can": "c", "bow_(decorative_ribbons)": "f"}
    assert (two.extras["absent"], two.extras["frequency"]) == ([], {"bow_(weapon)": "r"})
    older = json.loads(json.dumps(LVIS))
    older["images"][0]["file_name"] = "000000000007.jpg"  # as before version 1
    file.write_text(json.dumps(older))
    assert len(dp.read(file)) == 2


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("categories", {"frequency": "often"}, "'often' is not a frequency"),
        ("categories", {"name": None}, "name|has no"),
        ("images", {"neg_category_ids": [99]}, "99 is not among the categories"),
        ("images", {"coco_url": None}, "coco_url"),
    ],
)
def test_faults_of_lvis_files_are_named(tmp_path: Path, part: str, change: dict[str, Any], said: str) -> None:
    picture(tmp_path / "val2017" / "000000000007.jpg")
    picture(tmp_path / "000000000008.jpg")
    plain = json.loads(json.dumps(LVIS))
    plain[part][0].update(change)
    if change.get("name", "") is None:
        del plain[part][0]["name"]
    (tmp_path / "lvis_v1_val.json").write_text(json.dumps(plain))
    import re

    try:
        told = [str(bad) for bad in dp.read(tmp_path / "lvis_v1_val.json").quarantine]
    except DataError as error:
        told = [str(error)]
    assert any(re.search(said, line) for line in told), told
