"""Topology preservation and hidden words against naive loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.distillation.topology import clip_distillation, similarity_kl, topology
from diptych.objectives.language.masked_words import masked_distillation, masked_words

N, D = 7, 5


def unit(seed: int, rows: int = N, width: int = D) -> Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def naive(query: Tensor, key: Tensor, ref_query: Tensor, ref_key: Tensor, scale: float, own: bool) -> float:
    total = 0.0
    for i in range(len(query)):
        columns = [j for j in range(len(key)) if own or j != i]
        p = [math.exp(scale * float(ref_query[i] @ ref_key[j])) for j in columns]
        q = [math.exp(scale * float(query[i] @ key[j])) for j in columns]
        total += sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    return total / len(query)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("tile", [1, 3, 512])
def test_it_is_the_mean_kl_of_the_rows(own: bool, tile: int, parity: Any) -> None:
    parts = [unit(seed) for seed in range(4)]
    found = similarity_kl(*parts, scale=9.0, own=own, tile=tile)
    parity("ctp", "divergence between rows of similarities", "a double loop", [(found, naive(*parts, 9.0, own))], tolerance=1e-12)


def test_the_four_terms_are_halved_by_kind(parity: Any) -> None:
    image, text, ref_image, ref_text = (unit(seed) for seed in range(4))
    expected = (naive(image, text, ref_image, ref_text, 14.0, True) + naive(text, image, ref_text, ref_image, 14.0, True)) / 2
    expected += (naive(image, image, ref_image, ref_image, 14.0, False) + naive(text, text, ref_text, ref_text, 14.0, False)) / 2
    found = topology(image, text, ref_image, ref_text, scale=14.0)
    parity("ctp", "four terms of topology preservation", "a double loop", [(found, expected)], tolerance=1e-12)
    sharper = topology(image, text, 2 * ref_image, ref_text / 2, scale=14.0, reference_scale=30.0)
    across = [
        similarity_kl(*p, scale=14.0, reference_scale=30.0)
        for p in ((image, text, ref_image, ref_text), (text, image, ref_text, ref_image))
    ]
    within = [
        similarity_kl(x, x, r, r, scale=14.0, reference_scale=30.0 * f, own=False)
        for x, r, f in ((image, ref_image, 4), (text, ref_text, 0.25))
    ]
    assert sharper.item() == pytest.approx(float(sum(across) + sum(within)) / 2, abs=1e-12)


def test_it_is_zero_for_the_same_model_also_when_the_space_has_turned() -> None:
    image, text = unit(0), unit(1)
    turn, _ = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    assert topology(image, text, image, text, scale=14.0).item() == 0
    assert topology(image @ turn, text @ turn, image, text, scale=14.0).item() == pytest.approx(0, abs=1e-12)
    assert topology(unit(3), text, image, text, scale=14.0).item() > 0.1


@pytest.mark.parametrize("tile", [2, 512])
def test_clip_distillation_is_open_clips_with_every_gradient(tile: int) -> None:
    from open_clip.loss import DistillClipLoss

    image, text = unit(0).requires_grad_(), unit(1).requires_grad_()
    teacher = unit(2, width=D + 3), unit(3, width=D + 3)
    scale, teacher_scale = torch.tensor([14.0], dtype=torch.float64, requires_grad=True), 60.0
    ours = clip_distillation(image, text, *teacher, scale=scale, teacher_scale=teacher_scale, tile=tile)
    _, theirs = DistillClipLoss()(image, text, scale, *teacher, teacher_scale)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    leaves = image, text, scale
    for got, want in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    one_scale = clip_distillation(image, text, *teacher, scale=scale, teacher_scale=14.0)
    assert abs(one_scale.item() - theirs.item()) > 0.01


def test_a_cross_entropy_is_the_divergence_and_the_entropy_of_the_reference() -> None:
    parts, options = [unit(seed) for seed in range(4)], {"scale": 9.0, "reference_scale": 20.0, "own": False}
    p = (20.0 * parts[2] @ parts[3].T).masked_fill(torch.eye(N, dtype=torch.bool), -1e30).softmax(1)
    entropy = -torch.xlogy(p, p).sum(1).mean()
    found = similarity_kl(*parts, **options, divergence="cross_entropy")
    assert found.item() == pytest.approx((similarity_kl(*parts, **options) + entropy).item(), abs=1e-12)
    with pytest.raises(ConfigError, match="divergence"):
        similarity_kl(*parts, scale=1.0, divergence="js")  # type: ignore[arg-type]


def test_gradients_reach_the_model_alone_and_do_not_depend_on_the_tile() -> None:
    parts = [unit(seed).requires_grad_() for seed in range(4)]
    grads = []
    for tile in (2, 512):
        loss = topology(*parts, scale=14.0, tile=tile)
        grads.append(torch.autograd.grad(loss, parts, allow_unused=True))
    assert grads[0][2] is None
    assert grads[0][3] is None
    for one, other in zip(grads[0][:2], grads[1][:2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


def test_gradients_are_those_of_finite_differences() -> None:
    ref = unit(2, 4), unit(3, 4)
    given = (unit(0, 4).requires_grad_(), unit(1, 4).requires_grad_())
    assert torch.autograd.gradcheck(lambda image, text: topology(image, text, *ref, scale=5.0, tile=3), given)


def test_extreme_scales_stay_finite_and_small_batches_are_refused() -> None:
    image, text = unit(0), unit(1)
    assert torch.isfinite(topology(image, text, unit(2), unit(3), scale=1e4))
    with pytest.raises(ShapeError, match="batch of 1"):
        topology(image[:1], text[:1], image[:1], text[:1], scale=1.0)


# ---------------------------------------------------------------- hidden words

WORD = torch.tensor([[2, -1, 4], [-1, -1, -1], [0, 1, -1]])


def logits(seed: int) -> Tensor:
    return torch.randn(3, 3, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_mean_is_over_the_places_that_are_asked_for() -> None:
    logit = logits(0)
    each = [-math.log(float(logit[n, m].softmax(-1)[WORD[n, m]])) for n, m in ((0, 0), (0, 2), (2, 0), (2, 1))]
    assert masked_words(logit, WORD).item() == pytest.approx(sum(each) / 4, abs=1e-12)
    other = logit.clone()
    other[1] += 5 * logits(1)[1]
    assert torch.equal(masked_words(other, WORD), masked_words(logit, WORD)), "what is not asked for does not count"
    assert masked_words(logit, torch.full((3, 3), -1)).item() == 0
    theirs = F.cross_entropy(logit.flatten(0, 1), WORD.where(WORD >= 0, -100).flatten())
    found = masked_words(logit, WORD.where(WORD >= 0, -100), ignore_index=-100)
    assert found.item() == pytest.approx(theirs.item(), abs=1e-12)
    with pytest.raises(ShapeError, match="the teacher must answer"):
        masked_distillation(logit, logit[..., :4])


def test_distillation_is_cross_entropy_with_the_teachers_shares() -> None:
    logit, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    asked = WORD >= 0
    expected = F.cross_entropy(logit[asked], teacher[asked].softmax(-1))
    found = masked_distillation(logit, teacher, mask_NM=asked)
    softer = masked_distillation(logit, teacher, student_tau=0.5, teacher_tau=3.0)
    wanted = F.cross_entropy(logit.flatten(0, 1) / 0.5, (teacher.flatten(0, 1) / 3.0).softmax(-1))
    assert softer.item() == pytest.approx(wanted.item(), abs=1e-12)
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
    found.backward()
    assert teacher.grad is None
    assert (logit.grad[~asked] == 0).all()
