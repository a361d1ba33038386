"""KoLeo against a double loop, a number of DINOv2's code, finite differences and two processes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from joined_processes import on_processes
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.distillation.koleo import koleo

N, D = 8, 4


def made() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def naive(x: Tensor) -> float:
    rows = [row / row.norm() for row in x]
    least = [min(float((a - b).norm()) for j, b in enumerate(rows) if j != i) for i, a in enumerate(rows)]
    return -sum(math.log(d) for d in least) / len(rows)


@pytest.mark.parametrize("tile", [1, 3, 512])
def test_it_is_minus_the_mean_log_distance_to_the_nearest_other_row(tile: int) -> None:
    assert koleo(made(), tile=tile).item() == pytest.approx(naive(made()), abs=1e-6)  # eps
    assert koleo(made(), eps=1e-14).item() == pytest.approx(naive(made()), abs=1e-12)


def test_the_number_of_the_released_code() -> None:
    x = torch.arange(12, dtype=torch.float64).reshape(4, 3).sin()
    assert koleo(x).item() == pytest.approx(1.266682256398123, abs=1e-14)


def test_gradients_are_those_of_finite_differences_and_reach_both_rows() -> None:
    assert torch.autograd.gradcheck(koleo, made().requires_grad_())
    x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(koleo(x), x)
    pushed = x.detach() - 1e-3 * grad
    angle = torch.atan2(pushed[:, 1], pushed[:, 0])
    assert angle[0] < 0
    assert angle[1] > math.atan2(0.1, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_equal_rows_stay_finite(dtype: torch.dtype) -> None:
    x = torch.ones(4, 3).to(dtype).requires_grad_()
    loss = koleo(x)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ShapeError, match="two rows or more"):
        koleo(made()[:1])
    with pytest.raises(ConfigError, match=r"batch \| process"):
        koleo(made(), neighbours="all")  # type: ignore[arg-type]


def results(neighbours: Any, rank: int, world: int) -> list[Tensor]:
    x = made()[rank * N // world : (rank + 1) * N // world].clone().requires_grad_()
    loss = koleo(x, neighbours=neighbours)
    return [loss.detach(), torch.autograd.grad(loss, x)[0]]


def work(rank: int, world: int) -> dict[str, list[Tensor]]:
    return {form: results(form, rank, world) for form in ("batch", "process")}


def test_two_processes_agree_with_one_unless_each_looks_at_its_own_rows(tmp_path: Path) -> None:
    loss, grad = results("batch", 0, 1)
    halves = [koleo(half).item() for half in made().chunk(2)]
    for rank, found in enumerate(on_processes(work, tmp_path)):
        torch.testing.assert_close(found["batch"][0], loss)
        torch.testing.assert_close(found["batch"][1] / 2, grad.chunk(2)[rank])
        assert found["process"][0].item() == pytest.approx(sum(halves) / 2, abs=1e-12)
        assert found["process"][0].item() != pytest.approx(loss.item(), abs=1e-3)
