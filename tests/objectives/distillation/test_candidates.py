"""Lists of candidates against loops over their numbers, and against open_clip's distillation where the lists are whole batches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.distillation.candidates import candidate_distillation, weighting_rule

N, K, TAU = 4, 5, 2.0
KEPT = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 0]]).bool()


def made(seed: int, *shape: int) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = made(1, N, K), made(2, N, K)


def shares(values: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def naive(student: Tensor, teacher: Tensor, kept: Tensor, margin: float | None, weigh: Any) -> tuple[float, float]:
    """Loss and share of candidates that were dropped, one number at a time."""
    total, dropped, listed = 0.0, 0, 0
    for z, y, row in zip(student.tolist(), teacher.tolist(), kept.tolist(), strict=True):
        stay = [0]
        for k in range(1, K):
            if not row[k]:
                continue
            listed += 1
            if margin is not None and y[k] > y[0] - margin:
                dropped += 1
            else:
                stay.append(k)
        p, q = shares([y[k] for k in stay])[0], shares([z[k] for k in stay])[0]
        soft_y, soft_z = shares([y[k] / TAU for k in stay]), shares([z[k] / TAU for k in stay])
        follow = TAU**2 * sum(a * math.log(a / b) for a, b in zip(soft_y, soft_z, strict=True))
        w = weigh(p, q)
        total += w * -math.log(q) + (1 - w) * follow
    return total / N, dropped / listed


RULES = {
    "constant": lambda p, q: 0.3,
    "focal": lambda p, q: (1 - q) ** 2.0,
    "gap": lambda p, q: 1 / (1 + math.exp(-5.0 * (q - (1 - p)))),
}


@pytest.mark.parametrize("margin", [None, 0.0, -1.0])
@pytest.mark.parametrize("name", RULES)
def test_loss_equals_the_loops(name: Any, margin: float | None, parity: Any) -> None:
    loss, parts = candidate_distillation(
        STUDENT, TEACHER, weigh=weighting_rule(name, alone=0.3), kept_NK=KEPT, tau=TAU, margin=margin
    )
    expected, dropped = naive(STUDENT, TEACHER, KEPT, margin, RULES[name])
    assert parts["dropped"].item() == pytest.approx(dropped)
    parity(
        "dcd",
        "loss over lists, every rule",
        "a loop over anchors and candidates",
        [(loss, torch.tensor(expected, dtype=torch.float64))],
        tolerance=1e-12,
    )


def test_whole_batches_with_equal_weights_are_the_distillation_of_open_clip(parity: Any) -> None:
    """Value and gradient; ours measures the gap to the teacher's distribution, theirs the cross-entropy with it."""
    open_clip = pytest.importorskip("open_clip.loss")
    student, other = STUDENT[:, :N].clone().requires_grad_(), STUDENT[:, :N].clone().requires_grad_()
    teacher = TEACHER[:, :N]
    order = torch.stack([torch.tensor([i, *(j for j in range(N) if j != i)]) for i in range(N)])
    loss, parts = candidate_distillation(
        student.gather(1, order), teacher.gather(1, order), weigh=weighting_rule("constant", alone=0.5)
    )
    theirs = (F.cross_entropy(other, torch.arange(N)) + open_clip.DistillClipLoss().dist_loss(teacher, other)) / 2
    entropy = -(teacher.softmax(1) * teacher.log_softmax(1)).sum(1).mean()
    pairs = [(loss, theirs - entropy / 2), (torch.autograd.grad(loss, student)[0], torch.autograd.grad(theirs, other)[0])]
    parity("dcd", "k = B - 1 with equal weights, and gradient", "open_clip's DistillClipLoss.dist_loss", pairs, tolerance=1e-12)
    assert parts["share_alone"].item() == 0.5


@pytest.mark.parametrize("name", RULES)
def test_gradient_flows_through_the_scores_and_not_through_the_weights(name: Any) -> None:
    """By finite differences with the weights held where they are."""
    weigh = weighting_rule(name)
    held: list[Tensor] = []

    def keep(p_N: Tensor, q_N: Tensor) -> Tensor:
        held.append(weigh(p_N, q_N))
        return held[0]

    student = STUDENT.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: candidate_distillation(z, TEACHER, weigh=keep, kept_NK=KEPT, tau=TAU, margin=0.5)[0], (student,)
    )
    teacher = TEACHER.clone().requires_grad_()
    loss, _ = candidate_distillation(student, teacher, weigh=weigh)
    assert torch.autograd.grad(loss, teacher, allow_unused=True)[0] is None


def test_a_student_that_scores_as_the_teacher_has_nothing_to_follow_and_order_does_not_matter() -> None:
    _, parts = candidate_distillation(TEACHER + 3.0, TEACHER, weigh=weighting_rule("gap"), tau=TAU)
    assert parts["follow"].item() == pytest.approx(0.0, abs=1e-12)
    loss, _ = candidate_distillation(STUDENT, TEACHER, weigh=weighting_rule("gap"), kept_NK=KEPT)
    moved = torch.tensor([0, 3, 1, 4, 2])
    again, _ = candidate_distillation(STUDENT[:, moved], TEACHER[:, moved], weigh=weighting_rule("gap"), kept_NK=KEPT[:, moved])
    assert again.item() == pytest.approx(loss.item(), abs=1e-12)


def test_lists_without_a_wrong_one_left_are_finite() -> None:
    student = STUDENT.clone().requires_grad_()
    loss, parts = candidate_distillation(student, TEACHER, weigh=weighting_rule("gap"), margin=1e9)
    grad = torch.autograd.grad(loss, student)[0]
    assert (loss.item(), parts["dropped"].item()) == (0.0, 1.0)
    assert not grad.any()
    extreme = candidate_distillation(1e4 * STUDENT, 1e4 * TEACHER, weigh=weighting_rule("focal"))[0]
    assert torch.isfinite(extreme)


def test_refused() -> None:
    with pytest.raises(ShapeError, match=r"same lists \[N, K\], K 2 or more; got \[4, 5\] and \[4, 4\]"):
        candidate_distillation(STUDENT, TEACHER[:, :4], weigh=weighting_rule("gap"))
    with pytest.raises(ShapeError, match="kept_NK must be"):
        candidate_distillation(STUDENT, TEACHER, weigh=weighting_rule("gap"), kept_NK=KEPT[:2])
    with pytest.raises(ConfigError, match="temperature of the distillation is 0"):
        candidate_distillation(STUDENT, TEACHER, weigh=weighting_rule("gap"), tau=0)
    with pytest.raises(ConfigError, match="weighting is 'gpa'"):
        weighting_rule("gpa")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="alone is 2"):
        weighting_rule("constant", alone=2)
