"""The grounding detector: padding is never read, text reaches regions through the fusion, phrases score by their tokens."""

from __future__ import annotations

import pytest
import torch

from diptych.core.errors import ConfigError, ShapeError
from diptych.data.graphs.grounded import TokenTargets
from diptych.models.detection.backbone import detection_backbone
from diptych.models.detection.grounding_detector import GroundingConfig, GroundingDetector
from diptych.models.detection.token_head import TokenHead, phrase_scores
from diptych.models.towers.towers import text_tower
from diptych.objectives.boxes.token_set import TokenSetLoss

SMALL = GroundingConfig(
    queries=5,
    width=32,
    heads=2,
    mlp_width=32,
    levels=2,
    encoder_layers=2,
    decoder_layers=2,
    fusion_before=(0, 1),
    fusion_width=32,
    language_heads=2,
    language_mlp=32,
)


def _detector(shape: GroundingConfig = SMALL) -> GroundingDetector:
    torch.manual_seed(0)
    return GroundingDetector(detection_backbone("conv_tiny"), text_tower("text_micro", vocab_size=20, width=32), shape).eval()


def test_padding_of_texts_and_images_is_never_read() -> None:
    detector = _detector().double()
    torch.manual_seed(1)
    image_BCHW = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    pixel_BHW = torch.ones(2, 64, 96, dtype=torch.bool)
    pixel_BHW[1, :, 64:] = False
    image_BCHW[1, :, :, 64:] = 0
    text_BL = torch.randint(1, 20, (2, 7))
    mask_BL = torch.ones(2, 7, dtype=torch.bool)
    mask_BL[1, 4:] = False
    with torch.no_grad():
        both = detector(image_BCHW, text_BL, mask_BL, pixel_BHW=pixel_BHW)
        text_BL[1, 4:] = 7
        other = detector(image_BCHW, text_BL, mask_BL, pixel_BHW=pixel_BHW)
        alone = detector(image_BCHW[1:], text_BL[1:, :4], mask_BL[1:, :4], pixel_BHW=pixel_BHW[1:])
    torch.testing.assert_close(both.token_logit_BSQL[:, :, :, :4], other.token_logit_BSQL[:, :, :, :4], rtol=0, atol=0)
    torch.testing.assert_close(both.box_BSQ4[1:], alone.box_BSQ4, rtol=0, atol=1e-12)
    torch.testing.assert_close(both.token_logit_BSQL[1:, :, :, :4], alone.token_logit_BSQL, rtol=0, atol=1e-10)


def test_the_text_moves_boxes_only_where_it_meets_the_image() -> None:
    image_BCHW = torch.randn(1, 3, 64, 64)
    mask_BL = torch.ones(1, 5, dtype=torch.bool)
    one, two = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[1, 9, 8, 7, 5]])
    fused = _detector()
    with torch.no_grad():
        assert not torch.equal(fused(image_BCHW, one, mask_BL).token_logit_BSQL, fused(image_BCHW, two, mask_BL).token_logit_BSQL)
        # Box heads start at zero, so a trained one is made up.
        for head in fused.decoder.boxes:
            torch.nn.init.normal_(head.last.weight, std=0.1)
        assert not torch.equal(fused(image_BCHW, one, mask_BL).box_BSQ4, fused(image_BCHW, two, mask_BL).box_BSQ4)
        apart = _detector(GroundingConfig(**{**SMALL.__dict__, "fusion_before": ()}))
        for head in apart.decoder.boxes:
            torch.nn.init.normal_(head.last.weight, std=0.1)
        assert torch.equal(apart(image_BCHW, one, mask_BL).box_BSQ4, apart(image_BCHW, two, mask_BL).box_BSQ4)


def test_every_parameter_learns() -> None:
    detector = _detector().train()
    for head in detector.decoder.boxes:
        torch.nn.init.normal_(head.last.weight, std=0.1)
    found = detector(torch.randn(2, 3, 64, 64), torch.randint(1, 20, (2, 6)), torch.ones(2, 6, dtype=torch.bool))
    positive_BGL = torch.zeros(2, 2, 6, dtype=torch.bool)
    positive_BGL[:, :, 1:3] = True
    targets = TokenTargets(torch.rand(2, 2, 4) * 0.5 + 0.2, positive_BGL, torch.ones(2, 2, dtype=torch.bool))
    sum(TokenSetLoss()(found, targets)[0].values(), start=torch.zeros(())).backward()
    silent = [name for name, p in detector.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # A bias of scores that all places share cancels in the softmax, and the last fusion's places meet no more tokens.
    assert [name for name in silent if not name.endswith("score.bias")] == []


def test_scores_of_phrases_are_means_of_probabilities() -> None:
    logit_QL = torch.tensor([[0.0, 40.0, -40.0], [-40.0, -40.0, 40.0]])
    positive_EL = torch.tensor([[True, True, False], [False, False, True], [False, False, False]])
    expected_QE = torch.tensor([[0.75, 0.0, 0.0], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(phrase_scores(logit_QL, positive_EL), expected_QE)
    with pytest.raises(ShapeError, match="3 tokens"):
        phrase_scores(logit_QL, positive_EL[:, :2])


def test_the_head_starts_near_its_prior_and_keeps_logits_in_reach() -> None:
    head = TokenHead(4, 8)
    with torch.no_grad():
        torch.testing.assert_close(head(torch.zeros(1, 2, 4), torch.randn(1, 3, 8)).sigmoid(), torch.full((1, 2, 3), 0.01))
        assert head(torch.full((1, 1, 4), 1e9), torch.randn(1, 50, 8)).abs().max() == 50_000
    with pytest.raises(ShapeError, match="texts of 2"):
        head(torch.zeros(1, 2, 4), torch.zeros(2, 3, 8))


@pytest.mark.parametrize("change", [{"gate": "x"}, {"width": 30}, {"queries": 0}])
def test_impossible_shapes_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"expected|needs"):
        GroundingConfig(**{**SMALL.__dict__, **change})  # type: ignore[arg-type]
