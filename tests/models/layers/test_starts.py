"""How weights begin, against the modules whose start is published: open_clip's blocks, and flax's initialisers by their formulas."""

from __future__ import annotations

import math
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.models.layers.initialisation import lecun_normal_
from diptych.models.layers.transformer import Block, Transformer
from diptych.models.towers.attention_pool import AttentionPool
from diptych.models.towers.towers import image_tower, text_tower

WIDTH = 192


NAMES = {
    "attention.qkv.weight": "attn.in_proj_weight",
    "attention.qkv.bias": "attn.in_proj_bias",
    "attention.out.weight": "attn.out_proj.weight",
    "attention.out.bias": "attn.out_proj.bias",
    "mlp_in.weight": "mlp.c_fc.weight",
    "mlp_in.bias": "mlp.c_fc.bias",
    "mlp_out.weight": "mlp.c_proj.weight",
    "mlp_out.bias": "mlp.c_proj.bias",
}
"""Ours -> open_clip's."""


def block(start: Any) -> Block:
    torch.manual_seed(0)
    found = Transformer(WIDTH, 2, 3, start=start).blocks[1]
    assert isinstance(found, Block)
    return found


def spread(x: Tensor) -> float:
    return x.detach().std().item()


def furthest(x: Tensor) -> float:
    return x.detach().abs().max().item()


def alike(one: Tensor, other: Tensor) -> bool:
    """Of one distribution, as far as spread and extremes tell: both are 0, or within a twentieth, and a seventh."""
    ours, theirs = (torch.tensor([spread(x), furthest(x)]) for x in (one, other))
    return bool(((ours - theirs).abs() <= torch.tensor([0.05, 0.15]) * theirs).all())


def test_blocks_of_an_image_tower_begin_as_open_clips() -> None:
    torch.manual_seed(1)
    theirs = open_clip.transformer.ResidualAttentionBlock(WIDTH, 3)
    ours, text = dict(block("torch").named_parameters()), dict(block("clip").named_parameters())
    published = dict(theirs.named_parameters())
    for own, name in NAMES.items():
        slack = own.endswith("bias") and bool(published[name].any())  # few numbers: their spread wavers
        assert slack or alike(ours[own], published[name]), own
    assert furthest(ours["mlp_in.bias"]) == pytest.approx(WIDTH**-0.5, rel=0.03)
    assert furthest(ours["mlp_out.bias"]) == pytest.approx((4 * WIDTH) ** -0.5, rel=0.03)
    assert not alike(text["attention.out.weight"], published["attn.out_proj.weight"])


def test_blocks_begin_as_big_visions_and_timms() -> None:
    ours = dict(block("xavier").named_parameters())
    for name, weight in ours.items():
        if weight.ndim == 2:
            rows = WIDTH if "qkv" in name else len(weight)  # each of the three parts by itself
            bound = math.sqrt(6 / (rows + weight.shape[1]))
            assert furthest(weight) == pytest.approx(bound, rel=0.01), name
            assert spread(weight) == pytest.approx(bound / math.sqrt(3), rel=0.02), name
    assert not ours["attention.qkv.bias"].any()
    assert not ours["attention.out.bias"].any()
    assert spread(ours["mlp_in.bias"]) == pytest.approx(1e-6, rel=0.1)
    narrow = dict(block("narrow").named_parameters())
    assert all(spread(x) == pytest.approx(0.02, rel=0.02) for name, x in narrow.items() if x.ndim == 2)
    with pytest.raises(ConfigError, match="unknown start 'wide'"):
        block("wide")


def test_a_pooling_head_begins_as_big_visions() -> None:
    torch.manual_seed(2)
    pool = AttentionPool(WIDTH, 3, mlp_width=4 * WIDTH)
    square = math.sqrt(6 / (2 * WIDTH))
    for name, weight in (
        ("q", pool.q.weight),
        ("k", pool.kv.weight[:WIDTH]),
        ("v", pool.kv.weight[WIDTH:]),
        ("out", pool.out.weight),
    ):
        assert furthest(weight) == pytest.approx(square, rel=0.01), name
        assert spread(weight) == pytest.approx(square / math.sqrt(3), rel=0.02), name
    for layer in (pool.mlp_in, pool.mlp_out):
        assert furthest(layer.weight) == pytest.approx(math.sqrt(6 / (5 * WIDTH)), rel=0.01)
        assert spread(layer.bias) == pytest.approx(1e-6, rel=0.2)
    assert furthest(pool.query_D) <= math.sqrt(6 / (WIDTH + 1))
    assert not any(layer.bias.any() for layer in (pool.q, pool.kv, pool.out))


def test_blocks_of_a_text_tower_begin_as_open_clips() -> None:
    torch.manual_seed(1)
    theirs = open_clip.transformer.TextTransformer(width=WIDTH, layers=2, heads=3, vocab_size=50).transformer.resblocks[1]
    ours = dict(block("spread").named_parameters())
    for own, name in NAMES.items():
        published = theirs.get_parameter(name)
        if own.startswith("mlp") and own.endswith("bias"):
            assert furthest(ours[own]) == pytest.approx(furthest(published), rel=0.05), own
            assert furthest(published) > 0
        else:
            assert alike(ours[own], published), own
    plain = dict(block("clip").named_parameters())
    assert not any(plain[name].any() for name in plain if name.endswith("bias") and "norm" not in name)


def test_lecun_normal_has_its_variance_and_ends() -> None:
    torch.manual_seed(0)
    weight = lecun_normal_(torch.empty(256, 3, 8, 8))
    assert spread(weight) == pytest.approx((3 * 64) ** -0.5, rel=0.01)
    assert furthest(weight) <= 2 * (3 * 64) ** -0.5 / 0.8796


def test_published_towers_begin_as_their_code_has_it_and_small_ones_as_ever() -> None:
    with torch.device("meta"):
        starts = {
            name: image_tower(name).spec.get("start") for name in ("vit_b32", "vit_b16", "vit_l14", "siglip_b16", "vit_tiny")
        }
        text = text_tower("text_siglip", vocab_size=100, pad_id=0)
        clip = text_tower("text_clip", vocab_size=100, eot_id=99)
    assert starts == {"vit_b32": "torch", "vit_b16": "torch", "vit_l14": "torch", "siglip_b16": "xavier", "vit_tiny": None}
    assert (text.spec["start"], clip.spec["start"]) == ("xavier", "spread")
    torch.manual_seed(0)
    small = text_tower("text_micro", vocab_size=2000, start="xavier", width=256)
    assert spread(small.embed.weight) == pytest.approx(1 / 16, rel=0.02)
    assert spread(small.position_LD) == pytest.approx(1 / 16, rel=0.05)


def test_the_dense_tower_of_tips_begins_as_dinov2s() -> None:
    with torch.device("meta"):
        assert image_tower("dense_b14").spec["start"] == "narrow"
        assert "start" not in image_tower("dense_micro").spec
    torch.manual_seed(0)
    tower = image_tower("dense_micro", start="narrow")
    named = dict(tower.named_parameters())
    assert furthest(named["class_D"]) < 1e-5
    assert furthest(named["mask_D"]) == 0
    assert spread(named["blocks.0.block.mlp_in.weight"]) == pytest.approx(0.02, rel=0.03)
    assert spread(named["position_PD"]) == pytest.approx(0.02, rel=0.05)
