"""``diptych explain align``: what Python says, in lines, as JSON and as a picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diptych import api
from diptych.cli import main
from diptych.core.image import FileImage
from diptych.data.media.decode import decode
from diptych.pipelines.alignment import align
from diptych.recipes.contrastive.filip import FILIP
from diptych.report.alignment import alignment_picture
from diptych.worlds.small_pairs import small_pairs

TEXT = "a red circle top left"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    rows = small_pairs(8).to_pool()
    recipe = replace(FILIP.tiny(), image_tower="vit_micro", text_tower="text_micro", image_size=48, width=16, pieces=300).prepare(
        rows
    )
    torch.manual_seed(0)
    recipe.deploy(recipe.model().eval()).save(folder / "model")
    Image.fromarray(rows[0].image.pixels_HWC).save(folder / "picture.png")
    return folder


def test_lines_json_and_picture_are_those_of_python(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "new" / "words.png"
    argv = ["explain", "align", str(folder / "model"), str(folder / "picture.png"), TEXT, "--out", str(out)]
    assert main([*argv, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    model, image = api.load(folder / "model"), FileImage(folder / "picture.png")
    found = align(model, image, TEXT)
    assert found.words == (TEXT, "a", "red", "circle", "top", "left")
    assert {key: answer[key] for key in found.to_json()} == found.to_json()
    drawn = alignment_picture(decode(image, exact=True), found.words, found.weight_WHW, found.box)
    assert np.array_equal(np.asarray(Image.open(out)), drawn)
    assert main(argv) == 0
    assert capsys.readouterr().out.splitlines() == [*found.lines(), f"picture: {out}"]


def test_words_are_read_in_their_text(folder: Path) -> None:
    model, image = api.load(folder / "model"), FileImage(folder / "picture.png")
    patch_PD = model.embed_patches([image])[0]
    in_text = dict(model.embed_in_context([TEXT])[0])
    found = align(model, image, TEXT)
    for word, grid_HW in zip(found.words[1:], found.weight_WHW[1:], strict=True):
        np.testing.assert_allclose(grid_HW.reshape(-1), (in_text[word] @ patch_PD.T).mean(0), atol=1e-6)
    whole_LD = model.embed_words([TEXT])[0]
    assert sum(len(x_TD) for x_TD in in_text.values()) == len(whole_LD) - 2, "all tokens but the marks"
    np.testing.assert_allclose(np.concatenate(list(in_text.values())), whole_LD[1:-1], atol=1e-6)


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["aling"], 2, "did you mean 'align'"),
        (["align", "MODEL", "missing.png", TEXT], 2, "missing.png does not exist"),
        (["align", "MODEL", "PICTURE", TEXT, "--out", "words.jpg"], 2, "ends in .png"),
        (["align", "MODEL", "PICTURE", " "], 1, "the text of ' ' has no token"),
    ],
)
def test_refused(folder: Path, argv: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    named = {"MODEL": str(folder / "model"), "PICTURE": str(folder / "picture.png")}
    assert main(["explain", *(named.get(word, word) for word in argv)]) == code
    assert says in capsys.readouterr().err
