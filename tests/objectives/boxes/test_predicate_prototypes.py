"""Prototype losses against loops over pairs and predicates, and what their gradients may and may not touch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.core.errors import ShapeError
from diptych.objectives.boxes.predicate_prototypes import (
    mean_over_pairs,
    nearest_distances,
    pair_cross_entropy,
    prototype_distance,
    prototype_similarity,
    prototype_spread,
)


def drawn(pairs: int = 5, prototypes: int = 4, width: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    pair_PD, prototype_KD = (torch.randn(n, width, generator=rng, dtype=torch.float64) for n in (pairs, prototypes))
    return pair_PD.requires_grad_(), prototype_KD.requires_grad_(), torch.randint(prototypes, (pairs,), generator=rng)


def squared(one: Tensor, other: Tensor) -> float:
    return sum((a - b) ** 2 for a, b in zip(one.tolist(), other.tolist(), strict=True))


def distance_by_loops(pair_PD: Tensor, prototype_KD: Tensor, label_P: Tensor, margin: float, nearest: int) -> float:
    total = 0.0
    for pair, label in zip(pair_PD, label_P.tolist(), strict=True):
        others = sorted(squared(pair, c) for k, c in enumerate(prototype_KD) if k != label)[:nearest]
        total += max(0.0, squared(pair, prototype_KD[label]) - sum(others) / len(others) + margin)
    return total / len(pair_PD)


def test_losses_equal_naive_loops(parity: Any) -> None:
    pairs = []
    for seed, nearest in ((0, 2), (1, 3), (2, 10)):
        pair_PD, prototype_KD, label_P = drawn(seed=seed)
        ours = prototype_distance(pair_PD, prototype_KD, label_P, margin=1.5, nearest=nearest)
        pairs.append((ours, distance_by_loops(pair_PD, prototype_KD, label_P, 1.5, nearest)))
        unit = [c / c.norm() for c in prototype_KD]
        rows = [sum(float((a @ b).detach()) ** 2 for b in unit) ** 0.5 for a in unit]
        pairs.append((prototype_similarity(prototype_KD), sum(rows) / 16))
        near = [min(squared(a, b) for j, b in enumerate(prototype_KD) if j != i) for i, a in enumerate(prototype_KD)]
        pairs.append((prototype_spread(prototype_KD), sum(max(0.0, 7 - d) for d in near) / 4))
        pairs.append((nearest_distances(prototype_KD), near))
    parity("penet", "three losses of prototypes", "loops over pairs and prototypes", pairs, tolerance=1e-12)


def test_gradients_are_those_of_finite_differences_with_one_side_held_fast() -> None:
    """Similarity and spread hold the other prototypes fast: half of a symmetric gradient, or nothing of a neighbour's."""
    pair_PD, prototype_KD, label_P = drawn()
    assert torch.autograd.gradcheck(lambda r, c: prototype_distance(r, c, label_P, nearest=2), (pair_PD, prototype_KD))
    held_KD = prototype_KD.detach().clone()

    def one_side(moving_KD: Tensor) -> Tensor:
        unit_KD, fixed_KD = F.normalize(moving_KD, dim=1), F.normalize(held_KD, dim=1)
        return (unit_KD @ fixed_KD.T).norm(dim=1).sum() / 16

    assert torch.autograd.gradcheck(one_side, (prototype_KD,))
    (ours,) = torch.autograd.grad(prototype_similarity(prototype_KD), prototype_KD)
    (theirs,) = torch.autograd.grad(one_side(prototype_KD), prototype_KD)
    torch.testing.assert_close(ours, theirs)

    line_KD = torch.tensor([[0.0], [1.0], [10.0]], dtype=torch.float64, requires_grad=True)
    (spread_KD,) = torch.autograd.grad(prototype_spread(line_KD, margin=100.0), line_KD)
    # d/dc of -(c - nearest)^2 / 3: the third is pushed away from the second, which feels nothing of it
    torch.testing.assert_close(spread_KD[:, 0], torch.tensor([2.0, -2.0, -18.0], dtype=torch.float64) / 3)


def test_equal_prototypes_and_pairs_on_a_prototype_stay_finite() -> None:
    """Two predicates at one place are at distance 0 from each other, not from themselves alone."""
    prototype_KD = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    assert nearest_distances(prototype_KD).tolist() == [0.0, 0.0, 5.0]
    loss = prototype_spread(prototype_KD) + prototype_distance(prototype_KD.detach()[:1], prototype_KD, torch.tensor([2]))
    loss.backward()
    assert prototype_KD.grad is not None
    assert torch.isfinite(prototype_KD.grad).all()


def test_a_pair_on_its_prototype_far_from_others_costs_nothing() -> None:
    prototype_KD = torch.eye(4) * 10
    assert float(prototype_distance(prototype_KD, prototype_KD, torch.arange(4))) == 0.0
    elsewhere = prototype_distance(prototype_KD, prototype_KD, torch.tensor([1, 2, 3, 0]))
    assert float(elsewhere) == pytest.approx(200 - (0 + 200 + 200) / 3 + 1)


def test_no_pair_costs_nothing_and_bad_shapes_are_named() -> None:
    none_PK = torch.zeros(0, 4, requires_grad=True)
    loss = pair_cross_entropy(none_PK, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert float(loss.detach()) == 0.0 == float(mean_over_pairs(torch.zeros(0)))
    with pytest.raises(ShapeError, match=r"expected \[P, D\] and \[K, D\]"):
        prototype_distance(torch.zeros(2, 3), torch.zeros(4, 2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ShapeError, match="whole numbers"):
        prototype_distance(torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(2))
