"""`diptych generate`: pictures and a contact sheet from a saved model; what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.api.pictures import picture_grid
from diptych.cli import main
from diptych.recipes.generation.text_to_image import TextToImage
from diptych.worlds.related.world import related


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    recipe = replace(TextToImage.tiny(), batch_size=4).prepare(related(32))
    path = tmp_path_factory.mktemp("generated") / "model"
    recipe.deploy(recipe.model().eval()).save(path)
    return path


def test_pictures_and_a_sheet_are_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pictures"
    words = [
        "generate",
        str(folder),
        "red circle left of blue cross",
        "green/square",
        "-n",
        "3",
        "--out",
        str(out),
        "--steps",
        "2",
    ]
    assert main([*words, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(shown["pictures"]) == 6
    pictures = [np.asarray(Image.open(path)) for path in shown["pictures"]]
    assert {picture.shape for picture in pictures} == {(32, 32, 3)}
    np.testing.assert_array_equal(np.asarray(Image.open(shown["sheet"])), picture_grid(np.stack(pictures), 3))
    assert (pictures[0] != pictures[1]).any()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "no prompt is given"),
        (["a", "-n", "0"], "--count is 0"),
        (["a", "--reference", "x.png:cat:0,0,1"], r"--reference is 'x.png:cat:0,0,1'"),
        (["a", "--reference", "PICTURE:cat:0.5,0,1.2,1"], r"the box of 'cat' is \[0.5, 0.0, 1.2, 1.0\]"),
    ],
)
def test_bad_words_are_refused(
    words: list[str], error: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    given = [word.replace("PICTURE", str(tmp_path / "p.png")) for word in words]
    assert main(["generate", str(folder), *given]) == 2
    import re

    assert re.search(error, capsys.readouterr().err)
