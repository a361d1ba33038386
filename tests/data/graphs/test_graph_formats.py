"""Scene-graph files as they are published: each read from made-up data in its exact form, and what comes out of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.core.scene_graph import SceneGraph
from diptych.data.dataset import Pool
from diptych.data.graphs import FORMATS, format_of
from diptych.data.read import read
from diptych.data.shards.build import build, open_built

METHODS = {name: name.replace("-", "_") for name in FORMATS}


def boxes(sample: Sample) -> list[tuple[float, ...]]:
    return [region.box for region in sample.regions]


def labels(sample: Sample) -> list[str]:
    return [region.label for region in sample.regions]


def clean(pool: Pool) -> Pool:
    assert pool.quarantine == []
    return pool


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_recognised_read_and_built(name: str, published: Any, h5: None, tmp_path: Path) -> None:
    folder = getattr(published, METHODS[name])()
    pool = clean(read(folder))
    assert any(note.startswith(f"read as {name}:") for note in pool.notes)
    assert read(folder, format=name).uids == pool.uids
    build(pool, tmp_path / "built")
    again = {sample.uid: sample for sample in open_built(tmp_path / "built")}
    assert set(again) == set(pool.uids)
    for sample in pool:
        assert again[sample.uid].graph == SceneGraph(sample.regions, sample.relations)
        assert again[sample.uid].extras["image_id"] == sample.extras["image_id"]


def test_hico_det(published: Any) -> None:
    pool = read(published.hico_det())
    assert pool.split_names == ["test", "train"]
    sample = pool.split("train")[0]
    assert sample.uid == "HICO_train2015_00000001"
    assert boxes(sample) == [(10, 5, 50, 75), (20, 40, 90, 78), (60, 5, 95, 75)]
    assert sample.graph.triplets() == [("person", "sit on", "bench"), ("person", "hug", "person")]
    assert pool.split("test")[0].regions == ()
    assert pool.column("image_id") == [6, 1]
    assert pool.column("width") == [60, 100]


def test_both_forms_of_hico_det_say_the_same(published: Any, tmp_path: Path) -> None:
    pool = read(published.hico_det())
    for file in published.folder.glob("annotations/*"):
        file.unlink()
    pairs = read(published.hico_det_pairs())[0]
    full = pool.split("train")[0]
    assert pairs.uid == full.uid
    assert pairs.extras["image_id"] == full.extras["image_id"]
    assert set(pairs.regions) == set(full.regions)
    assert pairs.graph.triplets() == full.graph.triplets()


def test_v_coco(published: Any) -> None:
    sample = read(published.v_coco())[0]
    assert boxes(sample)[:2] == [(10, 5, 50, 75), (30, 40, 90, 78)]
    assert labels(sample) == ["person", "tennis racket", "sports ball", "person", "person"]
    said = [(r.subject, r.predicate, r.object) for r in sample.relations]
    # roles are stored role by role, the racket is the instrument; an empty role points back at the person
    assert said == [(3, "stand", 3), (0, "hit instr", 1), (0, "hit obj", 2), (3, "ride instr", 3)]
    assert sample.extras["annotated"] == [True, False, False, True, False]
    assert sample.regions[4].attributes == ("crowd",)
    assert sample.extras["split"] == "train"


def test_v_coco_role_order_is_that_of_the_file(published: Any) -> None:
    folder = published.v_coco()
    file = folder / "data/vcoco/vcoco_train.json"
    actions = json.loads(file.read_text())
    actions[1]["role_name"] = ["agent", "obj", "instr"]
    file.write_text(json.dumps(actions))
    said = [(r.predicate, r.object) for r in read(folder)[0].relations]
    assert ("hit obj", 1) in said
    assert ("hit instr", 2) in said


def test_v_coco_trainval_counts_only_where_its_parts_are_missing(published: Any) -> None:
    folder = published.v_coco()
    file = folder / "data/vcoco/vcoco_train.json"
    both = file.with_name("vcoco_trainval.json")
    both.write_text(file.read_text())
    assert len(clean(read(folder))) == 1
    file.unlink()
    assert read(folder).column("split") == ["train"]


def test_v_coco_in_the_hoia_form(published: Any) -> None:
    sample = read(published.v_coco_hoia())[0]
    assert [(r.subject, r.predicate, r.object) for r in sample.relations] == [
        (0, "hit instr", 1),
        (0, "hit obj", 0),
        (0, "stand", 0),
    ]
    assert sample.extras["annotated"] == [True, False, False]
    assert (sample.extras["split"], sample.extras["image_id"]) == ("test", 7)


def test_visual_genome(published: Any) -> None:
    pool = read(published.visual_genome())
    sample = pool[0]
    assert labels(sample) == ["tree", "dog", "grass"]
    assert boxes(sample) == [(10, 5, 50, 75), (30, 40, 90, 78), (0, 60, 100, 80)]
    assert sample.regions[1].attributes == ("brown", "wet")
    assert sample.graph.triplets() == [("dog", "beside", "tree"), ("dog", "on", "grass")]
    assert pool.uids == ("1", "2")
    assert pool[1].regions == ()


def test_visual_genome_from_any_of_its_files(published: Any) -> None:
    folder = published.visual_genome()
    whole = read(folder)
    for file in ("relationships.json", "objects.json"):
        assert read(folder / file, format="visual-genome").uids == whole.uids
    assert format_of(folder / "relationships.json") == "visual-genome"


def test_rlipv2(published: Any) -> None:
    pool = read(published.rlipv2())
    first, second = pool
    assert first.graph.triplets() == second.graph.triplets() == [("cat", "sitting on", "couch")]
    assert boxes(first) == [(10, 5, 50, 75), (5, 2.5, 25, 32.5)]
    assert (first.relations[0].confidence, second.relations[0].confidence) == (1.0, 0.25)
    assert (second.source, second.extras["split"], second.uid) == ("coco2017", "train", "000000000009")
    assert first.source == ""


def test_coco_with_relations(published: Any) -> None:
    sample = read(published.coco())[0]
    assert sample.graph.triplets() == [("man", "flying", "kite")]
    assert boxes(sample) == [(10, 5, 50, 75), (30, 40, 90, 78)]
    assert sample.regions[1].mask == [[30, 40, 90, 40, 90, 78]]
    assert sample.extras["split"] == "val"


def test_plain_coco_boxes_are_graphs_without_relations(published: Any) -> None:
    file = published.coco() / "val.json"
    value = json.loads(file.read_text())
    del value["rel_categories"], value["rel_annotations"]
    file.write_text(json.dumps(value))
    sample = read(file)[0]
    assert labels(sample) == ["man", "kite"]
    assert sample.relations == ()


def test_psg(published: Any) -> None:
    pool = read(published.psg())
    sample = pool.split("train")[0]
    assert sample.graph.triplets() == [("person", "standing on", "grass")]
    assert boxes(sample) == [(10, 5, 50, 75), (0, 60, 100, 80)]
    assert sample.extras["segment_ids"] == [77, 5001]
    assert sample.extras["panoptic"] == "panoptic_train2017/000000000005.png"
    assert pool.split("test").column("image_id") == [6]


def test_open_images(published: Any) -> None:
    sample = read(published.open_images())[0]
    assert sample.graph.triplets() == [("Man", "plays", "Guitar"), ("Guitar", "inside of", "Man")]
    assert (sample.uid, sample.extras["split"]) == ("00a1", "val")


def test_open_images_csv(published: Any) -> None:
    sample = read(published.open_images_csv())[0]
    assert sample.graph.triplets() == [("Man", "plays", "Guitar"), ("Guitar", "inside of", "Man")]
    expected = [(10, 4, 50, 76), (30, 40, 90, 78), (0, 0, 25, 40)]  # the third is in the boxes file alone
    np.testing.assert_allclose(boxes(sample), expected, atol=1e-6)
    assert [region.attributes for region in sample.regions] == [(), ("Wooden",), ()]
    assert sample.extras["split"] == "val"


def test_vg150(published: Any, h5: None) -> None:
    pool = read(published.vg150())
    assert pool.uids == ("1", "2", "3")  # 1592 is corrupt and is in image_data.json alone
    assert pool.column("split") == ["train", "train", "test"]
    first, second, third = pool
    assert first.graph.triplets() == [("man", "holding", "dog"), ("dog", "near", "man")]
    step = 100 / 1024
    corners = [102, 51, 512, 768]  # what `load_graphs` of VL-Group/PENET and of its ancestors makes of them: 51.5 is cut
    assert boxes(first)[0] == pytest.approx([corner * step for corner in corners])
    assert first.regions[0].attributes == ("tall",)
    assert second.regions == ()
    assert labels(third) == ["boy"]


def test_vg150_with_boxes_512_alone(published: Any, h5: None) -> None:
    file = published.vg150() / "VG-SGG-with-attri.h5"
    from diptych.data.graphs.formats.vg150 import load_h5, save_h5

    arrays = load_h5(file)
    arrays["boxes_512"] = arrays.pop("boxes_1024") / 2
    file.unlink()
    save_h5(file, arrays)
    halves = [corner * 100 / 1024 for corner in (102, 51.5, 512, 768.5)]  # halves stay in an array that can hold them
    assert boxes(read(published.folder)[0])[0] == pytest.approx(halves)


@pytest.mark.parametrize("name", ["image", "captions"])
def test_other_json_stays_what_it_was(name: str, published: Any) -> None:
    """A folder of images with a JSON beside each, and COCO captions, are no scene graphs."""
    published.image("a.jpg")
    if name == "image":
        published.json("a.json", {"caption": "a word"})
        pool = read(published.folder)
    else:
        value = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "a word"}]}
        pool = read(published.json("captions.json", value))
    assert [text.string for text in pool[0].texts] == ["a word"]
    assert not pool.has_regions


def test_hico_dets_image_level_labels_become_a_column(published: Any) -> None:
    """As MATLAB writes them: names in cells; labels are 1, -1, 0 or not-a-number."""
    from scipy.io import savemat

    folder = published.hico_det()
    label_KN = np.full((600, 2), np.nan)
    label_KN[:, 0] = -1
    label_KN[[0, 245], 1] = 1  # board airplane, sit on bench
    label_KN[599, 1] = 0
    names = np.array(["HICO_test2015_00000001.jpg", "HICO_test2015_00000006.jpg"], object).reshape(2, 1)
    assert "labelled_objects" not in read(folder).column_names
    savemat(folder / "anno.mat", {"list_test": names, "anno_test": label_KN})
    pool = read(folder)
    extras = {sample.uid: sample.extras.get("labelled_objects") for sample in (pool[row] for row in range(len(pool)))}
    assert sorted(map(str, extras.values())) == ["None", "['airplane', 'bench']"]
    savemat(folder / "anno.mat", {"list_test": names, "anno_test": label_KN[:599]})
    with pytest.raises(DataError, match=r"field 'anno_test': has shape \(599, 2\)"):
        read(folder)
    (folder / "anno.mat").write_bytes(b"no matrix")
    with pytest.raises(DataError, match="cannot be read as a file of MATLAB"):
        read(folder)
