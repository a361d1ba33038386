"""UniPT's parts: the maximum over tokens, a tall transformer, and where patches lie."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from diptych.core.errors import ConfigError
from diptych.models.people.patch_regressor import sine_positions
from diptych.models.towers.max_pool_tower import MaxPoolTower
from diptych.models.towers.towers import image_tower, text_tower
from diptych.models.towers.vit import VisionTransformer
from diptych.recipes.domains.unipt import UniPT
from diptych.train.optimise import build_optimiser


def test_the_maximum_is_over_projected_tokens_and_never_over_padding() -> None:
    torch.manual_seed(0)
    inner = text_tower("text_micro", vocab_size=30, length=6)
    tower = MaxPoolTower(inner, 5)
    ids, mask = torch.randint(30, (2, 6)), torch.tensor([[1, 1, 1, 0, 0, 0], [1] * 6]).bool()
    tokens = inner(ids, mask).tokens_BPD
    wanted = torch.stack([tower.project(tokens[0, :3]).amax(0), tower.project(tokens[1]).amax(0)])
    torch.testing.assert_close(tower(ids, mask).pooled_BD, wanted)
    released = MaxPoolTower(inner, 5, read_padding=True)
    released.project = tower.project
    torch.testing.assert_close(released(ids, mask).pooled_BD, tower.project(tokens).amax(1))
    seen = image_tower("peak_image", inner={"name": "vit_micro", "image_size": 32, "image_height": 64}, out=5)
    assert isinstance(seen, MaxPoolTower)
    said = seen.inner(torch.randn(2, 3, 64, 32))
    assert said.tokens_BPD.shape[1] == 8
    both = torch.cat([said.pooled_BD[:, None], said.tokens_BPD], 1)
    torch.testing.assert_close(seen.pooled(said), seen.project(both).amax(1))


def test_a_tall_transformer_reads_rows_of_its_own_patches() -> None:
    torch.manual_seed(0)
    tower = VisionTransformer(image_size=32, image_height=48, patch=16, width=8, layers=1, heads=2).eval()
    assert tower.grid == (3, 2)
    image = torch.randn(1, 3, 48, 32)
    by_convolution = tower.patches(image).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tower._embedded(image), by_convolution)
    kept = torch.tensor([[0, 3, 4]])
    other = image.clone()
    other[:, :, 16:32, :16] = 9.0  # patch 2 is not read
    torch.testing.assert_close(tower.states(image, kept), tower.states(other, kept))
    torch.testing.assert_close(tower.states(image, torch.arange(6)[None]), tower.states(image))
    with pytest.raises(ConfigError, match="images of 40 pixels"):
        VisionTransformer(image_size=32, image_height=40, patch=16)


def test_places_are_those_of_the_patches() -> None:
    rows = sine_positions((4, 2), 8)
    torch.testing.assert_close(rows[0::2, 4:], sine_positions((4, 1), 8)[:, 4:])  # rows go down the first column
    torch.testing.assert_close(rows[:2, :4], sine_positions((1, 2), 8)[:, :4])
    assert not torch.allclose(rows, sine_positions((4, 2), 8, "released")), "the released table numbers down the columns"


def test_the_first_step_is_that_of_transformers_adamw() -> None:
    """set_schedule calls `transformers.optimization.AdamW`: its eps is not corrected for the bias, and weights decay after the step."""
    assert (UniPT.tiny().adam, UniPT.paper().adam) == ("torch", "transformers")
    spec = UniPT.paper().optimiser()
    model = nn.Linear(2, 1, bias=False).double()
    before, small = model.weight.detach().clone(), 1e-7
    model.weight.grad = torch.full_like(model.weight, small)
    build_optimiser(model, spec).step()
    root = math.sqrt(1 - 0.98)
    moved = before - spec.lr * root / (1 - 0.9) * (1 - 0.9) * small / (root * small + 1e-8)
    torch.testing.assert_close(model.weight.detach(), moved - spec.lr * 0.01 * moved, rtol=0, atol=1e-15)
