"""The loss of grounding detectors against loops and brute force."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from diptych.core.errors import ShapeError
from diptych.data.graphs.grounded import TokenRegions, TokenTargets
from diptych.objectives.boxes.token_set import TokenSetLoss, token_cost

B, S, Q, L, G = 2, 2, 4, 6, 3


def _case(seed: int = 0) -> tuple[TokenRegions, TokenTargets]:
    rng = torch.Generator().manual_seed(seed)

    def rand(*size: int) -> Tensor:
        return torch.rand(*size, generator=rng, dtype=torch.float64)

    box_BSQ4 = torch.cat((rand(B, S, Q, 2) * 0.6 + 0.2, rand(B, S, Q, 2) * 0.3 + 0.1), -1)
    box_BG4 = torch.cat((rand(B, G, 2) * 0.6 + 0.2, rand(B, G, 2) * 0.3 + 0.1), -1)
    mask_BL = torch.ones(B, L, dtype=torch.bool)
    mask_BL[1, 4:] = False
    positive_BGL = (rand(B, G, L) < 0.4) & mask_BL[:, None]
    positive_BGL[:, :, 0] = True
    valid_BG = torch.tensor([[True, True, True], [True, False, False]])
    predictions = TokenRegions(box_BSQ4.requires_grad_(), (rand(B, S, Q, L) * 8 - 4).requires_grad_(), mask_BL)
    return predictions, TokenTargets(box_BG4, positive_BGL, valid_BG)


def _focal(logit: float, yes: bool) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -0.25 * (1 - p) ** 2 * math.log(p) if yes else -0.75 * p**2 * math.log(1 - p)


def _giou(one: list[float], two: list[float]) -> float:
    a, b = (([c[0] - c[2] / 2, c[1] - c[3] / 2, c[0] + c[2] / 2, c[1] + c[3] / 2]) for c in (one, two))
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = one[2] * one[3] + two[2] * two[3] - shared
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return shared / union - (hull - union) / hull


def _cost(p: TokenRegions, t: TokenTargets, b: int, s: int, q: int, g: int) -> float:
    tokens = t.positive_BGL[b, g].nonzero()[:, 0].tolist()
    logit_L = p.token_logit_BSQL[b, s, q].tolist()
    token = sum(_focal(logit_L[n], True) - _focal(logit_L[n], False) for n in tokens) / max(1, len(tokens))
    found, true = p.box_BSQ4[b, s, q].tolist(), t.box_BG4[b, g].tolist()
    return 2 * token + 5 * sum(abs(x - y) for x, y in zip(found, true, strict=True)) - 2 * _giou(found, true)


def test_matching_and_loss_equal_brute_force_and_loops() -> None:
    predictions, targets = _case()
    losses, parts = TokenSetLoss()(predictions, targets)
    tokens = boxes = giou = right = quality = 0.0
    for b, s in itertools.product(range(B), range(S)):
        valid = targets.valid_BG[b].nonzero()[:, 0].tolist()
        best = min(
            itertools.permutations(range(Q), len(valid)),
            key=lambda order: sum(_cost(predictions, targets, b, s, q, g) for q, g in zip(order, valid, strict=True)),
        )
        own = dict(zip(best, valid, strict=True))
        for q in range(Q):
            logit_L = predictions.token_logit_BSQL[b, s, q].tolist()
            for n in predictions.mask_BL[b].nonzero()[:, 0].tolist():
                tokens += _focal(logit_L[n], q in own and bool(targets.positive_BGL[b, own[q], n]))
            if q in own:
                found, true = predictions.box_BSQ4[b, s, q].tolist(), targets.box_BG4[b, own[q]].tolist()
                boxes += 5 * sum(abs(x - y) for x, y in zip(found, true, strict=True))
                giou += 2 * (1 - _giou(found, true))
                if s == S - 1:
                    quality += _giou(found, true)
                    real = [x for x, is_real in zip(logit_L, predictions.mask_BL[b].tolist(), strict=True) if is_real]
                    right += bool(targets.positive_BGL[b, own[q], real.index(max(real))])
    for name, value in (("tokens", tokens), ("boxes", boxes), ("giou", giou)):
        assert losses[name].item() == pytest.approx(value / 4, rel=1e-9), name
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(
        {"boxes_an_image": 2.0, "token_accuracy": right / 4, "giou_of_matched": quality / 4}
    )


def test_gradients_are_those_of_finite_differences() -> None:
    predictions, targets = _case(1)

    def total(box: Tensor, logit: Tensor) -> Tensor:
        return sum(TokenSetLoss()(TokenRegions(box, logit, predictions.mask_BL), targets)[0].values(), start=box.new_zeros(()))

    assert torch.autograd.gradcheck(total, (predictions.box_BSQ4, predictions.token_logit_BSQL))


def test_padding_of_texts_and_boxes_changes_nothing() -> None:
    predictions, targets = _case()
    with torch.no_grad():
        changed = predictions.token_logit_BSQL.clone()
        changed[1, :, :, 4:] = 40.0
        boxes = targets.box_BG4.clone()
        boxes[1, 1:] = 0.9
        other = TokenSetLoss()(
            TokenRegions(predictions.box_BSQ4, changed, predictions.mask_BL),
            TokenTargets(boxes, targets.positive_BGL, targets.valid_BG),
        )[0]
    for name, value in TokenSetLoss()(predictions, targets)[0].items():
        assert torch.equal(value, other[name]), name


def test_a_text_that_names_nothing_is_all_negatives() -> None:
    predictions, targets = _case()
    none = TokenTargets(targets.box_BG4, targets.positive_BGL, torch.zeros_like(targets.valid_BG))
    losses, parts = TokenSetLoss()(predictions, none)
    wanted = sum(
        _focal(predictions.token_logit_BSQL[b, s, q, n].item(), False)
        for b, s, q in itertools.product(range(B), range(S), range(Q))
        for n in predictions.mask_BL[b].nonzero()[:, 0].tolist()
    )
    assert losses["tokens"].item() == pytest.approx(wanted, rel=1e-9)
    assert losses["boxes"].item() == losses["giou"].item() == parts["token_accuracy"].item() == 0
    empty = TokenTargets(targets.box_BG4[:, :0], targets.positive_BGL[:, :0], targets.valid_BG[:, :0])
    assert TokenSetLoss()(predictions, empty)[0]["tokens"].item() == pytest.approx(wanted, rel=1e-9)


def test_a_box_whose_tokens_were_cut_costs_by_its_place_alone() -> None:
    logit_XQL = torch.randn(3, 2, 5)
    assert torch.equal(token_cost(logit_XQL, torch.zeros(3, 4, 5, dtype=torch.bool)), torch.zeros(3, 2, 4))


def test_texts_and_targets_of_different_lengths_are_refused() -> None:
    predictions, targets = _case()
    short = TokenTargets(targets.box_BG4, targets.positive_BGL[..., :5], targets.valid_BG)
    with pytest.raises(ShapeError, match="6 tokens"):
        TokenSetLoss()(predictions, short)
