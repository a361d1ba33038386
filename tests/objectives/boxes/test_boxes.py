"""Boxes against torchvision.ops, finite differences and by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision import ops

from diptych.core.errors import ShapeError
from diptych.objectives.boxes.boxes import (
    area,
    cxcywh_from_xyxy,
    giou,
    giou_loss,
    iou,
    l1_loss,
    pairwise_giou,
    pairwise_iou,
    pairwise_l1,
    xyxy_from_cxcywh,
)


def made(*lead: int, seed: int) -> Tensor:
    corner = torch.rand(*lead, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cat([corner.amin(-2), corner.amax(-2)], -1)


def test_conversions_are_torchvisions_and_each_others_inverse() -> None:
    box = made(50, seed=0)
    torch.testing.assert_close(cxcywh_from_xyxy(box), ops.box_convert(box, "xyxy", "cxcywh"))
    torch.testing.assert_close(xyxy_from_cxcywh(box), ops.box_convert(box, "cxcywh", "xyxy"))
    torch.testing.assert_close(xyxy_from_cxcywh(cxcywh_from_xyxy(box)), box)
    torch.testing.assert_close(area(box), ops.box_area(box))


def test_pairwise_values_are_torchvisions_in_every_item_of_a_batch() -> None:
    one, two = made(2, 3, 7, seed=1), made(2, 3, 5, seed=2)
    for ours, theirs in ((pairwise_iou, ops.box_iou), (pairwise_giou, ops.generalized_box_iou)):
        got = ours(one, two)
        assert got.shape == (2, 3, 7, 5)
        for b in range(2):
            for s in range(3):
                torch.testing.assert_close(got[b, s], theirs(one[b, s], two[b, s]), rtol=1e-12, atol=1e-12)
    naive = torch.tensor([[sum(abs(float(x - y)) for x, y in zip(a, b, strict=True)) for b in two[0, 0]] for a in one[0, 0]])
    torch.testing.assert_close(pairwise_l1(one, two)[0, 0], naive.double(), rtol=1e-6, atol=1e-6)


def test_aligned_values_are_the_diagonal_of_pairwise_ones() -> None:
    one, two = made(9, seed=3), made(9, seed=4)
    torch.testing.assert_close(iou(one, two), pairwise_iou(one, two).diagonal())
    torch.testing.assert_close(giou(one, two), pairwise_giou(one, two).diagonal())
    torch.testing.assert_close(l1_loss(one, two), pairwise_l1(one, two).diagonal())
    torch.testing.assert_close(giou_loss(one, two), ops.generalized_box_iou_loss(one, two), rtol=1e-5, atol=1e-5)


def test_by_hand() -> None:
    one, apart, inside = torch.tensor([[0.0, 0, 2, 2], [4.0, 0, 6, 2], [0.0, 0, 1, 2]])
    assert iou(one, one) == giou(one, one) == 1
    assert iou(one, apart) == 0
    assert giou(one, apart) == pytest.approx(-(12 - 8) / 12)
    assert iou(one, inside) == pytest.approx(0.5)
    assert pairwise_iou(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 2, 3, 3]])) == 0  # (-1) * (-1) is no intersection


def test_gradients_equal_finite_differences_where_boxes_meet_and_where_they_do_not() -> None:
    one = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.0, 0.0, 0.2, 0.2]], dtype=torch.float64, requires_grad=True)
    two = torch.tensor([[0.3, 0.2, 0.9, 0.7], [0.5, 0.6, 0.9, 0.8]], dtype=torch.float64, requires_grad=True)
    for function in (iou, giou, pairwise_giou, l1_loss):
        assert torch.autograd.gradcheck(function, (one, two))


def test_boxes_without_area_stay_finite() -> None:
    point = torch.tensor([[0.3, 0.3, 0.3, 0.3]], requires_grad=True)
    for other in (point.detach(), torch.zeros(1, 4), torch.tensor([[0.1, 0.1, 0.6, 0.6]])):
        for function in (iou, giou):
            (gradient,) = torch.autograd.grad(function(point, other).sum(), point)
            assert torch.isfinite(gradient).all()
    assert iou(point, point) == 0


def test_no_boxes_and_wrong_shapes() -> None:
    assert pairwise_giou(torch.zeros(3, 4), torch.zeros(0, 4)).shape == (3, 0)
    assert pairwise_l1(torch.zeros(2, 3, 4), torch.zeros(2, 0, 4)).shape == (2, 3, 0)
    with pytest.raises(ShapeError, match=r"\[2, 5\]"):
        xyxy_from_cxcywh(torch.zeros(2, 5))
