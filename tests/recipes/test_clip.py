"""CLIP: the published sizes and start, and a loss that knows which pairs belong together."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from diptych.data.batch import PairBatch
from diptych.models.outputs import Pairs
from diptych.recipes.clip import CLIP


def pairs(n: int = 6, width: int = 8) -> tuple[Pairs, PairBatch]:
    torch.manual_seed(0)
    image, text = (F.normalize(torch.randn(n, width, dtype=torch.float64), dim=-1) for _ in range(2))
    ids = torch.zeros(n, 3, dtype=torch.int64)
    batch = PairBatch(torch.zeros(n, 3, 4, 4), ids, ids == 0, torch.arange(n))
    return Pairs(image, text, torch.tensor([20.0], dtype=torch.float64)), batch


def test_the_paper_builds_with_its_parameter_count() -> None:
    with torch.device("meta"):
        model = CLIP.paper().model()
    assert sum(p.numel() for p in model.parameters()) == 151_277_313
    assert CLIP.paper().batch_size == 32_768
    assert CLIP.paper().same_group == "negative"


def test_the_temperature_starts_and_stays_where_published() -> None:
    recipe = replace(CLIP.tiny(), tokenizer="clip")
    model = recipe.model()
    assert model.log_scale.item() == pytest.approx(math.log(1 / 0.07), abs=1e-6)
    features, batch = pairs()
    with torch.no_grad():
        model.log_scale.fill_(9.0)
    recipe.after_update(model, features, batch, 0.0)
    assert model.log_scale.exp().item() == pytest.approx(100.0, rel=1e-6)


def test_the_loss_is_the_mean_of_two_cross_entropies() -> None:
    features, batch = pairs()
    logits = features.scale * features.image_ND @ features.text_ND.T
    target = torch.arange(6)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    assert CLIP.tiny().losses(features, batch)["contrastive"].item() == pytest.approx(expected.item(), abs=1e-12)


def test_samples_of_one_group_are_no_negatives_unless_asked() -> None:
    features, batch = pairs()
    together = replace(batch, group_B=torch.tensor([0, 0, 1, 2, 3, 4]))
    logits = features.scale * features.image_ND @ features.text_ND.T
    logits[0, 1] = logits[1, 0] = -math.inf
    target = torch.arange(6)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    masked = CLIP.tiny().losses(features, together)["contrastive"]
    published = replace(CLIP.tiny(), same_group="negative").losses(features, together)["contrastive"]
    assert masked.item() == pytest.approx(expected.item(), abs=1e-12)
    assert published.item() == pytest.approx(CLIP.tiny().losses(features, batch)["contrastive"].item(), abs=1e-12)


def test_weight_decay_spares_temperature_and_biases() -> None:
    from diptych.train.optimise import build_optimiser

    model = replace(CLIP.tiny(), tokenizer="clip").model()
    groups = build_optimiser(model, CLIP.paper().optimiser()).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    assert id(model.log_scale) not in decayed
    assert all((p.ndim >= 2) == (id(p) in decayed) for p in model.parameters())
