"""Boxes as tokens, and rewards of boxes: overlap and clicks. Letters: N boxes, K bins of a coordinate."""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.objectives.boxes.boxes import iou


def box_bins(box_N4: Tensor, bins: int) -> Tensor:
    """[N, 4] bins of coordinates from 0 to 1: x0, y0, x1, y1."""
    return (box_N4 * bins).long().clamp(0, bins - 1)


def boxes_of_bins(bin_N4: Tensor, bins: int) -> Tensor:
    """[N, 4] coordinates at the middles of the bins."""
    return (bin_N4.to(torch.get_default_dtype()) + 0.5) / bins


def valid_boxes(box_N4: Tensor) -> Tensor:
    """Mask [N] of boxes with an area: x1 > x0 and y1 > y0."""
    return (box_N4[..., 2] > box_N4[..., 0]) & (box_N4[..., 3] > box_N4[..., 1])


def overlap(box_N4: Tensor, true_N4: Tensor) -> Tensor:
    """[N]: IoU with the true box; 0 for a box without area."""
    valid_N = valid_boxes(box_N4)
    return torch.where(valid_N, iou(torch.where(valid_N[..., None], box_N4, true_N4), true_N4), 0.0)


def clicks(box_N4: Tensor, true_N4: Tensor) -> Tensor:
    """Click accuracy [N]: 1 if the centre of a box lies in the true one, 0 otherwise and for a box without area."""
    middle_N2 = (box_N4[..., :2] + box_N4[..., 2:]) / 2
    inside_N = ((middle_N2 >= true_N4[..., :2]) & (middle_N2 <= true_N4[..., 2:])).all(-1)
    return (inside_N & valid_boxes(box_N4)).to(box_N4)


def box_reward(box_N4: Tensor, true_N4: Tensor, *, click: float = 0.0) -> Tensor:
    """Reward [N]: IoU plus `click` if the centre lies in the true box; 0 for a box without area."""
    return overlap(box_N4, true_N4) + click * clicks(box_N4, true_N4)


def bin_ceiling(box_N4: Tensor, bins: int) -> Tensor:
    """IoU of each box with its quantised version, [N]: an approximate upper bound for answers in bins."""
    return overlap(boxes_of_bins(box_bins(box_N4, bins), bins).to(box_N4), box_N4)


def token_rewards(drawn_N4: Tensor, true_bin_N4: Tensor, true_N4: Tensor, bins: int, *, click: float = 0.0) -> Tensor:
    """Token rewards [N, 4]: at each position the reward of the true bins with that bin replaced by the sampled one."""
    rewards = []
    for index in range(4):
        mixed_N4 = true_bin_N4.clone()
        mixed_N4[:, index] = drawn_N4[:, index]
        rewards.append(box_reward(boxes_of_bins(mixed_N4, bins).to(true_N4), true_N4, click=click))
    return torch.stack(rewards, 1)
