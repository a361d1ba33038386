"""Fusion of images and labels against transformers' layer, and what must hold of every gate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from diptych.core.errors import ConfigError, UnknownName
from diptych.models.detection.language_fusion import GATES, BidirectionalFusion, LateFusion


def test_equals_grounding_dinos_layer_with_equal_gates(parity: Any) -> None:
    from transformers import GroundingDinoConfig
    from transformers.models.grounding_dino.modeling_grounding_dino import GroundingDinoFusionLayer

    torch.manual_seed(0)
    config = GroundingDinoConfig(
        d_model=64, encoder_ffn_dim=192, encoder_attention_heads=8, fusion_dropout=0.0, fusion_droppath=0.0
    )
    theirs = GroundingDinoFusionLayer(config)
    ours = BidirectionalFusion(64, 64, width=96, heads=4, gate="scalar", gate_start=0.3, dropout=0.0)
    names = {
        "place_norm": "layer_norm_vision",
        "label_norm": "layer_norm_text",
        "place_score": "attn.vision_proj",
        "label_score": "attn.text_proj",
        "place_value": "attn.values_vision_proj",
        "label_value": "attn.values_text_proj",
        "place_out": "attn.out_vision_proj",
        "label_out": "attn.out_text_proj",
    }
    for name, their_name in names.items():
        ours.get_submodule(name).load_state_dict(theirs.get_submodule(their_name).state_dict())
    nn.init.constant_(theirs.vision_param, 0.3)
    nn.init.constant_(theirs.text_param, 0.3)
    places, labels = torch.randn(2, 9, 64), torch.randn(2, 5, 64)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 6:] = False
    (their_places, _), (their_labels, _) = theirs(places, labels, attention_mask_vision=~mask)
    our_places, our_labels = ours(places, labels, place_mask_BP=mask)
    torch.testing.assert_close(our_places, their_places, atol=2e-6, rtol=0)
    torch.testing.assert_close(our_labels, their_labels, atol=2e-6, rtol=0)
    pairs = [(our_places, their_places), (our_labels, their_labels)]
    parity(
        "rlipv2",
        "fusion of image and labels with scalar gates",
        "GroundingDinoFusionLayer of transformers",
        pairs,
        tolerance=2e-6,
    )


@pytest.mark.parametrize("gate", ["scalar", "scalar_tanh", "vector", "vector_tanh"])
def test_closed_gates_leave_two_layer_norms(gate: str, parity: Any) -> None:
    torch.manual_seed(1)
    fusion = BidirectionalFusion(16, 12, width=16, heads=2, gate=gate, gate_start=0.0)
    places, labels = torch.randn(2, 6, 16), torch.randn(2, 3, 12)
    fused_places, fused_labels = fusion(places, labels, torch.randn(1, 6, 16))
    pairs = [(fused_places, nn.functional.layer_norm(places, (16,)))]
    pairs.append((fused_labels, nn.functional.layer_norm(labels, (12,))))
    parity("rlipv2", "fusion with gates at zero", "two layer norms", pairs, tolerance=0.0)


@pytest.mark.parametrize("gate", GATES)
def test_every_gate_lets_gradients_through(gate: str) -> None:
    torch.manual_seed(2)
    fusion = BidirectionalFusion(16, 32, width=16, heads=2, gate=gate)
    places, labels = fusion(torch.randn(2, 6, 16), torch.randn(2, 3, 32))
    (places.square().sum() + labels.square().sum()).backward()
    silent = [name for name, p in fusion.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not silent
    assert fusion.label_score.weight.grad.abs().sum() > 0


def test_one_number_gates_all_channels_and_a_vector_each() -> None:
    scalar, vector = (BidirectionalFusion(16, 12, width=16, heads=2, gate=kind, gate_start=0.5) for kind in ("scalar", "vector"))
    assert (scalar.place_gate.gate.shape, vector.place_gate.gate.shape, vector.label_gate.gate.shape) == ((1,), (16,), (12,))
    vector.load_state_dict({**scalar.state_dict(), **{k: v for k, v in vector.state_dict().items() if k.endswith("gate.gate")}})
    inputs = torch.randn(1, 4, 16), torch.randn(1, 3, 12)
    scalar.eval(), vector.eval()
    torch.testing.assert_close(scalar(*inputs), vector(*inputs))


def test_padded_places_are_never_read_by_labels() -> None:
    torch.manual_seed(3)
    fusion = BidirectionalFusion(16, 12, width=16, heads=2).eval()
    places, labels, mask = torch.randn(1, 6, 16), torch.randn(1, 3, 12), torch.tensor([[True] * 4 + [False] * 2])
    changed = places.clone()
    changed[:, 4:] = torch.randn(1, 2, 16) * 9
    _, one = fusion(places, labels, place_mask_BP=mask)
    _, two = fusion(changed, labels, place_mask_BP=mask)
    torch.testing.assert_close(one, two)


def test_positions_ask_but_are_not_read() -> None:
    torch.manual_seed(4)
    fusion = BidirectionalFusion(16, 12, width=16, heads=2).double().eval()
    places, labels = torch.randn(1, 1, 16).double(), torch.randn(1, 3, 12).double()
    # One place alone: whatever it asks, labels read all of it. Its own reading depends on the position.
    one, two = (fusion(places, labels, position) for position in (None, torch.randn(1, 1, 16).double()))
    torch.testing.assert_close(one[1], two[1])
    assert (one[0] - two[0]).abs().max() > 1e-4


def test_late_fusion_keeps_each_layer_and_hides_padding() -> None:
    torch.manual_seed(5)
    fusion = LateFusion(16, 2, mlp_width=32, layers=3).eval()
    queries, labels, mask = torch.randn(2, 5, 16), torch.randn(2, 4, 16), torch.arange(5).expand(2, 5) < 3
    query_BSQD, label_BSTD = fusion(queries, labels, mask)
    assert (query_BSQD.shape, label_BSTD.shape) == ((2, 3, 5, 16), (2, 3, 4, 16))
    changed = torch.where(mask[..., None], queries, 5.0)
    other_BSQD, other_BSTD = fusion(changed, labels, mask)
    torch.testing.assert_close(query_BSQD[:, :, :3], other_BSQD[:, :, :3])
    torch.testing.assert_close(label_BSTD, other_BSTD)


def test_unknown_gates_and_widths_are_named() -> None:
    with pytest.raises(UnknownName, match="unknown gate 'scalr'; did you mean 'scalar'"):
        BidirectionalFusion(16, 12, width=16, heads=2, gate="scalr")
    with pytest.raises(ConfigError, match="width 10 cannot be cut into 4 heads"):
        BidirectionalFusion(16, 12, width=10, heads=4)
