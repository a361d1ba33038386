"""The loss of detectors that ground words at every place, against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diptych.core.errors import ShapeError
from diptych.data.graphs.grounded import DenseRegions, TokenTargets, moved_anchors
from diptych.models.detection.dense.dense_grounding import square_anchors
from diptych.objectives.boxes.boxes import cxcywh_from_xyxy
from diptych.objectives.boxes.dense_tokens import DenseTokenLoss, adaptive_assignment, centreness, giou_of_pixels

COUNTS = (64, 16, 4)


def grid() -> Tensor:
    return torch.cat([square_anchors(side, side, 64 // side, 2.0, like=torch.zeros(1)).double() for side in (8, 4, 2)])


def assigned_by_loops(anchors: list[list[float]], boxes: list[list[float]]) -> list[int]:
    def iou(a: list[float], b: list[float]) -> float:
        shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
        return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)

    found, best = [-1] * len(anchors), [-1.0] * len(anchors)
    for g, box in enumerate(boxes):
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        near, start = [], 0
        for count in COUNTS:
            order = sorted(
                range(start, start + count),
                key=lambda n: math.dist(middle, ((anchors[n][0] + anchors[n][2]) / 2, (anchors[n][1] + anchors[n][3]) / 2)),
            )
            near += order[: min(9, count)]
            start += count
        overlaps = [iou(anchors[n], box) for n in near]
        mean = sum(overlaps) / len(overlaps)
        limit = mean + math.sqrt(sum((x - mean) ** 2 for x in overlaps) / (len(overlaps) - 1))
        for n, overlap in zip(near, overlaps, strict=True):
            x, y = (anchors[n][0] + anchors[n][2] - 1) / 2, (anchors[n][1] + anchors[n][3] - 1) / 2
            inside = min(x - box[0], y - box[1], box[2] - 1 - x, box[3] - 1 - y) > 0.01
            if overlap >= limit and inside and overlap > best[n]:
                found[n], best[n] = g, overlap
    return found


def test_assignment_is_that_of_loops() -> None:
    boxes = torch.tensor([[3.0, 5, 30, 33], [20, 11, 60, 50], [22, 9, 41, 37], [1, 40, 9, 49]]).double()
    found = adaptive_assignment(grid(), COUNTS, boxes).tolist()
    assert found == assigned_by_loops(grid().tolist(), boxes.tolist())
    assert {-1, 0, 1, 2} <= set(found)
    assert adaptive_assignment(grid(), COUNTS, boxes[:0]).eq(-1).all()
    with pytest.raises(ShapeError, match="maps of"):
        adaptive_assignment(grid(), (64, 16), boxes)


def case() -> tuple[DenseRegions, TokenTargets]:
    rng = torch.Generator().manual_seed(0)
    count, mask = sum(COUNTS), torch.tensor([[True] * 5, [True, True, True, False, False]])
    found = DenseRegions(
        (torch.randn(2, count, 4, generator=rng).double() * 0.5).requires_grad_(),
        torch.randn(2, count, generator=rng).double().requires_grad_(),
        torch.randn(2, count, 5, generator=rng).double().requires_grad_(),
        mask,
        torch.tensor([[64, 64], [48, 60]]),
        grid(),
        COUNTS,
    )
    share = torch.tensor([[[3.0, 5, 30, 33], [20, 11, 60, 50]], [[6, 4, 40, 44], [0, 0, 1, 1]]]).double()
    share = share / found.size_B2.flip(1).repeat(1, 2)[:, None]
    positive = torch.tensor([[[0, 1, 0, 0, 0], [0, 0, 1, 1, 0]], [[0, 1, 1, 0, 0], [1, 1, 1, 1, 1]]]).bool()
    return found, TokenTargets(cxcywh_from_xyxy(share), positive, torch.tensor([[True, True], [True, False]]))


def test_losses_are_those_of_loops_and_padding_counts_nothing() -> None:
    found, targets = case()
    losses, parts = DenseTokenLoss()(found, targets)
    boxes = [[[3.0, 5, 30, 33], [20, 11, 60, 50]], [[6.0, 4, 40, 44]]]
    tokens = centres = misses = weights = 0.0
    positives = 0
    for b in range(2):
        place = assigned_by_loops(grid().tolist(), boxes[b])
        for a in range(sum(COUNTS)):
            for n in range(5 if b == 0 else 3):
                p = 1 / (1 + math.exp(-float(found.token_logit_BAL[b, a, n])))
                yes = place[a] >= 0 and bool(targets.positive_BGL[b, place[a], n])
                tokens += -0.25 * (1 - p) ** 2 * math.log(p) if yes else -0.75 * p**2 * math.log(1 - p)
            if place[a] < 0:
                continue
            positives += 1
            true = torch.tensor(boxes[b][place[a]]).double()
            x, y = ((found.anchor_A4[a, n] + found.anchor_A4[a, n + 2] - 1).item() / 2 for n in (0, 1))
            left, top, right, bottom = x - true[0], y - true[1], true[2] - 1 - x, true[3] - 1 - y
            c = math.sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))
            q = 1 / (1 + math.exp(-float(found.centre_BA[b, a])))
            centres += -c * math.log(q) - (1 - c) * math.log(1 - q)
            moved = moved_anchors(found.anchor_A4[a], found.change_BA4[b, a].detach())
            misses += c * (1 - float(giou_of_pixels(moved[None], true[None])))
            weights += c
    assert float(losses["tokens"]) == pytest.approx(tokens / positives)
    assert float(losses["centres"]) == pytest.approx(centres / positives)
    assert float(losses["boxes"]) == pytest.approx(2 * misses / weights)
    assert float(parts["anchors_a_box"]) == pytest.approx(positives / 3)


def test_no_box_at_all_is_a_lesson_without_positives() -> None:
    found, targets = case()
    empty = TokenTargets(targets.box_BG4, targets.positive_BGL, torch.zeros(2, 2, dtype=torch.bool))
    losses, _ = DenseTokenLoss()(found, empty)
    assert float(losses["boxes"]) == float(losses["centres"]) == 0
    sum(losses.values()).backward()
    assert found.token_logit_BAL.grad is not None
    assert not found.token_logit_BAL.grad[1, :, 3:].any()
    with pytest.raises(ShapeError, match="texts of 5 tokens"):
        DenseTokenLoss()(found, TokenTargets(targets.box_BG4, targets.positive_BGL[:, :, :4], targets.valid_BG))


def test_centres_and_overlaps_at_their_ends() -> None:
    box = torch.tensor([[0.0, 0, 11, 11]])
    assert float(centreness(torch.tensor([[5.5, 5.5]]), box)) == 1.0
    assert float(centreness(torch.tensor([[0.5, 5.5]]), box)) == 0.0
    assert float(giou_of_pixels(box, box)) == pytest.approx(1.0)
    assert -1 < float(giou_of_pixels(torch.tensor([[30.0, 30, 30.2, 30.2]]), box)) < 0
