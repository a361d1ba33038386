"""Growing in place: what stays the same to 1e-5, what is copied or fresh, and what the optimiser and the saved model know of it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.saved_model import open_model
from diptych.models.layers.transformer import Transformer
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.pairs.encoders.growing_encoder import GrowingEncoder
from diptych.models.towers.growth import GrowthInit, TowerSizes, deepen, widen
from diptych.models.towers.towers import image_tower, text_tower

WIDTH = 16


def model(text: str = "text_micro", **options: Any) -> GrowingEncoder:
    torch.manual_seed(0)
    image = image_tower("vit_micro", image_size=32, width=WIDTH, layers=2, heads=2)
    extra = {"causal": True, "pooling": "eot", "eot_id": 2} if text == "eot" else {}
    words = text_tower("text_micro", vocab_size=300, length=8, width=WIDTH, layers=1, heads=2, **extra)
    made = GrowingEncoder(image, words, width=8, **options)
    with torch.no_grad():  # as if it had been trained
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made


def said(encoder: DualEncoder) -> Tensor:
    chance = torch.Generator().manual_seed(7)
    image_BCHW = torch.randn(5, 3, 32, 32, generator=chance)
    text_BL = torch.randint(3, 300, (5, 8), generator=chance)
    text_BL[:, 5] = 2
    mask_BL = torch.arange(8).expand(5, 8) < 6
    with torch.no_grad():
        pairs = encoder(image_BCHW, text_BL, mask_BL)
    return torch.cat([pairs.image_ND, pairs.text_ND])


NOW = TowerSizes(2, 1, 0, 4, 4)


@pytest.mark.parametrize("text", ["mean", "eot"])
@pytest.mark.parametrize("beta", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(
    "more",
    [
        {"image_layers": 3},
        {"text_layers": 2},
        {"shared_layers": 2},
        {"image_mlp": 2},
        {"image_layers": 1, "shared_layers": 1, "text_mlp": 1},
    ],
)
def test_identity_growth_leaves_the_outputs_as_they_were(text: str, beta: float, more: dict[str, int], parity: Any) -> None:
    encoder = model(text)
    before, size = said(encoder), sum(p.numel() for p in encoder.parameters())
    encoder.grow_(NOW.plus(**more), GrowthInit(beta))
    assert encoder.shape == NOW.plus(**more)
    assert sum(p.numel() for p in encoder.parameters()) > size
    parity("growclip", "outputs right after growth by identity", "the model before", [(said(encoder), before)], tolerance=1e-5)


def test_without_identity_a_copied_block_changes_the_function() -> None:
    encoder = model()
    before = said(encoder)
    encoder.grow_(NOW.plus(image_layers=2), GrowthInit(1.0, identity=False))
    assert (said(encoder) - before).abs().max() > 1e-2


def test_beta_one_is_a_copy_and_beta_zero_is_scratch(parity: Any) -> None:
    pairs = []
    for beta in (0.0, 0.5, 1.0):
        stack = model().image_tower.transformer.blocks
        old = [dict(block.named_parameters()) for block in stack]
        torch.manual_seed(3)
        deepen(stack, 4, GrowthInit(beta, identity=False))
        torch.manual_seed(3)
        fresh = [dict(Transformer(WIDTH, 4, 2).blocks[0].named_parameters()) for _ in range(2)]
        assert [stack[n].mlp_in.weight is old[n // 2]["mlp_in.weight"] for n in range(4)] == [True, False, True, False]
        for place, number in ((1, 0), (3, 1)):
            for name, parameter in stack[place].named_parameters():
                torch.testing.assert_close(
                    parameter, beta * old[number][name] + (1 - beta) * fresh[number][name], msg=f"{beta} {name}"
                )
                pairs.append((parameter, beta * old[number][name] + (1 - beta) * fresh[number][name]))
    parity("growclip", "inherited weights at beta 0, 0.5 and 1", "scratch, half and copy by the formula", pairs, tolerance=1e-6)


@pytest.mark.parametrize(("had", "layers"), [(1, 4), (2, 3), (3, 5), (4, 4)])
def test_each_new_block_stands_behind_the_one_that_it_copies(had: int, layers: int) -> None:
    stack = Transformer(WIDTH, had, 2).blocks
    for number, block in enumerate(stack):
        nn.init.constant_(block.norm_1.weight, float(number))
    kept = list(stack)
    deepen(stack, layers, GrowthInit(1.0))
    numbers = [block.norm_1.weight[0].item() for block in stack]
    assert numbers == sorted(numbers)
    assert [block for block in stack if any(block is old for old in kept)] == kept, "the old ones are all there, in order"
    assert max(numbers.count(float(n)) for n in range(had)) - min(numbers.count(float(n)) for n in range(had)) <= 1


def test_gradients_reach_what_is_new() -> None:
    encoder = model()
    encoder.grow_(NOW.plus(image_layers=1, shared_layers=1, image_mlp=1), GrowthInit(0.5))
    optimiser = torch.optim.SGD(encoder.parameters(), lr=0.5)
    for _ in range(2):  # the inner layers of a branch get theirs once its output layer is no longer zero
        optimiser.zero_grad()
        image_BCHW, text_BL = torch.randn(4, 3, 32, 32), torch.randint(3, 300, (4, 8))
        pairs = encoder(image_BCHW, text_BL, torch.ones(4, 8, dtype=torch.bool))
        (pairs.image_ND @ pairs.text_ND.T * pairs.scale).log_softmax(1).diagonal().sum().neg().backward()
        optimiser.step()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_a_wider_mlp_keeps_its_units_and_says_what_they_were() -> None:
    stack = model().image_tower.transformer.blocks
    old = deepcopy(stack)
    first = stack[0].mlp_in.weight
    torch.manual_seed(1)
    grown = widen(stack, 6 * WIDTH, GrowthInit(1.0))
    assert len(grown) == 2 * 4
    assert grown[stack[0].mlp_in.weight] is first
    for new, was in zip(stack, old, strict=True):
        torch.testing.assert_close(new.mlp_in.weight[: 4 * WIDTH], was.mlp_in.weight)
        torch.testing.assert_close(new.mlp_in.weight[4 * WIDTH :], was.mlp_in.weight[: 2 * WIDTH])
        assert (new.mlp_out.weight[:, 4 * WIDTH :] == 0).all()


def test_new_units_have_that_share_of_the_weights_and_biases_which_they_copy() -> None:
    stack = model().image_tower.transformer.blocks
    with torch.no_grad():
        for block in stack:
            block.mlp_in.bias.normal_()
    old = deepcopy(stack)
    widen(stack, 6 * WIDTH, GrowthInit(0.25))
    for new, was in zip(stack, old, strict=True):
        torch.testing.assert_close(new.mlp_in.bias[: 4 * WIDTH], was.mlp_in.bias)
        torch.testing.assert_close(new.mlp_in.bias[4 * WIDTH :], 0.25 * was.mlp_in.bias[: 2 * WIDTH])
        fresh = (new.mlp_in.weight[4 * WIDTH :] - 0.25 * was.mlp_in.weight[: 2 * WIDTH]) / 0.75
        assert abs(float(fresh.std() * (2 * WIDTH) ** 0.5) - 1) < 0.1


def test_a_shared_block_is_one_block_for_both() -> None:
    encoder = model(shared_layers=1)
    before = said(encoder)
    with torch.no_grad():
        encoder.shared[0].mlp_out.bias += torch.randn(WIDTH)
    moved = (said(encoder) - before).abs().amax(1)
    assert (moved > 1e-4).all()


def test_shared_blocks_widen_with_the_image_tower() -> None:
    encoder = model(shared_layers=1)
    before = said(encoder)
    encoder.grow_(TowerSizes(2, 1, 2, 6, 4), GrowthInit(0.5))
    assert [block.mlp_in.out_features for block in encoder.shared] == [6 * WIDTH] * 2
    assert (said(encoder) - before).abs().max() < 1e-5


def test_a_grown_model_is_saved_and_opened(tmp_path: Path) -> None:
    words = Tokenizer.train(["a red circle", "a blue square"], 300)
    for more in ({"image_layers": 1, "text_mlp": 2}, {"shared_layers": 2, "image_mlp": 1, "text_layers": 1}):
        encoder = model()
        encoder.grow_(NOW.plus(**more), GrowthInit(0.5, identity=False))
        PairEmbedder(encoder, Preprocess(32), words, 8, "grown").save(tmp_path / str(len(more)))
        again = open_model(tmp_path / str(len(more)))
        torch.testing.assert_close(said(again.model), said(encoder.eval()))


def test_what_cannot_grow_is_refused() -> None:
    with pytest.raises(ConfigError, match="something would shrink"):
        model().grow_(TowerSizes(1, 1, 0, 4, 4), GrowthInit())
    wide = GrowingEncoder(
        image_tower("vit_micro", image_size=32), text_tower("text_micro", vocab_size=9, width=32, layers=1, heads=2), width=8
    )
    with pytest.raises(ConfigError, match="towers of width 64 and 32"):
        wide.grow_(wide.shape.plus(shared_layers=1), GrowthInit())
    other = GrowingEncoder(image_tower("convnet_tiny", image_size=32), text_tower("text_micro", vocab_size=9), width=8)
    with pytest.raises(ConfigError, match="ConvNet cannot grow"):
        other.shape  # noqa: B018
    with pytest.raises(ConfigError, match=r"beta is 1\.5"):
        GrowthInit(1.5)
