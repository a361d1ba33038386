"""``diptych run``: pipelines by the registry, roles and pictures as options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diptych import api
from diptych.cli import main
from diptych.core.image import FileImage
from diptych.pipelines.alignment import align
from diptych.pipelines.composed_search import ComposedSearch

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures, a model that learned nothing, and an index of both."""
    folder = tmp_path_factory.mktemp("run")
    for name, colour in COLOURS.items():
        Image.new("RGB", (32, 32), colour).save(folder / f"{name}.png")
    rows = "".join(f"{name},a {name} square,{name}.png\n" for name in COLOURS)
    (folder / "pairs.csv").write_text(f"uid,text,image\n{rows}")
    data = api.read(folder / "pairs.csv")
    recipe = api.recipe("clip").prepare(data)
    torch.manual_seed(0)
    recipe.deploy(recipe.model().eval()).save(folder / "model")
    api.index(str(folder / "model"), str(folder / "pairs.csv"), folder / "index", progress=False).close()
    return folder


def answer(capsys: pytest.CaptureFixture[str], *argv: Any) -> dict[str, Any]:
    assert main(["run", *map(str, argv), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_composed_search(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "composed_search",
        "--index",
        folder / "index",
        "--image",
        folder / "red.png",
        "--text",
        "blue",
        "--weight",
        "1",
        "-k",
        3,
    )
    with api.open_index(folder / "index") as index:
        hits = ComposedSearch(None, index, 1.0)(FileImage(folder / "red.png"), "blue", k=3)
    expected = [(hit.uid, pytest.approx(hit.score, abs=1e-6)) for hit in hits]
    assert [(hit["uid"], hit["score"]) for hit in answer(capsys, *words)["hits"]] == expected
    (folder / "model").rename(folder / "moved")
    try:
        moved = answer(capsys, *words, "--index-model", folder / "moved")
    finally:
        (folder / "moved").rename(folder / "model")
    assert [(hit["uid"], hit["score"]) for hit in moved["hits"]] == expected
    assert main(["run", *map(str, words)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{hits[0].score:6.3f}  {hits[0].uid}  a {hits[0].uid} square"


def test_alignment(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "alignment", "--model", folder / "model", "--image", folder / "red.png", "--text", "red", "--grid", 2)
    direct = align(api.load(folder / "model"), FileImage(folder / "red.png"), "red", grid=2)
    assert found["method"] == "occlusion"
    np.testing.assert_allclose(found["weights"], direct.weight_WHW, atol=1e-5)


def test_help_and_refusals(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 0
    assert "alignment        which parts of a picture" in capsys.readouterr().out
    asked = ["--index", str(folder / "index"), "--text", "red", "--image"]
    for argv, says in [
        (["run", "aligment"], "did you mean 'alignment'"),
        (["run", "composed_search", *asked, "absent.png"], "absent.png does not exist"),
        (["run", "ptp"], "is not a pipeline"),
    ]:
        assert main(argv) == 2
        assert says in capsys.readouterr().err
