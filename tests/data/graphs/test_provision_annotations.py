"""Annotations of ProVision: files merged by id, masks and depth as arrays, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import DataError
from diptych.curate.operators.provision import DIALOGUES, ProVision
from diptych.data.masks import pixels_of
from diptych.data.read import read


def written(folder: Path, **changes: Any) -> Path:
    """Two files about one picture, as the release splits them."""
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (40, 30), "white").save(folder / "images" / "a.png")
    mask_NHW = np.zeros((2, 30, 40), np.uint8)
    mask_NHW[0, 5:15, 5:15], mask_NHW[1, 10:25, 20:38] = 1, 1
    depth_HW = np.zeros((30, 40), np.uint8)
    depth_HW[mask_NHW[0] > 0], depth_HW[mask_NHW[1] > 0] = 200, 90
    for name, array in (("seg_masks/a.npy", mask_NHW), ("depth_masks/a_depth.npy", depth_HW)):
        (folder / name).parent.mkdir()
        np.save(folder / name, array)
    size = {"width": 40, "height": 30}
    boxes = {"labels": ["dog", "cup"], "bboxes": [[5, 5, 15, 15], [20, 10, 38, 25]], "det_scores": [0.9, 0.4]}
    more = {"attributes": [["brown and small"], []], "relations": [[0, "beside", 1]], "depth_mask_id": "a_depth.npy"}
    for name, told in (("object-annotations", {**boxes, "seg_mask_id": "a.npy", **changes}), ("more-annotations", more)):
        entry = {"data_path": "sample/images/a.png", "annotation": {**size, **told}, "source": None}
        (folder / f"{name}.json").write_text(json.dumps({"a": entry}), encoding="utf-8")
    return folder


def test_files_of_one_id_are_read_as_one(tmp_path: Path) -> None:
    pool = read(written(tmp_path / "in"))
    (sample,) = [pool[row] for row in range(len(pool))]
    assert sample.graph.triplets() == [("dog", "beside", "cup")]
    assert [(region.score, region.attributes) for region in sample.regions] == [(0.9, ("brown and small",)), (0.4, ())]
    assert int(pixels_of(sample.regions[1].mask, 30, 40).sum()) == 15 * 18
    assert sample.media["depth"].decode()[12, 25, 0] == 90
    file = ProVision(programs=("closer_object", "typed_attribute_box"), per_image=0, shown=0)(pool).files[DIALOGUES]
    assert isinstance(file, Path)
    rows = json.loads(file.read_text(encoding="utf-8"))
    assert {row["generator"]: row["conversations"][1]["value"] for row in rows if "closer" in row["generator"]} == {
        "closer_object": "dog"
    }
    assert {row["conversations"][1]["value"] for row in rows} == {"dog", "brown", "small"}
    assert rows[0]["image"] == str((tmp_path / "in" / "images" / "a.png").resolve())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seg_mask_id": "a.pkl"}, "save pickled masks as one"),
        ({"seg_mask_id": "../a.npy"}, "the name of a .npy"),
        ({"seg_mask_id": "b.npy"}, "does not exist"),
        ({"det_scores": [0.5]}, "has 1 for 2 labels"),
        ({"bboxes": [[5, 5, 15, 15], [20, 10, 20, 25]]}, "has no area"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(written(tmp_path / "in", **changes))
    assert "annotations.json" in str(caught.value)
    assert "\n" not in str(caught.value)
