"""Self-distillation against a plain sum, the value log K, and a centre that is the same on all processes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.self_distillation import moved_centre, self_distillation

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
def test_it_is_the_mean_cross_entropy_of_all_views(views: int) -> None:
    student, teacher, centre = made(N, V, K, seed=1), made(N, views, K, seed=2), made(K, seed=3)
    found = self_distillation(student, teacher, centre, student_tau=0.2, teacher_tau=0.1)
    assert found.item() == pytest.approx(naive(student, teacher, centre, 0.2, 0.1), abs=1e-10)


def test_uniform_answers_give_exactly_log_k() -> None:
    found = self_distillation(torch.ones(N, V, K), torch.zeros(N, 1, K), torch.zeros(K))
    assert found.item() == pytest.approx(math.log(K), abs=1e-6)


def test_the_teacher_has_no_gradient_and_the_student_has_that_of_finite_differences() -> None:
    student, teacher = made(2, 2, 4, seed=1).requires_grad_(), made(2, 1, 4, seed=2).requires_grad_()
    self_distillation(student, teacher, torch.zeros(4, dtype=torch.float64)).backward()
    assert teacher.grad is None
    fixed = teacher.detach()
    assert torch.autograd.gradcheck(lambda s: self_distillation(s, fixed, fixed[0, 0], student_tau=0.5, teacher_tau=0.3), student)


def test_the_centre_moves_towards_the_mean_answer() -> None:
    centre, teacher = made(K, seed=3), made(N, V, K, seed=2)
    found = moved_centre(centre, teacher, momentum=0.9)
    torch.testing.assert_close(found, 0.9 * centre + 0.1 * teacher.reshape(-1, K).mean(0))
    assert torch.equal(moved_centre(centre, teacher, momentum=1.0), centre)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\[N, V or 1, K\]"):
        self_distillation(made(N, V, K, seed=1), made(N, 2, K, seed=2), made(K, seed=3))
    with pytest.raises(ConfigError, match="temperatures"):
        self_distillation(made(N, V, K, seed=1), made(N, 1, K, seed=2), made(K, seed=3), teacher_tau=0.0)
