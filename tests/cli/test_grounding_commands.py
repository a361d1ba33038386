"""Phrases from the command line and from Python, on a detector of made-up weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import diptych as dp
from diptych.cli import main
from diptych.core.errors import ConfigError, DataError
from diptych.data.text.tokenize import Tokenizer
from diptych.models.detection.backbone import detection_backbone
from diptych.models.detection.grounding_detector import GroundingConfig, GroundingDetector
from diptych.models.detection.images import DetectionPreprocess
from diptych.models.detection.phrase_detector import PhraseDetector
from diptych.models.towers.towers import text_tower


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["the red cup left of a plate"] * 2, 300)
    text = text_tower("text_micro", vocab_size=tokenizer.vocab_size, length=40, width=16, layers=1, heads=2)
    shape = GroundingConfig(
        queries=4, width=16, heads=2, mlp_width=16, encoder_layers=1, decoder_layers=1, levels=2, fusion_before=(0,),
        fusion_width=16, language_heads=2, language_mlp=16,
    )  # fmt: skip
    detector = GroundingDetector(detection_backbone("conv_tiny", widths=(8, 16, 16)), text, shape)
    folder = tmp_path_factory.mktemp("model") / "phrases"
    PhraseDetector(detector, tokenizer, 40, DetectionPreprocess(48, longest=64, stride=16), "small", objects=["cup"]).save(folder)
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "street.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)
    return path


def test_phrases_have_boxes_in_json_in_words_and_in_a_picture(
    model: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--phrase", "the red cup, left", "--phrase", "a plate", "--min-score", "0", "--top", "2"]
    assert main(["detect", str(model), str(picture), *asked, "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["images"]
    assert [row["phrase"] for row in answer["phrases"]] == ["the red cup, left", "a plate"]
    assert [len(row["boxes"]) for row in answer["phrases"]] == [2, 2]
    found = dp.ground(model, picture, "a plate", top=2)["a plate"]
    assert answer["phrases"][1]["boxes"][0]["box"] == pytest.approx(found.box_N4[0].tolist(), abs=0.06)
    out, graph = tmp_path / "found.png", tmp_path / "found.json"
    assert main(["detect", str(model), str(picture), *asked, "--out", str(out), "--graph", str(graph)]) == 0
    assert "a plate: " in capsys.readouterr().out
    assert Image.open(out).size[0] > 100
    assert len(json.loads(graph.read_text())["nodes"]) == 2
    assert main(["detect", str(model), str(picture), "--phrase", "a plate", "--min-score", "1", "--top", "2"]) == 0
    assert "a plate: nothing of --min-score 1 or more; boxes below it: 2, the best at 0." in capsys.readouterr().out
    between = float(found.score_N.mean())
    words = ["detect", str(model), str(picture), "--phrase", "a plate", "--min-score", str(between), "--top", "2", "--json"]
    assert main(words) == 0
    (phrase,) = json.loads(capsys.readouterr().out)["images"][0]["phrases"]
    assert (len(phrase["boxes"]), phrase["below"]) == (1, 1)
    assert phrase["best_below"] == pytest.approx(float(found.score_N[1]), rel=1e-3)


def test_a_phrase_is_read_within_its_text(model: Path, picture: Path) -> None:
    text = "the red cup left of a plate"
    alone = dp.ground(model, picture, ["red cup", "plate"])
    within = dp.ground(model, picture, ["red cup", "plate"], text=text)
    assert list(alone) == list(within) == ["red cup", "plate"]
    assert not np.array_equal(alone["plate"].score_N, within["plate"].score_N)


def test_names_are_found_by_the_same_model(model: Path, picture: Path) -> None:
    graph = dp.detect(model, picture, objects=["red cup", "plate"], top=3)
    assert {region.label for region in graph.regions} <= {"red cup", "plate"}
    assert dp.detect(model, picture).regions[0].label == "cup"


def test_faults_are_one_clear_line(model: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["--phrase", "fork", "--text", "a cup on a plate"], "'fork' does not occur in 'a cup on a plate'"),
        (["--phrase", ""], "phrase 0 is empty"),
        (["--phrase", "cup", "--objects", "cup"], "expected one of the two"),
        (["--text", "a cup"], "expected phrases that occur in the text"),
        (["--phrase", "cup", "--text", "a cup by a cup"], "occurs 2 times"),
    ):
        assert main(["detect", str(model), str(picture), *words]) != 0
        assert said in capsys.readouterr().err
    with pytest.raises(DataError, match="no phrase to locate"):
        dp.ground(model, picture, [])
    with pytest.raises(ConfigError, match="does not ground phrases"):
        dp.ground(object(), picture, "cup")


def file_of(folder: Path, kind: str, **change: object) -> Path:
    """An annotation file of one picture with one box, which `change` makes faulty; None takes a field away."""
    folder.mkdir()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "a.png")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 20], "area": 200, "iscrowd": 0}
    image = {"id": 1, "file_name": "a.png", "height": 40, "width": 60}
    if kind == "mdetr":
        box |= {"tokens_positive": [[0, 7]]}
        image |= {"caption": "red cup on the left", "dataset_name": "refcoco", "original_id": 1}
    box = {name: value for name, value in {**box, **change}.items() if value is not None}
    value = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "cup"}]}
    (folder / "val.json").write_text(json.dumps(value))
    return folder / "val.json"


@pytest.mark.parametrize(
    ("kind", "task", "change", "said"),
    [
        ("mdetr", "referring", {"tokens_positive": [[0, 99]]}, "[0, 99] is outside the text of 19 characters"),
        ("mdetr", "phrase_grounding", {"tokens_positive": [[4, 4]]}, "annotation 0"),
        ("mdetr", "referring", {"tokens_positive": []}, "annotation 0: the spans are"),
        ("coco", "open_detection", {"bbox": None}, "has no labelled box"),
        ("coco", "open_detection", {"category_id": 9}, "has no labelled box"),
        ("coco", "omnilabel", {}, "has no description that is looked for"),
    ],
)
def test_faults_of_data_are_one_clear_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, task: str, change: dict[str, object], said: str
) -> None:
    file = file_of(tmp_path / "data", kind, **change)
    assert main(["eval", str(model), task, "--data", str(file)]) != 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1], lines
    assert "Traceback" not in "".join(lines)


def test_a_category_without_a_box_is_named(tmp_path: Path) -> None:
    file, out = file_of(tmp_path / "data", "coco", bbox=None), tmp_path / "built"
    value = json.loads(file.read_text())
    value["annotations"].append({"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 20]})
    file.write_text(json.dumps(value))
    assert main(["data", "build", str(file), str(out)]) == 0
    (bad,) = pq.read_table(out / "quarantine.parquet").to_pylist()
    assert "annotation 0 ('cup') was left out: (nan, nan, nan, nan) is not a box" in bad["reason"]
    assert f"{file}, row 0" in bad.values()
