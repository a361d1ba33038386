"""FIBER's second stage: maps and tokens that have met, weights of the first stage, a folder, and pictures of any size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych import api
from diptych.core.contracts import Grounder
from diptych.core.errors import ConfigError
from diptych.core.grounding import PhraseQuery
from diptych.data.load.stream import batches
from diptych.models.detection.grounding_detector import GroundingConfig
from diptych.models.fiber.fiber import Fiber
from diptych.models.fiber.grounding import FiberConfig, FiberDetector, FiberPhraseDetector, from_first_stage
from diptych.models.fiber.image_encoder import FiberImageEncoder
from diptych.models.fiber.text_encoder import FiberTextEncoder
from diptych.recipes.grounding.desco import DesCo
from diptych.worlds.scenes.world import scenes

SIZES = FiberConfig(
    swin_width=8, swin_depths=(1, 2, 1), swin_heads=(1, 2, 2), swin_window=4, swin_strides=(8, 16), fused_layers=2, text_width=32,
    text_layers=3, text_heads=2, text_places=64, text_dropout=0.0,
)  # fmt: skip
SHAPE = GroundingConfig(
    queries=5, width=32, heads=2, mlp_width=32, encoder_layers=1, decoder_layers=2, levels=2, fusion_before=(), text_scale=4.0
)


def detector() -> FiberDetector:
    torch.manual_seed(0)
    made = FiberDetector(*SIZES.sides(image_size=64, drop_path=0.0, vocab_size=20), SHAPE, SIZES.swin_strides).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("alpha_1"):
                parameter.fill_(0.7)
    return made


@torch.no_grad()
def test_maps_and_tokens_are_those_of_the_first_stage(parity: Any) -> None:
    """The same weights in a `Fiber`: the last map, which the first stage leaves unnormed, and the tokens, behind their last norm."""
    made = detector()
    image = FiberImageEncoder(**{**made.backbone.image.spec, "any_size": False})
    side: Any = made.text
    text = FiberTextEncoder(**side.spec)
    first = Fiber(image, text, width=32).eval()
    image.load_state_dict(made.backbone.image.state_dict(), strict=False)
    text.load_state_dict(made.text.state_dict())
    image_BCHW, ids = torch.randn(2, 3, 64, 64), torch.randint(0, 20, (2, 6))
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    maps, tokens = made.backbone.met(image_BCHW, side, ids, mask)
    map_BHWC, states = first.states(first.image_features(image_BCHW), first.text_features(ids, mask), mask)
    last = text.blocks[-1].norm_2(states)
    parity("fiber", "maps and tokens of the second stage", "the first stage with the same weights", [
        (maps[-1], made.backbone.norms[-1](map_BHWC).permute(0, 3, 1, 2)), (tokens[mask], last[mask])
    ], tolerance=1e-5)  # fmt: skip
    assert [list(each.shape) for each in maps] == [[2, 16, 8, 8], [2, 32, 4, 4]]
    other = ids.clone()
    other[:, 1] = (other[:, 1] + 1) % 20
    assert not torch.allclose(made.backbone.met(image_BCHW, side, other, mask)[0][1], maps[1]), "the map has read the text"


@torch.no_grad()
def test_weights_of_the_first_stage_start_the_second() -> None:
    made = detector()
    side: Any = made.text
    first = Fiber(
        FiberImageEncoder(**{**made.backbone.image.spec, "any_size": False, "image_size": 32}),
        FiberTextEncoder(**side.spec),
        width=32,
    )
    table = first.image_tower.net.layers[2].blocks[0].attn.relative_position_bias_table
    assert len(table) == 9, "windows of two places in the last stage of 32 pixels"
    tensors = from_first_stage(first.state_dict(), 4)
    own = made.state_dict()
    fresh = {name for name in own if name not in tensors}
    assert all(tensors[name].shape == own[name].shape for name in tensors)
    assert not any(name.startswith(("backbone.image.", "text.")) for name in fresh)
    recipe = replace(DesCo.tiny(), backbone="fiber", shape=SHAPE, fiber=SIZES)
    assert set(recipe.fitted(first.state_dict())) == set(tensors)
    assert recipe.fitted(own) is own


def test_it_learns_and_is_found_again(tmp_path: Path) -> None:
    rows = scenes(8, seed=0)
    recipe = replace(DesCo.tiny(), backbone="fiber", shape=SHAPE, fiber=SIZES, batch_size=4).prepare(rows)
    model = recipe.model()
    (step,) = batches(rows, recipe, seed=0, stop=1)
    torch.stack(list(recipe.losses(recipe.features(model, step.batch), step.batch).values())).sum().backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    deployed = recipe.deploy(model.eval())
    assert isinstance(deployed, FiberPhraseDetector)
    assert isinstance(deployed, Grounder)
    deployed.save(tmp_path / "model")
    again = api.load(tmp_path / "model")
    image, query = rows[0].image, PhraseQuery.of(["a red circle", "a star"])
    for before, after in zip(deployed.ground([image], [query], top=3)[0], again.ground([image], [query], top=3)[0], strict=True):
        np.testing.assert_allclose(before.box_N4, after.box_N4, atol=1e-4)


@torch.no_grad()
def test_pictures_of_any_size_and_what_is_refused() -> None:
    made = detector()
    found = made(torch.randn(1, 3, 90, 50), torch.ones(1, 4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.bool))
    assert found.box_BSQ4.shape == (1, 2, 5, 4)
    with pytest.raises(ConfigError, match="they have met in the backbone"):
        FiberDetector(*SIZES.sides(image_size=64, drop_path=0.0, vocab_size=20), replace(SHAPE, fusion_before=(0,)))
    with pytest.raises(ConfigError, match=r"maps of strides \[4, 8, 16\]"):
        FiberDetector(*SIZES.sides(image_size=64, drop_path=0.0, vocab_size=20), SHAPE, (8, 64))
