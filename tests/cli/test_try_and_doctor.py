"""`diptych try` scores texts against a picture; `diptych doctor` says what this installation can do."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit, softmax

from diptych import api
from diptych.api import diagnosis
from diptych.cli import main

ROOT = Path(__file__).parents[2]
SMALL = {"batch_size": 4, "image_tower": "vit_micro", "text_tower": "text_micro", "image_size": 48, "progress": False}
TEXTS = ["a red circle", "a blue square"]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("try") / "run"
    return api.train(request.param, "world:scenes?n=12", out, steps=1, evaluation=False, **SMALL).path


def test_scores_are_cosines_and_probabilities_those_of_the_loss(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (60, 50), (200, 30, 30)).save(tmp_path / "a.png")
    words = ["try", str(run), str(tmp_path / "a.png"), *TEXTS]
    assert main([*words, "--out", str(tmp_path / "heat.png"), "--json"]) == 0
    rows = {row["text"]: row for row in json.loads(capsys.readouterr().out)["texts"]}
    model = api.load(run)
    cosines = (model.embed_images([tmp_path / "a.png"]) @ model.embed_texts(TEXTS).T)[0]
    assert [rows[text]["score"] for text in TEXTS] == pytest.approx(cosines.tolist(), abs=1e-5)
    scale, bias = float(model.model.log_scale.exp()), model.model.bias
    expected = softmax(scale * cosines) if bias is None else expit(scale * cosines + float(bias))
    assert [rows[text]["probability"] for text in TEXTS] == pytest.approx(expected.tolist(), abs=1e-5)
    with Image.open(tmp_path / "heat.png") as picture:
        assert np.asarray(picture).std() > 0


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert main(["try", str(tmp_path / "nothing"), str(tmp_path / "a.png"), "a"]) == 1
    assert main(["try", "hf:x", str(tmp_path / "b.png"), "a"]) != 0
    assert main(["try", "hf:x", str(tmp_path / "a.png")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3
    assert "there is no model" in lines[0]
    assert "no text is given" in lines[2]


def test_every_extra_has_its_commands() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(diagnosis.EXTRAS) == set(declared) - {"dev", "docs", "peers", "all"}


def test_what_is_missing_of_an_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "torch>=2.9",
        'surely-not-installed>=1.0; extra == "onnx"',
        'numpy; extra == "onnx"',
        'diptych[onnx]; extra == "mcp"',
    ]
    monkeypatch.setattr(diagnosis.metadata, "requires", lambda name: lines)
    missing = {each.name: each.missing for each in diagnosis.extras()}
    assert missing["onnx"] == missing["mcp"] == ("surely-not-installed>=1.0",)
    assert missing["serve"] == ()


def test_the_doctor_prints_facts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "training_speed", lambda: {"pairs_per_second": 1234.0, "seconds": 10.0})
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "1,234 pairs a second" in out
    assert "GiB free" in out
    assert main(["doctor", "--no-speed", "--json"]) == 0
    assert "speed" not in json.loads(capsys.readouterr().out)
