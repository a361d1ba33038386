"""Patches that image tokens stand for: against gradients, as a partition, as a picture, on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.cli import main
from diptych.core.errors import ConfigError, ShapeError
from diptych.core.image import ArrayImage
from diptych.pipelines.token_sources import token_sources
from diptych.recipes.bridges.llava import LLaVA
from diptych.recipes.bridges.pllava import PLLaVA
from diptych.recipes.bridges.simvlg import SimVLG
from diptych.report.token_sources import token_source_picture
from diptych.worlds.resolve import resolve

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
SMALL: dict[str, Any] = {"image_weights": "", "image_tower": "vit_micro", "image_size": 64, "small_steps": 2, "steps": 10}


def deployed(recipe: Any, world: str) -> Any:
    torch.manual_seed(0)
    made = recipe.prepare(resolve(f"world:{world}?n=8").split("train"))
    return made.deploy(made.model().eval())


def test_a_pooled_token_stands_for_the_patches_that_move_it() -> None:
    model = deployed(replace(PLLaVA.tiny(), **SMALL), "clips")
    frames = [ArrayImage(np.roll(PICTURE, 7 * n, 1), str(n)) for n in range(9)]
    sources = token_sources(model, frames)
    assert len(sources.frames) == model.frames
    patches = sources.share_KTHW.shape[2:]
    given = torch.randn(1, sources.share_KTHW[0].size, model.bridge.encoder.token_width, requires_grad=True)
    token_KD = model.bridge.connector(given)[0]
    for number in range(len(token_KD)):
        (gradient,) = torch.autograd.grad(token_KD[number].sum(), given, retain_graph=True)
        moves = gradient[0].abs().sum(1).reshape(-1, *patches) > 0
        np.testing.assert_array_equal(moves.numpy(), sources.share_KTHW[number] > 0)
    with pytest.raises(ShapeError, match="2 pictures for owners"):
        token_source_picture([PICTURE] * 2, sources.owners, sources.box)


def test_merged_tokens_share_out_all_patches() -> None:
    model = deployed(replace(SimVLG.tiny(), **SMALL), "scenes")
    sources = token_sources(model, [ArrayImage(PICTURE, "a")])
    assert ((sources.share_KTHW > 0).sum(0) == 1).all()
    assert len(np.unique(sources.owners)) < sources.owners.size
    assert "16 patches" in sources.lines()[0] or "4 x 4 patches" in sources.lines()[0]
    with pytest.raises(ConfigError, match="2 pictures for 'simvlg', which does not read clips"):
        token_sources(model, [ArrayImage(PICTURE, "a")] * 2)


def test_a_model_that_reduces_nothing_is_refused() -> None:
    model = deployed(replace(LLaVA.tiny(), **SMALL), "questions")
    with pytest.raises(ConfigError, match="'llava' reduces no tokens"):
        token_sources(model, [ArrayImage(PICTURE, "a")])


def test_the_picture_has_lines_between_tokens_and_their_mean_colours() -> None:
    owners = np.array([[[0, 0], [0, 1]]])
    red_blue = np.zeros((20, 20, 3), np.uint8)
    red_blue[:, :10, 0], red_blue[:, 10:, 2] = 200, 100
    drawn = token_source_picture([red_blue], owners, (0.0, 0.0, 1.0, 1.0), side=40)
    assert drawn.shape == (40, 86, 3)
    right = drawn[:, 46:]
    np.testing.assert_allclose(right[35, 35], [0, 0, 100], atol=3)
    np.testing.assert_allclose(right[5, 5], [400 / 3, 0, 100 / 3], atol=3)
    assert (right[5, 5] == right[35, 5]).all()
    assert (right[5, 5] == right[5, 35]).all()
    white = (drawn[:, :40] == 255).all(-1)
    assert white[20, 20:].all()
    assert white[20:, 20].all()
    assert white.sum() == 39


def test_the_command_says_and_draws_what_python_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = deployed(replace(SimVLG.tiny(), **SMALL), "scenes")
    model.save(tmp_path / "model")
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    argv = ["explain", "tokens", str(tmp_path / "model"), str(tmp_path / "a.png"), "--out", str(tmp_path / "tokens.png")]
    assert main([*argv, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    sources = token_sources(model, [ArrayImage(PICTURE, "a")])
    assert answer["owner"] == sources.owners.tolist()
    assert np.array_equal(
        np.asarray(Image.open(tmp_path / "tokens.png")), token_source_picture([PICTURE], sources.owners, sources.box)
    )
    assert main([*argv[:-1], "tokens.jpg"]) == 2
    assert "ends in .png" in capsys.readouterr().err
