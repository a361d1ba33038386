"""Focal losses against torchvision, against each other, finite differences, and a loop."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from diptych.core.errors import ConfigError
from diptych.objectives.boxes.focal import corner_focal, quality_focal, sigmoid_focal


def made(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, hard targets, soft targets."""
    generator = torch.Generator().manual_seed(seed)
    logit = torch.randn(6, 5, generator=generator, dtype=torch.float64) * 3
    soft = torch.rand(6, 5, generator=generator, dtype=torch.float64)
    return logit, (soft > 0.6).double(), soft


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.9, 1.0), (None, 2.0), (0.25, 0.0)])
def test_sigmoid_focal_is_torchvisions(alpha: float | None, gamma: float) -> None:
    logit, hard, _ = made()
    theirs = sigmoid_focal_loss(logit, hard, alpha=-1 if alpha is None else alpha, gamma=gamma)
    torch.testing.assert_close(sigmoid_focal(logit, hard, alpha=alpha, gamma=gamma), theirs, rtol=1e-12, atol=0)


def test_on_hard_targets_quality_focal_is_focal_and_corner_focal_is_it_too(parity: Any) -> None:
    logit, hard, _ = made()
    focal = sigmoid_focal_loss(logit, hard, alpha=-1, gamma=2.0)
    torch.testing.assert_close(quality_focal(logit, hard), focal)
    torch.testing.assert_close(corner_focal(logit, hard), focal)
    pairs = [(loss(logit, hard), focal) for loss in (quality_focal, corner_focal)]
    parity("rlipv2", "quality and corner focal loss on hard targets", "sigmoid_focal_loss of torchvision", pairs, tolerance=1e-12)


def test_soft_targets_one_by_one() -> None:
    logit, _, soft = made()
    soft[0, :2] = 1.0
    for x, y, quality, corner in zip(
        logit.flatten(), soft.flatten(), quality_focal(logit, soft).flatten(), corner_focal(logit, soft).flatten(), strict=True
    ):
        p, t = 1 / (1 + math.exp(-x)), float(y)
        assert float(quality) == pytest.approx((t - p) ** 2 * -(t * math.log(p) + (1 - t) * math.log(1 - p)))
        want = -((1 - p) ** 2) * math.log(p) if t == 1 else -((1 - t) ** 4) * p**2 * math.log(1 - p)
        assert float(corner) == pytest.approx(want)


def test_a_soft_target_that_is_met_costs_nothing() -> None:
    _, _, soft = made()
    torch.testing.assert_close(quality_focal(soft.logit(), soft), torch.zeros_like(soft), rtol=0, atol=1e-15)


def test_the_released_clamp_changes_nothing_but_confident_mistakes() -> None:
    logit, _, soft = made()
    torch.testing.assert_close(quality_focal(logit, soft, clamp=1e-6), quality_focal(logit, soft))
    wrong = torch.tensor([40.0], requires_grad=True)
    (clamped,) = torch.autograd.grad(quality_focal(wrong, torch.zeros(1), clamp=1e-6).sum(), wrong)
    (ours,) = torch.autograd.grad(quality_focal(wrong, torch.zeros(1)).sum(), wrong)
    assert clamped == 0
    assert ours == pytest.approx(1)


@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.5])
def test_gradcheck(gamma: float) -> None:
    logit, hard, soft = made()
    logit.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: quality_focal(x, soft, gamma=gamma), logit)
    assert torch.autograd.gradcheck(lambda x: corner_focal(x, soft, gamma=gamma), logit)
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal(x, hard, gamma=gamma), logit)


@pytest.mark.parametrize("size", [200.0, -200.0])
def test_extreme_logits_stay_finite(size: float) -> None:
    logit = torch.full((3,), size, requires_grad=True)
    for target in (torch.zeros(3), torch.ones(3), torch.full((3,), 0.5)):
        for loss in (quality_focal, corner_focal, sigmoid_focal):
            (gradient,) = torch.autograd.grad(loss(logit, target).sum(), logit)
            assert torch.isfinite(gradient).all()


def test_wrong_options_are_named() -> None:
    with pytest.raises(ConfigError, match=r"alpha must be in \[0, 1\]"):
        sigmoid_focal(torch.zeros(1), torch.zeros(1), alpha=-1)
    with pytest.raises(ConfigError, match="gamma must be 0 or more, got -1"):
        quality_focal(torch.zeros(1), torch.zeros(1), gamma=-1)
