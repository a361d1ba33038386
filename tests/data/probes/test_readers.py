"""Published probes as their files are: every case that is there, and a reason for each that is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import published_probes as published
import pytest
from PIL import Image

from diptych.api import read
from diptych.core.errors import DataError, DecodeError
from diptych.core.image import FileImage
from diptych.data.media.cropped import CroppedImage
from diptych.data.media.decode import decode
from diptych.data.probes import FORMATS, format_of
from diptych.data.probes.case import Case, stored_cases, without_equals
from diptych.data.read import read as read_files


def reasons(pool: Any) -> list[str]:
    return sorted(bad.reason for bad in pool.quarantine)


def test_every_probe_is_recognised_by_its_files(tmp_path: Path) -> None:
    for name in FORMATS:
        folder = getattr(published, name)(tmp_path / name)
        assert format_of(folder) == name
        assert read(folder).notes[-1].startswith(f"read as {name}: ")
    assert format_of(tmp_path) == ""
    other = tmp_path / "other"
    (other / "data" / "Object").mkdir(parents=True)
    (other / "examples.jsonl").write_text('{"image": "a.png", "text": "a cup"}\n', encoding="utf-8")
    assert format_of(other) == "", "names that other data may have, too"


def test_aro_cuts_pictures_to_their_boxes_and_keeps_each_file_apart(tmp_path: Path) -> None:
    pool = read(published.aro(tmp_path / "aro"))
    assert sorted(pool.split_names) == [
        "coco_karpathy_test",
        "flickr30k_test",
        "visual_genome_attribution",
        "visual_genome_relation",
    ]
    cases = [pool[row] for row in range(len(pool)) if "relation" in pool[row].extras]
    assert [case.extras["relation"]["name"] for case in cases] == ["to the left of", "on", "near", "on"]
    assert cases[0].group == "1.jpg"
    whole = np.asarray(Image.open(tmp_path / "aro" / "images" / "1.jpg").convert("RGB").crop((2, 3, 22, 13)))
    assert np.array_equal(decode(cases[0].image), whole)
    assert reasons(pool) == [
        "has no bbox_x",
        "its box is [0, 0, 0, 5], which has no area",
        f"its picture gone.jpg is nowhere below {tmp_path / 'aro'}",
    ]
    facts = next(pool[row].extras["attribution"] for row in range(len(pool)) if "attribution" in pool[row].extras)
    assert facts["objects"] == ["cup", "box"]
    assert facts["false"] == "the blue cup and the red box"


def test_sugarcrepe_has_one_true_caption_and_its_second_form_two(tmp_path: Path) -> None:
    one, two = read(published.sugarcrepe(tmp_path / "one")), read(published.sugarcrepe(tmp_path / "two", second=True))
    assert sorted(case.kind for row in range(len(one)) for case in stored_cases(one[row])) == ["replace_obj", "swap_att"]
    (case,) = stored_cases(two[0])
    assert case.roles == ("true", "true", "false")
    assert case.options[2] == "A blue cup and a red box."
    assert len(one.quarantine) == len(two.quarantine) == 1


def test_winoground_needs_both_pictures(tmp_path: Path) -> None:
    pool = read(published.winoground(tmp_path / "w"))
    assert len(pool) == 2, "the second example lacks a picture, so neither of its pictures is asked"
    assert [stored_cases(pool[row])[0].roles for row in (0, 1)] == [("true", "false"), ("false", "true")]
    assert {pool[row].group for row in (0, 1)} == {"examples-000000"}
    assert len(pool.quarantine) == 1


@pytest.mark.parametrize("made", [published.winoground_parquet, published.winoground_hub])
def test_winoground_as_the_hub_has_it(made: Any, tmp_path: Path) -> None:
    """The same samples as those of the plain folder, pictures included."""
    plain, hub = read(published.winoground(tmp_path / "w")), read(made(tmp_path / "h"))
    assert len(hub) == len(plain) == 2
    for row in range(2):
        assert np.array_equal(decode(hub[row].image, exact=True), decode(plain[row].image, exact=True))
        assert (hub[row].extras, hub[row].texts) == (plain[row].extras, plain[row].texts)
    assert len(hub.quarantine) == 1


def test_vl_checklist_follows_its_corpus(tmp_path: Path) -> None:
    folder = published.vl_checklist(tmp_path / "v")
    pool = read(folder)
    kinds = {case.kind: case for row in range(len(pool)) for case in stored_cases(pool[row])[:1]}
    assert set(kinds) == {"Attribute/color/vg", "Relation/action/swig"}
    assert kinds["Relation/action/swig"].options == ("a man calls", "a man sings")
    assert reasons(pool) == [
        "its POS is [], not a list of captions",
        "its data/Relation/vg/spatial.json does not exist",
        f"its picture vg/VG_100K/2.jpg is nowhere below {folder}",
    ]


def test_pictures_may_lie_elsewhere(tmp_path: Path) -> None:
    folder = published.sugarcrepe(tmp_path / "a" / "s")
    (folder / "val2017").rename(tmp_path / "pictures")
    with pytest.raises(DataError, match=r"no case that can be used; first problem: .*replace_obj.json, row 0"):
        read(folder)
    assert len(read_files(folder, root=tmp_path / "pictures")) == 2


def test_what_is_no_case_is_named(tmp_path: Path) -> None:
    (tmp_path / "examples.jsonl").write_text('{"id": 0}\nno json\n[1]\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"first problem: .*examples.jsonl, row 0: has no image_0"):
        read_files(tmp_path, format="winoground")
    (tmp_path / "examples.jsonl").unlink()
    (tmp_path / "swap_att.json").write_text('"text"', encoding="utf-8")
    with pytest.raises(DataError, match=r"swap_att.json: holds a str \(expected entries by number"):
        read_files(tmp_path)


def test_a_part_without_area_or_picture_is_a_decode_error(tmp_path: Path) -> None:
    published.picture(tmp_path / "p.png", "red", "blue")
    with pytest.raises(DecodeError, match="has no area"):
        decode(CroppedImage(FileImage(tmp_path / "p.png"), (4, 4, 4, 8)))
    with pytest.raises(DecodeError, match="cannot be read"):
        decode(CroppedImage(FileImage(tmp_path / "no.png"), (0, 0, 4, 8)))
    outside = decode(CroppedImage(FileImage(tmp_path / "p.png"), (-2, 0, 2, 4)))
    assert outside[0, :2].sum() == 0
    assert outside[0, 2].tolist() == list(published.COLOURS["red"])


def test_options_equal_to_a_true_one_are_no_options() -> None:
    case = Case("u", "g", "k", ("A cup.", "a  cup", "a dog"), ("true", "false", "false"))
    kept, dropped = without_equals(case)
    assert kept is not None
    assert (kept.options, dropped) == (("A cup.", "a dog"), 1)
    assert without_equals(Case("u", "g", "k", ("a cup", "A CUP!"), ("true", "false"))) == (None, 1)
