"""Training box sampling of a two-stage detector: matches boxes to true boxes, then samples (Faster R-CNN, Ren et al., 2015,
1506.01497).

Letters: A anchors or proposals, M true boxes, S sampled boxes, P positives among them. Boxes are xyxy in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.objectives.boxes.anchors import BACKGROUND, matched_anchors

Drawn = tuple[Tensor, Tensor]
"""box [S, 4], those with a true box first, and int64 [P]: which one each of the first P has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxSampling:
    """high      overlap from which a box has the true box that it overlaps most
    low       overlap below which it is background; what lies between is not learned from
    least     a true box takes the boxes that overlap it most, too, if by this much
    count     boxes of an image
    positive  at most this share of them has a true box; background fills up the rest
    """

    high: float
    low: float
    least: float
    count: int
    positive: float

    def __post_init__(self) -> None:
        if not (0 < self.low <= self.high <= 1 and 0 <= self.least <= 1 and self.count >= 1 and 0 < self.positive <= 1):
            raise ConfigError(f"{self} (expected 0 < low <= high <= 1, least and positive from 0 to 1, count of 1 or more)")

    def matched(self, box_A4: Tensor, true_M4: Tensor) -> Tensor:
        """int64 [A]: a true box, BACKGROUND or IGNORED."""
        return matched_anchors(box_A4, true_M4, high=self.high, low=self.low, least=self.least)


def sample_rows(place_A: Tensor, sampling: BoxSampling) -> tuple[Tensor, Tensor]:
    """Samples positive rows, int64 [P], and background rows, int64 [S - P], each ascending, with torch's global random state."""
    true_P = _some((place_A >= 0).nonzero()[:, 0], int(sampling.count * sampling.positive))
    return true_P, _some((place_A == BACKGROUND).nonzero()[:, 0], sampling.count - len(true_P))


def sample_regions(proposals: Sequence[Tensor], boxes: Sequence[Tensor], sampling: BoxSampling) -> list[Drawn]:
    """Samples the regions of each image; the true boxes are added to its proposals."""
    regions = []
    for proposal_A4, true_M4 in zip(proposals, boxes, strict=True):
        own_M = torch.arange(len(true_M4), device=true_M4.device)
        place_A = torch.cat((own_M, sampling.matched(proposal_A4, true_M4)))
        true_P, rest_S = sample_rows(place_A, sampling)
        regions.append((torch.cat((true_M4, proposal_A4))[torch.cat((true_P, rest_S))], place_A[true_P]))
    return regions


def _some(row_A: Tensor, count: int) -> Tensor:
    if len(row_A) <= count:
        return row_A
    return row_A[torch.randperm(len(row_A), device="cpu")[:count].to(row_A.device)].sort().values
