"""Prototypes of clusters: means against pandas-like group means, targets and loss against torch's own cross-entropy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diptych.core.errors import ShapeError
from diptych.objectives.prototypes import group_means, prototype_accuracy, prototype_loss, soft_targets

N, K, D = 9, 5, 4
LABEL = torch.tensor([0, 3, 3, 1, -1, 0, 4, 4, 1])  # nobody is in cluster 2


def made(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40))
def test_group_means_are_those_of_a_plain_group_by(labels: list[int]) -> None:
    x = made(len(labels), 3, seed=len(labels)).float()
    mean_KD, filled_K = group_means(x, torch.tensor(labels), 7)
    groups: dict[int, list[np.ndarray]] = {}
    for row, label in zip(x.numpy().astype(np.float64), labels, strict=True):
        groups.setdefault(label, []).append(row)
    for k in range(7):
        assert bool(filled_K[k]) == (k in groups)
        np.testing.assert_allclose(mean_KD[k], np.mean(groups[k], axis=0) if k in groups else 0, atol=1e-7)


def test_back_translation_uses_the_features_of_one_side_and_the_labels_of_the_other() -> None:
    image, text_label = made(6, D, seed=1), torch.tensor([0, 1, 0, 1, 1, 0])
    mean_KD, _ = group_means(image, text_label, 2)
    torch.testing.assert_close(mean_KD[0], (image[0] + image[2] + image[5]) / 3)


def parts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, prototype, centroid = F.normalize(made(N, D, seed=1), dim=-1), made(K, D, seed=2), made(K, D, seed=3)
    filled = torch.tensor([True, True, False, True, True])
    prototype[2] = centroid[2] = 0
    return x, prototype, centroid, filled


@pytest.mark.parametrize("tau", [0.0, 0.1, 1.0])
def test_the_loss_is_cross_entropy_over_the_clusters_that_have_members(tau: float) -> None:
    x, prototype, centroid, filled = parts()
    target = soft_targets(centroid, filled, LABEL, tau)
    found = prototype_loss(x, prototype, filled, target, LABEL, scale=8.0)
    rows, columns = LABEL >= 0, filled
    logits = 8.0 * x[rows] @ prototype[columns].T
    similar = centroid[LABEL[rows]] @ centroid[columns].T
    new_name = torch.tensor([0, 1, -1, 2, 3])  # without the empty cluster
    expected = F.cross_entropy(logits, (similar / tau).softmax(1) if tau else new_name[LABEL[rows]])
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)


def test_a_temperature_towards_zero_is_one_hot() -> None:
    _, _, centroid, filled = parts()
    norm = F.normalize(centroid, dim=-1).nan_to_num(0)
    soft = soft_targets(norm, filled, LABEL.clamp_min(0), 1e-4)
    torch.testing.assert_close(soft, soft_targets(norm, filled, LABEL.clamp_min(0), 0.0))
    assert (soft_targets(centroid, filled, LABEL, 1.0)[:, 2] == 0).all()


def test_an_empty_cluster_is_no_free_negative() -> None:
    x, prototype, centroid, filled = parts()
    target = soft_targets(centroid, filled, LABEL, 0.1)
    found = prototype_loss(x, prototype, filled, target, LABEL, scale=8.0)
    moved = prototype.clone()
    moved[2] = 50
    assert torch.equal(prototype_loss(x, moved, filled, target, LABEL, scale=8.0), found)
    released = prototype_loss(x, prototype, torch.ones(K, dtype=torch.bool), target, LABEL, scale=8.0)
    assert released > found


def test_rows_without_a_label_count_neither_above_nor_below_the_line() -> None:
    x, prototype, centroid, filled = parts()
    x = x.requires_grad_()
    target = soft_targets(centroid, filled, LABEL, 0.1)
    loss = prototype_loss(x, prototype, filled, target, LABEL, scale=8.0)
    (grad,) = torch.autograd.grad(loss, x)
    assert (grad[4] == 0).all()
    assert (grad[LABEL >= 0].abs().sum(1) > 0).all()
    nobody = prototype_loss(x, prototype, filled, target, torch.full((N,), -1), scale=8.0)
    assert nobody.item() == 0
    assert (torch.autograd.grad(nobody, x)[0] == 0).all()
    nothing = prototype_loss(x, prototype, torch.zeros(K, dtype=torch.bool), target * 0, torch.full((N,), -1), scale=8.0)
    assert nothing.item() == 0


def test_accuracy_is_that_of_the_released_code_where_no_cluster_is_empty() -> None:
    """megvii-research/protoclip at fde1933 says 50 % and a loss of 7.30696685743682 for these."""
    x = F.normalize(torch.sin(torch.arange(60.0, dtype=torch.float64)).reshape(12, 5), dim=1)
    prototype = torch.cos(torch.arange(20.0, dtype=torch.float64)).reshape(4, 5)
    label, filled = torch.arange(12) % 4, torch.ones(4, dtype=torch.bool)
    assert prototype_accuracy(x, prototype, filled, label).item() == 0.5
    loss = prototype_loss(x, prototype, filled, soft_targets(prototype, filled, label, 0.0), label, scale=14.0)
    assert loss.item() == pytest.approx(7.30696685743682, rel=1e-12)


def test_accuracy_counts_rows_with_a_label_and_clusters_with_members() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [-1.0, -1.0]])
    prototype = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    every = torch.tensor([True, True, True])
    label = torch.tensor([0, 1, 0, 1])
    assert prototype_accuracy(x, prototype, every, label).item() == 0.5  # the last is nearest to the empty row of zeros
    assert prototype_accuracy(x, prototype, torch.tensor([True, True, False]), label).item() == 0.5
    tied = torch.tensor([0, 1, 0, 0])
    assert prototype_accuracy(x, prototype, torch.tensor([True, True, False]), tied).item() == 0.75  # of equal ones the lowest
    assert prototype_accuracy(x, prototype, every, torch.tensor([0, -1, -1, -1])).item() == 1
    assert prototype_accuracy(x, prototype, every, torch.full((4,), -1)).item() == 0


def test_gradients_are_those_of_finite_differences() -> None:
    x, prototype, centroid, filled = parts()
    target, scale = soft_targets(centroid, filled, LABEL, 0.1), torch.tensor([8.0], dtype=torch.float64, requires_grad=True)
    given = (x.requires_grad_(), scale)
    assert torch.autograd.gradcheck(lambda a, s: prototype_loss(a, prototype, filled, target, LABEL, scale=s), given)


def test_what_does_not_fit_is_refused() -> None:
    x, prototype, centroid, filled = parts()
    with pytest.raises(ShapeError, match="do not fit"):
        prototype_loss(x, prototype[:3], filled, soft_targets(centroid, filled, LABEL, 0.1), LABEL, scale=1.0)
    with pytest.raises(ShapeError, match="numbers from 0 to 2"):
        group_means(x, LABEL, 3)
