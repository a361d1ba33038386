"""Self-distillation against a plain sum, the value log K, and a centre that is the same on all processes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.distillation.self_distillation import self_distillation, updated_centre

N, V, K = 4, 3, 7


def made(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(student: Tensor, teacher: Tensor, centre: Tensor, student_tau: float, teacher_tau: float) -> float:
    total = 0.0
    for n in range(N):
        for v in range(V):
            z = (teacher[n, min(v, teacher.shape[1] - 1)] - centre) / teacher_tau
            p = [math.exp(float(x - z.max())) for x in z]
            s = [math.exp(float(x) / student_tau) for x in student[n, v]]
            total -= sum(a / sum(p) * math.log(b / sum(s)) for a, b in zip(p, s, strict=True))
    return total / (N * V)


@pytest.mark.parametrize("views", [1, V])
def test_it_is_the_mean_cross_entropy_of_all_views(views: int, parity: Any) -> None:
    student, teacher, centre = made(N, V, K, seed=1), made(N, views, K, seed=2), made(K, seed=3)
    found = self_distillation(student, teacher, centre, student_tau=0.2, teacher_tau=0.1)
    expected = naive(student, teacher, centre, 0.2, 0.1)
    parity("tips", "self-distillation of all views", "a loop over views and prototypes", [(found, expected)], tolerance=1e-10)


def test_uniform_answers_give_exactly_log_k(parity: Any) -> None:
    found = self_distillation(torch.ones(N, V, K), torch.zeros(N, 1, K), torch.zeros(K))
    parity("tips", "loss of uniform answers", "log K", [(found, math.log(K))], tolerance=1e-6)


def test_the_teacher_has_no_gradient_and_the_student_has_that_of_finite_differences() -> None:
    student, teacher = made(2, 2, 4, seed=1).requires_grad_(), made(2, 1, 4, seed=2).requires_grad_()
    self_distillation(student, teacher, torch.zeros(4, dtype=torch.float64)).backward()
    assert teacher.grad is None
    fixed = teacher.detach()
    assert torch.autograd.gradcheck(lambda s: self_distillation(s, fixed, fixed[0, 0], student_tau=0.5, teacher_tau=0.3), student)


def test_the_centre_moves_towards_the_mean_answer() -> None:
    centre, teacher = made(K, seed=3), made(N, V, K, seed=2)
    found = updated_centre(centre, teacher, momentum=0.9)
    torch.testing.assert_close(found, 0.9 * centre + 0.1 * teacher.reshape(-1, K).mean(0))
    assert torch.equal(updated_centre(centre, teacher, momentum=1.0), centre)


MASK = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=torch.bool)


def test_with_a_mask_each_item_is_the_mean_over_its_own_places() -> None:
    student, teacher, centre = made(N, V, K, seed=1).requires_grad_(), made(N, V, K, seed=2), made(K, seed=3)
    with torch.no_grad():
        one = [[tuple(x[n : n + 1, v : v + 1] for x in (student, teacher)) for v in range(V)] for n in range(N)]
        each = torch.stack([torch.stack([self_distillation(*pair, centre) for pair in row]) for row in one])
    by_item = sum(float(row[kept].mean()) for row, kept in zip(each, MASK, strict=True) if kept.any()) / N
    found = self_distillation(student, teacher, centre, mask_NV=MASK)
    assert found.item() == pytest.approx(by_item, rel=1e-12)
    (grad,) = torch.autograd.grad(found, student)
    assert torch.equal(grad.abs().sum(-1) > 0, MASK)
    by_place = self_distillation(student, teacher, centre, mask_NV=MASK, average="places")
    assert by_place.item() == pytest.approx(float(each[MASK].mean()), rel=1e-12)
    whole = self_distillation(student, teacher, centre)
    for average in ("items", "places"):
        everything = self_distillation(student, teacher, centre, mask_NV=torch.ones_like(MASK), average=average)
        torch.testing.assert_close(everything, whole)
        nothing = self_distillation(student, teacher, centre, mask_NV=torch.zeros_like(MASK), average=average)
        assert nothing.item() == 0
        assert not torch.autograd.grad(nothing, student)[0].any()


def test_numbers_of_dinov2s_masked_loss_and_centre(parity: Any) -> None:
    student, teacher = (torch.arange(24, dtype=torch.float64).reshape(2, 4, 3).apply_(f) for f in (math.sin, math.cos))
    centre, mask = (
        torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64),
        torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0]], dtype=torch.bool),
    )
    found = self_distillation(student, teacher, centre, teacher_tau=0.07, mask_NV=mask)
    assert found.item() == pytest.approx(8.746235792512916, abs=1e-13)
    moved = updated_centre(centre, teacher, mask_NV=mask)
    expected = torch.tensor([0.11234414038812117, -0.15082122322696012, 0.2791865803576492], dtype=torch.float64)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-15)
    parity(
        "tips",
        "masked loss and moved centre",
        "numbers printed by DINOv2's released losses",
        [(found, 8.746235792512916), (moved, expected)],
        tolerance=1e-13,
    )
    assert torch.equal(updated_centre(centre, teacher, mask_NV=torch.zeros_like(mask)), centre)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\[N, V or 1, K\]"):
        self_distillation(made(N, V, K, seed=1), made(N, 2, K, seed=2), made(K, seed=3))
    with pytest.raises(ConfigError, match="temperatures"):
        self_distillation(made(N, V, K, seed=1), made(N, 1, K, seed=2), made(K, seed=3), teacher_tau=0.0)
    with pytest.raises(ShapeError, match=r"mask_NV must be \[4, 3\]"):
        self_distillation(made(N, V, K, seed=1), made(N, 1, K, seed=2), made(K, seed=3), mask_NV=MASK[:2])
    with pytest.raises(ConfigError, match="average"):
        self_distillation(made(N, V, K, seed=1), made(N, 1, K, seed=2), made(K, seed=3), average="rows")  # type: ignore[arg-type]
