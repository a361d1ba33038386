"""Quality labels and pseudo-labels by hand, on three vectors, and where they divide by zero."""

from __future__ import annotations

import math
from typing import Any

import pair_examples as made
import pytest
import torch
from torchvision.ops import box_convert, box_iou, generalized_box_iou

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.boxes.relation_quality import label_similarity, pair_quality, pseudo_labels


@pytest.mark.parametrize("measure", ["giou", "iou"])
def test_quality_is_that_of_the_worse_box(measure: str) -> None:
    generator = torch.Generator().manual_seed(0)
    subject, true_subject, object_, true_object = (made.boxes(20, generator=generator) for _ in range(4))
    true_subject[:5], true_object[:5] = subject[:5], object_[:5]
    has_object = torch.arange(20) % 3 != 0
    got = pair_quality(subject, true_subject, object_, true_object, has_object_M=has_object, measure=measure)
    overlap = generalized_box_iou if measure == "giou" else box_iou
    for m in range(20):
        pairs = [(subject[m], true_subject[m])] + ([(object_[m], true_object[m])] if has_object[m] else [])
        worst = min(float(overlap(*(box_convert(x[None], "cxcywh", "xyxy") for x in pair))) for pair in pairs)
        assert float(got[m]) == pytest.approx((worst + 1) / 2 if measure == "giou" else worst)
    torch.testing.assert_close(got[:5], torch.ones(5, dtype=torch.float64))


def test_quality_carries_no_gradient() -> None:
    box = made.boxes(3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert not pair_quality(box, box, box, box).requires_grad


def test_three_vectors_by_hand(parity: Any) -> None:
    """ride (0, 0), riding (0, 1), eat (4, 0): distances 1, 4, sqrt 17."""
    text = torch.tensor([[0.0, 0.0], [0.0, 1.0], [4.0, 0.0]], dtype=torch.float64)
    far = math.sqrt(17)
    similarity = label_similarity(text)
    expected = torch.tensor([[4.0, 3.0, 0.0], [far - 1, far, 0.0], [far - 4, 0.0, far]], dtype=torch.float64)
    torch.testing.assert_close(similarity, expected)
    ride = pseudo_labels(torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64), similarity)
    torch.testing.assert_close(ride, torch.tensor([[1.0, 0.75, 0.0]], dtype=torch.float64))
    pairs = [(similarity, expected), (ride, [[1.0, 0.75, 0.0]])]
    parity("rlipv2", "similar names of three vectors", "distances by hand", pairs, tolerance=1e-12)
    eat = pseudo_labels(torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64), similarity)
    torch.testing.assert_close(eat, torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64))  # (sqrt 17 - 4) / sqrt 17 = .03
    both = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    low = pseudo_labels(both, similarity, threshold=0.0)
    summed = expected[0] + expected[2]
    torch.testing.assert_close(low, torch.tensor([[1.0, float(summed[1] / summed.max()), 1.0]], dtype=torch.float64))
    assert pseudo_labels(both, similarity, threshold=0.99)[0, 1] == 0


def test_a_name_that_reads_the_same_earns_all_and_300_names_leave_no_noise_on_the_diagonal() -> None:
    text = torch.randn(300, 64, generator=torch.Generator().manual_seed(0)) + 100
    text[7] = text[3]
    similarity = label_similarity(text)
    torch.testing.assert_close(similarity.diagonal(), similarity.amax(1), rtol=0, atol=0)
    relation = torch.zeros(1, 300)
    relation[0, 3] = 1
    assert pseudo_labels(relation, similarity)[0, 7] == 1


@pytest.mark.parametrize("text", [torch.zeros(1, 4), torch.ones(3, 4), torch.zeros(0, 4)])
def test_nothing_to_tell_apart_is_no_division_by_zero(text: torch.Tensor) -> None:
    relation = torch.eye(len(text))
    got = pseudo_labels(relation, label_similarity(text))
    torch.testing.assert_close(got, relation)


def test_rows_without_a_relation_stay_empty() -> None:
    similarity = label_similarity(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    assert pseudo_labels(torch.zeros(2, 4), similarity).sum() == 0
    assert pseudo_labels(torch.zeros(0, 4), similarity).shape == (0, 4)


def test_order_of_names_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    text, order = torch.randn(9, 5, generator=generator, dtype=torch.float64), torch.randperm(9, generator=generator)
    relation = (torch.rand(6, 9, generator=generator) < 0.3).double()
    got = pseudo_labels(relation[:, order], label_similarity(text[order]))
    torch.testing.assert_close(got, pseudo_labels(relation, label_similarity(text))[:, order])


def test_wrong_options_are_named() -> None:
    box = torch.zeros(1, 4)
    with pytest.raises(ConfigError, match="'diou'"):
        pair_quality(box, box, box, box, measure="diou")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="threshold"):
        pseudo_labels(torch.zeros(1, 1), torch.zeros(1, 1), threshold=2)
    with pytest.raises(ShapeError, match=r"\[3\]"):
        label_similarity(torch.zeros(3))
