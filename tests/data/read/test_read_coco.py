"""COCO captions and Karpathy's splits."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diptych.core.errors import DataError
from diptych.core.sample import Text
from diptych.data.read import read


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """``annotations/`` beside ``val2017/``, as COCO is unpacked."""
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    for i in range(4):
        file = io.BytesIO()
        Image.new("RGB", (24, 16), (i, 0, 0)).save(file, "JPEG")
        (tmp_path / f"val2017/{i:012d}.jpg").write_bytes(file.getvalue())
    return tmp_path


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_coco_captions(coco: Path) -> None:
    value = {
        "images": [{"id": 10 + i, "file_name": f"{i:012d}.jpg", "width": 1, "height": 1} for i in range(4)],
        "annotations": [{"id": k, "image_id": 10 + k % 3, "caption": f" caption {k}\n"} for k in range(6)]
        + [{"id": 9, "image_id": 77, "caption": "of nothing"}],
    }
    pool = read(write(coco / "annotations/captions_val2017.json", value))
    assert pool.uids == tuple(f"{i:012d}" for i in range(3))
    assert pool[1].texts == (Text("caption 1"), Text("caption 4"))
    assert pool[1].extras == {"coco_id": 11}
    assert pool[1].image is not None
    assert pool[1].image.read().startswith(b"\xff\xd8")
    assert [bad.reason for bad in pool.quarantine] == [
        "captions of image_id 77, which is not among the images",
        "there is no text",
    ]


CAPTIONS = {
    "images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i in range(4)],
    "annotations": [{"image_id": i, "caption": f"caption {i}"} for i in range(4)],
}
KARPATHY = {
    "images": [{"filename": f"{i:012d}.jpg", "split": "val", "sentences": [{"raw": f"caption {i}"}]} for i in range(4)],
}


@pytest.mark.parametrize("value", [CAPTIONS, KARPATHY])
@pytest.mark.parametrize("file", ["annotations/captions_val2017.json", "captions.json"])
def test_the_folder_of_captions_and_pictures_is_read_with_its_captions(coco: Path, file: str, value: Any) -> None:
    write(coco / file, value)
    write(coco / "annotations/instances.json", {"images": [], "annotations": []})
    pool = read(coco)
    assert [sample.texts[0].string for sample in pool] == [f"caption {i}" for i in range(4)]
    assert [(Path(bad.file).name, bad.reason.split(":")[0]) for bad in pool.quarantine] == [("instances.json", "was not read")]


def test_pictures_beside_their_captions_and_beside_broken_ones(coco: Path) -> None:
    flat = coco / "val2017"
    assert [bad.reason for bad in read(flat).quarantine] == []
    broken = write(flat / "captions.json", json.dumps(CAPTIONS)[:-9])
    pool = read(flat)
    assert len(pool) == 4
    assert [(bad.file, bad.reason) for bad in pool.quarantine] == [
        (str(broken), "no image has its name, and no captions can be read from it")
    ]
    write(broken, CAPTIONS)
    pool = read(flat)
    assert ([sample.texts[0].string for sample in pool], pool.quarantine) == ([f"caption {i}" for i in range(4)], [])
    write(flat / "more.json", CAPTIONS)
    with pytest.raises(DataError, match=r"holds 2 files of captions \(captions.json, more.json\)"):
        read(flat)


def test_karpathy_splits(coco: Path) -> None:
    value = {
        "dataset": "coco",
        "images": [
            {
                "filename": f"{i:012d}.jpg",
                "filepath": "val2017",
                "split": split,
                "cocoid": i,
                "sentences": [{"raw": f"s{i}"}, {"raw": "t"}],
            }
            for i, split in enumerate(["train", "restval", "val", "test"])
        ],
    }
    pool = read(write(coco / "dataset_coco.json", value))
    assert pool.column("split") == ["train", "train", "val", "test"]
    assert len(pool.split("train")) == 2
    assert pool[2].texts == (Text("s2"), Text("t"))
    assert pool[2].extras == {"split": "val", "coco_id": 2}


def test_a_list_of_objects_is_a_table(coco: Path) -> None:
    rows = [{"image": f"val2017/{i:012d}.jpg", "caption": [f"a{i}", f"b{i}"]} for i in range(2)]
    assert [[t.string for t in s.texts] for s in read(write(coco / "list.json", rows))] == [["a0", "b0"], ["a1", "b1"]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "is not JSON: .* in line 1"),
        ({"a": 1}, "holds an object with a"),
        ([1], "holds a list"),
        ({"images": [{"id": 1}], "annotations": []}, "image 0: has id and no file_name"),
        ({"images": [], "annotations": [{"caption": "x"}]}, "annotation 0: has caption and no image_id"),
        ({"images": [{"id": 1}]}, "neither 'annotations' nor 'sentences'"),
        ({"images": [{"id": 1, "file_name": "gone.jpg"}], "annotations": []}, r"gone\.jpg was found nowhere near"),
    ],
)
def test_bad_files(coco: Path, value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write(coco / "bad.json", value))
