"""Data of re-identification as published: identities are groups, licence and consent travel, wrong entries cost themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diptych.data.read import read
from diptych.data.shards.build import build, open_built


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 16), (90, 20, 30)).save(path)


def entry(number: Any, file: str, split: str | None = "train", **more: Any) -> dict[str, Any]:
    made = {"id": number, "file_path": file, "captions": [f"a man {number}.", "he wears a coat"], "processed_tokens": [["a"]]}
    return {**made, **({"split": split} if split else {}), **more}


def written(folder: Path, entries: Any, name: str = "reid_raw.json", images: str = "imgs") -> Path:
    for value in entries:
        if isinstance(value, dict) and isinstance(value.get("file_path", value.get("img_path")), str):
            picture(folder / images / value.get("file_path", value.get("img_path")))
    path = folder / name
    path.write_text(json.dumps(entries))
    return path


def test_cuhk_pedes_has_identities_as_groups_and_says_how_it_may_be_used(tmp_path: Path) -> None:
    entries = [entry(1, "cam_a/1.png"), entry(1, "cam_b/1.png"), entry(7, "cam_a/7.png", "test")]
    pool = read(written(tmp_path / "CUHK-PEDES", entries))
    assert list(pool.groups) == ["1", "1", "7"]
    assert pool.split("test")[0].extras["identity"] == 7
    sample = pool[0]
    assert [text.string for text in sample.texts] == ["a man 1.", "he wears a coat"]
    assert (sample.licence, sample.extras["consent"], sample.source) == ("research only", "not stated", "CUHK-PEDES")
    assert not pool.quarantine
    build(pool, tmp_path / "built")
    again = open_built(tmp_path / "built")[0]
    assert (again.licence, again.extras["consent"], again.group) == ("research only", "not stated", "1")


def test_the_other_descriptions_differ_in_names(tmp_path: Path) -> None:
    icfg = read(written(tmp_path / "ICFG", [entry(3, "train/0003/a.jpg")], "ICFG_PEDES.json"))
    assert icfg[0].source == "ICFG-PEDES"
    rstp = [{"id": 4, "img_path": "0004_c1.jpg", "captions": ["one", "two"], "split": "val"}]
    pool = read(written(tmp_path / "RSTP", rstp, "data_captions.json"))
    assert (pool[0].source, pool[0].group, [*pool.split_names]) == ("RSTPReid", "4", ["val"])
    attributes = ["man,black hair,black shirt,pink shorts,black shoes,unknown"]
    synth = [entry(9, "Part1/9/0.jpg", None, attributes=attributes, prompt_caption=["A man with black hair."], consent="given")]
    pool = read(written(tmp_path / "SYNTH", synth, "synthpedes_dataset.json", images=""))
    assert pool[0].extras["attributes"] == ["man", "black hair", "black shirt", "pink shorts", "black shoes", "unknown"]
    assert pool[0].texts[-1].string == "A man with black hair."
    assert pool[0].extras["consent"] == "given", "what the file says is kept"


def test_a_file_without_splits_and_one_with_shared_identities_are_told(tmp_path: Path) -> None:
    pool = read(written(tmp_path / "a", [entry(1, "1.png", None), entry(2, "2.png", None)]))
    assert any("no entry names its split" in note for note in pool.notes)
    pool = read(written(tmp_path / "b", [entry(1, "1.png"), entry(1, "2.png", "test")]))
    assert any("1 identities are in several splits, the first is '1'" in note for note in pool.notes)


def test_a_wrong_entry_costs_itself_and_is_named(tmp_path: Path) -> None:
    entries = [entry(1, "1.png"), entry(None, "2.png"), entry(3, "3.png", captions="one text"), entry(4, "4.png")]
    pool = read(written(tmp_path / "c", entries))
    assert list(pool.groups) == ["1", "4"]
    said = [str(bad) for bad in pool.quarantine]
    assert any("row 1" in line and "field 'id' is None" in line for line in said)
    assert any("row 2" in line and "field 'captions' is a str" in line for line in said)


def test_market_names_hold_person_camera_and_role(tmp_path: Path) -> None:
    root = tmp_path / "Market-1501"
    for name in (
        "bounding_box_train/0002_c1s1_000451_03.jpg",
        "bounding_box_test/0003_c6s2_000101_01.jpg",
        "bounding_box_test/0000_c1s1_000151_02.jpg",
        "bounding_box_test/-1_c2s1_000301_01.jpg",
        "query/0003_c2s1_000201_00.jpg",
        "query/nobody.jpg",
    ):
        picture(root / name)
    pool = read(root)
    assert {*pool.split_names} == {"train", "test"}
    of = {sample.uid: sample for sample in pool}
    assert len(of) == 4
    asked, shown = pool.where("role", "query")[0], pool.where("role", "gallery")
    assert "role" not in pool.split("train")[0].extras
    assert asked.group == "0003"
    assert (asked.extras["camera"], asked.extras["identity"]) == (2, 3)
    assert sorted(shown.groups) == ["0003", "distractor-0000_c1s1_000151_02"]
    reasons = " ".join(str(bad) for bad in pool.quarantine)
    assert "junk" in reasons
    assert "not named as in Market-1501" in reasons


@pytest.mark.parametrize("name", ["reid_raw.json"])
def test_nothing_usable_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Exception, match="does not name an image"):
        read(written(tmp_path / "d", [entry(None, "1.png")], name))
