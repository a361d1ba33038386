"""Prototypes of clusters: means against pandas-like group means, targets and loss against torch's own cross-entropy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diptych.core.errors import ShapeError
from diptych.objectives.pairs.prototypes import (
    ClusterTargets,
    back_translation,
    group_means,
    prototype_accuracy,
    prototype_logits,
    prototype_loss,
    soft_targets,
)

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


def test_back_translation_uses_the_features_of_one_side_and_the_labels_of_the_other(parity: Any) -> None:
    image, text_label = made(6, D, seed=1), torch.tensor([0, 1, 0, 1, 1, 0])
    mean_KD, _ = group_means(image, text_label, 2)
    torch.testing.assert_close(mean_KD[0], (image[0] + image[2] + image[5]) / 3)
    rows = pd.DataFrame(image.numpy()).groupby(text_label.numpy()).mean()
    parity("protoclip", "prototypes translated back", "group means of pandas", [(mean_KD, rows.to_numpy())], tolerance=1e-12)


def parts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, prototype, centroid = F.normalize(made(N, D, seed=1), dim=-1), made(K, D, seed=2), made(K, D, seed=3)
    filled = torch.tensor([True, True, False, True, True])
    prototype[2] = centroid[2] = 0
    return x, prototype, centroid, filled


@pytest.mark.parametrize("tau", [0.0, 0.1, 1.0])
def test_the_loss_is_cross_entropy_over_the_clusters_that_have_members(tau: float, parity: Any) -> None:
    x, prototype, centroid, filled = parts()
    target = soft_targets(ClusterTargets(LABEL, centroid, filled), tau)
    found = prototype_loss(x, prototype, target, filled_K=filled, scale=8.0)
    rows, columns = LABEL >= 0, filled
    logits = 8.0 * x[rows] @ prototype[columns].T
    similar = centroid[LABEL[rows]] @ centroid[columns].T
    new_name = torch.tensor([0, 1, -1, 2, 3])  # without the empty cluster
    expected = F.cross_entropy(logits, (similar / tau).softmax(1) if tau else new_name[LABEL[rows]])
    parity(
        "protoclip",
        "loss with soft and hard targets",
        "torch's cross_entropy with probabilities",
        [(found, expected)],
        tolerance=1e-12,
    )


def test_a_temperature_towards_zero_is_one_hot(parity: Any) -> None:
    _, _, centroid, filled = parts()
    norm = F.normalize(centroid, dim=-1).nan_to_num(0)
    soft = soft_targets(ClusterTargets(LABEL.clamp_min(0), norm, filled), 1e-4)
    hard = F.one_hot(LABEL.clamp_min(0), K)
    parity(
        "protoclip",
        "soft targets as the temperature goes to 0",
        "one-hot labels",
        [(soft, hard), (soft, soft_targets(ClusterTargets(LABEL.clamp_min(0), norm, filled), 0.0))],
        tolerance=1e-12,
    )
    assert (soft_targets(ClusterTargets(LABEL, centroid, filled), 1.0)[:, 2] == 0).all()


def test_an_empty_cluster_is_no_free_negative() -> None:
    x, prototype, centroid, filled = parts()
    target = soft_targets(ClusterTargets(LABEL, centroid, filled), 0.1)
    found = prototype_loss(x, prototype, target, filled_K=filled, scale=8.0)
    moved = prototype.clone()
    moved[2] = 50
    assert torch.equal(prototype_loss(x, moved, target, filled_K=filled, scale=8.0), found)
    released = prototype_loss(x, prototype, target, scale=8.0)
    assert released > found


def test_rows_without_a_label_count_neither_above_nor_below_the_line() -> None:
    x, prototype, centroid, filled = parts()
    x = x.requires_grad_()
    target = soft_targets(ClusterTargets(LABEL, centroid, filled), 0.1)
    loss = prototype_loss(x, prototype, target, filled_K=filled, scale=8.0)
    (grad,) = torch.autograd.grad(loss, x)
    assert (grad[4] == 0).all()
    assert (grad[LABEL >= 0].abs().sum(1) > 0).all()
    nobody = prototype_loss(x, prototype, target * 0, filled_K=filled, scale=8.0)
    assert nobody.item() == 0
    assert (torch.autograd.grad(nobody, x)[0] == 0).all()
    nothing = prototype_loss(x, prototype, target * 0, filled_K=torch.zeros(K, dtype=torch.bool), scale=8.0)
    assert nothing.item() == 0


def test_accuracy_is_that_of_the_released_code_where_no_cluster_is_empty(parity: Any) -> None:
    """megvii-research/protoclip at fde1933 says 50 % and a loss of 7.30696685743682 for these."""
    x = F.normalize(torch.sin(torch.arange(60.0, dtype=torch.float64)).reshape(12, 5), dim=1)
    prototype = torch.cos(torch.arange(20.0, dtype=torch.float64)).reshape(4, 5)
    label, filled = torch.arange(12) % 4, torch.ones(4, dtype=torch.bool)
    assert prototype_accuracy(x, prototype, label, filled_K=filled).item() == 0.5
    loss = prototype_loss(x, prototype, label, filled_K=filled, scale=14.0)
    assert loss.item() == pytest.approx(7.30696685743682, rel=1e-12)
    accuracy = prototype_accuracy(x, prototype, label, filled_K=filled)
    parity(
        "protoclip",
        "loss and accuracy",
        "numbers printed by megvii-research/protoclip at fde1933",
        [(loss, 7.30696685743682), (accuracy, 0.5)],
        tolerance=1e-12,
    )


def test_accuracy_counts_rows_with_a_label_and_clusters_with_members() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [-1.0, -1.0]])
    prototype = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    every = torch.tensor([True, True, True])
    label = torch.tensor([0, 1, 0, 1])
    assert prototype_accuracy(x, prototype, label, filled_K=every).item() == 0.5  # the last is nearest to the empty row of zeros
    assert prototype_accuracy(x, prototype, label, filled_K=torch.tensor([True, True, False])).item() == 0.5
    tied = torch.tensor([0, 1, 0, 0])
    assert (
        prototype_accuracy(x, prototype, tied, filled_K=torch.tensor([True, True, False])).item() == 0.75
    )  # of equal ones the lowest
    assert prototype_accuracy(x, prototype, torch.tensor([0, -1, -1, -1]), filled_K=every).item() == 1
    assert prototype_accuracy(x, prototype, torch.full((4,), -1), filled_K=every).item() == 0


def test_labels_as_targets_are_torchs_cross_entropy_with_its_ignore_index() -> None:
    x, prototype, _, filled = parts()
    found = prototype_loss(x, prototype, LABEL, scale=8.0)
    torch.testing.assert_close(found, F.cross_entropy(8.0 * x @ prototype.T, LABEL, ignore_index=-1))
    other = prototype_loss(x, prototype, LABEL.where(LABEL >= 0, -100), scale=8.0, ignore_index=-100)
    assert other.item() == found.item()
    logits = prototype_logits(x, prototype, scale=8.0, filled_K=filled)
    torch.testing.assert_close(logits[:, filled], 8.0 * x @ prototype[filled].T)
    assert (logits[:, ~filled] == -torch.inf).all()
    torch.testing.assert_close(
        prototype_loss(x, prototype, LABEL, scale=8.0, filled_K=filled), F.cross_entropy(logits, LABEL, ignore_index=-1)
    )


def test_back_translation_compares_each_side_with_the_clusters_of_the_other(parity: Any) -> None:
    """Against the released form of one side: logits over prototypes, softmax of the clusters' own centroids as targets."""
    image, text = (F.normalize(made(N, D, seed=s), dim=-1) for s in (1, 2))
    label = {"image": LABEL.clamp_min(0), "text": LABEL.flip(0).clamp_min(0)}
    centroid = {"image": made(K, D, seed=3), "text": made(K, D, seed=4)}
    prototype = {"image": made(K, D, seed=5), "text": made(K, D, seed=6)}

    def released(x: Tensor, own: str, other: str) -> Tensor:
        target = (centroid[other][label[other]] @ centroid[other].T / 0.5).softmax(1)
        return F.cross_entropy(8.0 * x @ prototype[own].T, target)

    found = back_translation(
        image,
        text,
        image_prototype_KD=prototype["image"],
        text_prototype_KD=prototype["text"],
        image_clusters=ClusterTargets(label["image"], centroid["image"]),
        text_clusters=ClusterTargets(label["text"], centroid["text"]),
        scale=8.0,
        tau=0.5,
    )
    expected = (released(image, "image", "text") + released(text, "text", "image")) / 2
    parity(
        "protoclip",
        "loss of both sides, each over the clusters of the other",
        "the released formula",
        [(found, expected)],
        tolerance=1e-12,
    )


def test_gradients_are_those_of_finite_differences() -> None:
    x, prototype, centroid, filled = parts()
    target, scale = (
        soft_targets(ClusterTargets(LABEL, centroid, filled), 0.1),
        torch.tensor([8.0], dtype=torch.float64, requires_grad=True),
    )
    given = (x.requires_grad_(), scale)
    assert torch.autograd.gradcheck(lambda a, s: prototype_loss(a, prototype, target, filled_K=filled, scale=s), given)


def test_what_does_not_fit_is_refused() -> None:
    x, prototype, *_ = parts()
    with pytest.raises(ShapeError, match="do not fit"):
        prototype_loss(x, prototype[:, :3], LABEL, scale=1.0)
    with pytest.raises(ShapeError, match=r"labels \[9\] or shares \[9, 5\], got \[3\]"):
        prototype_loss(x, prototype, LABEL[:3], scale=1.0)
    with pytest.raises(ShapeError, match=r"filled_K must be \[5\]"):
        prototype_loss(x, prototype, LABEL, scale=1.0, filled_K=torch.ones(4, dtype=torch.bool))
    with pytest.raises(ShapeError, match="numbers from 0 to 2"):
        group_means(x, LABEL, 3)
