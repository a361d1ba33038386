"""Messages between pairs as a head of the relation detector: a naive loop, what stays as it was, more steps, padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diptych.core.errors import ConfigError
from diptych.models.detection.backbone import detection_backbone
from diptych.models.rlipv2.relation_detector import RelationDetector, RelationDetectorConfig
from diptych.models.rlipv2.relation_refinement import RelationRefinement
from diptych.models.towers.label_encoder import label_encoder


def detector(**changes: Any) -> RelationDetector:
    small: dict[str, Any] = {
        "width": 32,
        "heads": 2,
        "mlp_width": 32,
        "levels": 2,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "pairs": 3,
        "branches": 4,
        "fusion_before": (0, 1),
        "fusion_width": 32,
        "language_heads": 2,
        "language_mlp": 32,
    }
    torch.manual_seed(0)
    return RelationDetector(
        detection_backbone("conv_tiny"), label_encoder("vectors", width=16), RelationDetectorConfig(**{**small, **changes})
    )


def test_steps_against_a_naive_loop() -> None:
    torch.manual_seed(1)
    head = RelationRefinement(4, 3).double()
    torch.nn.init.normal_(head.out.weight)
    pair_BQD = torch.randn(2, 3, 4).double()
    refined_BTQD = head(pair_BQD)
    block = head.block
    for image in range(2):
        start = block.pre(pair_BQD[image])
        h, state = start, torch.zeros_like(start)
        recurrent = torch.zeros_like(start)
        for step in range(3):
            received = [
                sum((block.message(torch.cat((h[i], h[j]))) for i in range(3) if i != j), torch.zeros(4).double())
                for j in range(3)
            ]
            h, state = block.cell(block.post(torch.cat((torch.stack(received), start), 1)), recurrent, state)
            recurrent = h
            torch.testing.assert_close(refined_BTQD[image, step], pair_BQD[image] + head.out(h))
    fewer = RelationRefinement(4, 1).double()
    fewer.load_state_dict(head.state_dict())
    torch.testing.assert_close(fewer(pair_BQD), refined_BTQD[:, :1])


@pytest.mark.parametrize("changes", [{}, {"fusion": "late"}, {"fusion": "none"}, {"layer_texts": False}])
def test_refinement_starts_as_the_last_layer_and_leaves_boxes_alone(changes: dict[str, Any]) -> None:
    plain, refined = detector(**changes).eval(), detector(refine_steps=2, **changes).eval()
    missing = refined.load_state_dict(plain.state_dict(), strict=False)
    assert {name.split(".")[0] for name in missing.missing_keys} == {"refinement"}
    assert not missing.unexpected_keys
    image, label = torch.rand(2, 3, 64, 64), torch.rand(5, 16)
    before, after = plain(image, label, entities=3), refined(image, label, entities=3)
    for name in ("subject_box_BSQ4", "object_box_BSQ4", "subject_logit_BSQC", "object_logit_BSQC", "relation_logit_BSQR"):
        one, other = getattr(before, name), getattr(after, name)
        assert other.shape[1] == one.shape[1] + 2, name
        torch.testing.assert_close(other[:, :-2], one)
        torch.testing.assert_close(other[:, -2:], one[:, -1:].expand(-1, 2, *one.shape[2:]))
    gradients = []
    for model, output in ((plain, before), (refined, after)):
        model.zero_grad()
        (output.subject_box_BSQ4.sum() + output.object_logit_BSQC.square().sum()).backward()
        gradients.append(next(p.grad for p in model.entity_decoder.parameters() if p.grad is not None))
    torch.testing.assert_close(*gradients)


def test_more_steps_after_training() -> None:
    model = detector(refine_steps=2).eval()
    assert model.refinement is not None
    torch.nn.init.normal_(model.refinement.out.weight)
    image, label = torch.rand(1, 3, 64, 64), torch.rand(5, 16)
    few = model(image, label, entities=3).relation_logit_BSQR
    model.refinement.steps = 5
    many = model(image, label, entities=3).relation_logit_BSQR
    assert many.shape[1] == few.shape[1] + 3
    torch.testing.assert_close(many[:, : few.shape[1]], few)
    with pytest.raises(ConfigError, match="refine_steps is -1"):
        detector(refine_steps=-1)


def test_padding_neither_sends_nor_receives() -> None:
    head = RelationRefinement(4, 2)
    torch.nn.init.normal_(head.out.weight)
    pair_BQD = torch.randn(1, 3, 4)
    exists = torch.tensor([[True, True, False]])
    torch.testing.assert_close(head(pair_BQD, exists)[:, :, :2], head(pair_BQD[:, :2]))
