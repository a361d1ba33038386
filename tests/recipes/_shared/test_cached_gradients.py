"""Cached gradients of every contrastive recipe, dropout in both towers, against one backward pass through all chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.contracts import Recipe
from diptych.data.load.batch import TensorBatch
from diptych.data.load.stream import batches
from diptych.models.pairs.dual_encoder import encoder_of
from diptych.recipes.contrastive.align import ALIGN
from diptych.recipes.contrastive.alip import ALIP
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.dreamlip import DreamLIP
from diptych.recipes.contrastive.mrl import MRL
from diptych.recipes.contrastive.siglip import SigLIP
from diptych.train.gradient_cache import backward
from diptych.worlds.resolve import resolve

SMALL: dict[str, Any] = {"image_size": 32, "text_tower": "bert_tiny", "width": 16, "batch_size": 7, "pieces": 300}
SHARED = ("scale", "bias", "mean_3")
"""Features that all rows have in common; every other one is a row's own."""
CASES: dict[str, Recipe] = {
    "clip": replace(CLIP.tiny(), **SMALL),
    "siglip": replace(SigLIP.tiny(), **SMALL),
    "align": replace(ALIGN.tiny(), **SMALL),
    "alip": replace(ALIP.tiny(), **SMALL),
    "dreamlip": replace(DreamLIP.tiny(), **SMALL),
    "dreamlip as released": replace(DreamLIP.tiny(), lambda_s=0.5, negatives="batch", raw_first=True, **SMALL),
    "mrl": replace(MRL.tiny(), dims=(2, 4, 16), **SMALL),
    "mrl on siglip": replace(MRL.tiny(), base="siglip", dims=(2, 4, 16), **SMALL),
    "mrl on alip": replace(MRL.tiny(), base="alip", dims=(4, 16), **SMALL),
    "mrl on dreamlip": replace(MRL.tiny(), base="dreamlip:texts=2", dims=(4, 16), **SMALL),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Recipe, nn.Module, TensorBatch]:
    """Recipe, model in float64, batch."""
    rows = resolve("world:scenes?n=24").split("train")
    recipe = CASES[request.param].prepare(rows)
    torch.manual_seed(0)
    model = recipe.model().double()
    (step,) = batches(rows, recipe, seed=0, stop=1)
    return recipe, model, replace(step.batch, image_BCHW=step.batch.image_BCHW.double())


def gradients(model: nn.Module, work: Callable[[], object]) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(7)
    work()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def joined(recipe: Recipe, model: nn.Module, batch: TensorBatch, size: int) -> None:
    """The definition: chunks one after the other with a graph, joined field by field, one backward pass."""
    parts = [recipe.features(model, batch.rows(start, min(start + size, len(batch)))) for start in range(0, len(batch), size)]
    own = [f.name for f in fields(parts[0]) if f.name not in SHARED and getattr(parts[0], f.name) is not None]
    whole = replace(parts[0], **{name: torch.cat([getattr(part, name) for part in parts]) for name in own})
    torch.stack(list(recipe.losses(whole, batch).values())).sum().backward()


def assert_exact(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        assert grad.abs().max() > 0, name
        torch.testing.assert_close(found[name], grad, rtol=0, atol=1e-12 * max(1.0, grad.abs().max().item()), msg=name)


def test_exact_with_dropout(case: tuple[Recipe, nn.Module, TensorBatch]) -> None:
    recipe, model, batch = case
    model.train()
    encoder = encoder_of(model)
    hook = encoder.image_projection.register_forward_pre_hook(lambda module, args: F.dropout(args[0], 0.3))
    assert any(isinstance(module, nn.Dropout) and module.p > 0 for module in encoder.text_tower.modules())
    wanted = gradients(model, lambda: joined(recipe, model, batch, 3))
    found = gradients(model, lambda: backward(recipe, model, batch, micro_batch=3))
    other = gradients(model, lambda: joined(recipe, model, batch, 4))
    hook.remove()
    assert_exact(found, wanted)
    assert any(not torch.allclose(other[name], grad) for name, grad in wanted.items()), "other chunks, other masks: dropout is on"


@pytest.mark.parametrize("size", [1, 3])
def test_without_dropout_it_is_the_undivided_batch(case: tuple[Recipe, nn.Module, TensorBatch], size: int) -> None:
    recipe, model, batch = case
    model.eval()
    wanted = gradients(model, lambda: backward(recipe, model, batch))
    assert_exact(gradients(model, lambda: backward(recipe, model, batch, micro_batch=size)), wanted)
