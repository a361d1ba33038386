"""Initial queries of a pair decoder: three kinds of learned queries, or queries of given regions.

Pair i is the queries i (subject) and N + i (object) of 2N.
Letters: B batch, Q entity queries (2N), N pairs, C 2 or 4 coordinates, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from diptych.data.graphs.pairs import RegionPairs
from diptych.models.detection.box_reference import EDGE

HideTwins = Literal["always", "training", "never"]


@dataclass(frozen=True, slots=True)
class PairQueries:
    """Initial queries.

    content_BQD    content of a query
    reference_BQC  reference box or point in 0..1; None: no reference
    position_BQD   position embedding in attention; None: computed from the reference box
    hidden_BQQ     True where a query must not attend to another
    """

    content_BQD: Tensor
    reference_BQC: Tensor | None = None
    position_BQD: Tensor | None = None
    hidden_BQQ: Tensor | None = None


class AnchorQueries(nn.Module):
    """Queries with a learned vector and a learned box (four logits) each: DAB-DETR, ParSeDA."""

    def __init__(self, pairs: int, width: int) -> None:
        super().__init__()
        self.content_QD = nn.Parameter(torch.randn(2 * pairs, width))
        self.anchor_Q4 = nn.Parameter(torch.randn(2 * pairs, 4))

    def forward(self, batch: int) -> PairQueries:
        return PairQueries(_repeat(self.content_QD, batch), _repeat(self.anchor_Q4.sigmoid(), batch))


class PointQueries(nn.Module):
    """Queries with a learned vector and a learned position each: Deformable DETR, ParSeD.

    The reference point is a linear function of the position, with separate layers for subjects and objects.
    """

    def __init__(self, pairs: int, width: int) -> None:
        super().__init__()
        self.content_QD = nn.Parameter(torch.randn(2 * pairs, width))
        self.position_QD = nn.Parameter(torch.randn(2 * pairs, width))
        self.subject_point, self.object_point = nn.Linear(width, 2), nn.Linear(width, 2)
        for layer in (self.subject_point, self.object_point):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, batch: int) -> PairQueries:
        subject_ND, object_ND = self.position_QD.chunk(2)
        point_Q2 = torch.cat((self.subject_point(subject_ND), self.object_point(object_ND))).sigmoid()
        return PairQueries(_repeat(self.content_QD, batch), _repeat(point_Q2, batch), _repeat(self.position_QD, batch))


class FreeQueries(nn.Module):
    """Queries with only a learned position and no reference: DETR, ParSe."""

    def __init__(self, pairs: int, width: int) -> None:
        super().__init__()
        self.position_QD = nn.Parameter(torch.randn(2 * pairs, width))

    def forward(self, batch: int) -> PairQueries:
        position_BQD = _repeat(self.position_QD, batch)
        return PairQueries(torch.zeros_like(position_BQD), None, position_BQD)


class GivenQueries(nn.Module):
    """Queries of given regions: RLIPv2's R-Tagger.

    A query's content is the encoded text of its label (no gradient), its reference is the given box.

    Two slots with the same box and label are hidden from each other: one could leak to the other what it must reconstruct.
    Padding is hidden from all other slots (it still sees itself, so no row of attention is empty).

    hide_twins   when slots with the same box and label are hidden: "always"; "training", as released,
    whose queries in evaluation see each
                 other; "never" (where the release pads a batch, which it nearly always does, its mask is off in training too)
    point   False: the given box is the reference, and its sine embedding the position (like anchors)
            True: the released wiring. The position is a linear layer of the box's logits,
            and two further layers compute the first reference, a point, from it
    """

    def __init__(self, width: int, *, point: bool = False, hide_twins: HideTwins = "always") -> None:
        super().__init__()
        self.point, self.hide_twins = point, hide_twins
        if point:
            self.box = nn.Linear(4, width)
            self.subject_point, self.object_point = nn.Linear(width, 2), nn.Linear(width, 2)

    def forward(self, given: RegionPairs, text_BTD: Tensor) -> PairQueries:
        """Return queries of given regions. `text_BTD`: the entity texts as the decoder sees them."""
        box_BQ4 = torch.cat((given.subject_box_BG4, given.object_box_BG4), 1)
        label_BQ = torch.cat((given.subject_label_BG, given.object_label_BG), 1)
        text_BTD = text_BTD.detach().expand(len(box_BQ4), -1, -1)
        content_BQD = text_BTD.gather(1, label_BQ[..., None].expand(-1, -1, text_BTD.shape[-1]))
        reference_BQC, position_BQD = box_BQ4, None
        if self.point:
            position_BQD = self.box(box_BQ4.logit(EDGE))
            subject_BND, object_BND = position_BQD.chunk(2, 1)
            reference_BQC = torch.cat((self.subject_point(subject_BND), self.object_point(object_BND)), 1).sigmoid()
        return PairQueries(content_BQD, reference_BQC, position_BQD, self._hidden(box_BQ4, label_BQ, given.valid_BG))

    def _hidden(self, box_BQ4: Tensor, label_BQ: Tensor, valid_BG: Tensor) -> Tensor:
        hidden_BQQ = ~valid_BG.repeat(1, 2)[:, None].expand(-1, label_BQ.shape[1], -1)
        if self.hide_twins == "always" or (self.hide_twins == "training" and self.training):
            same_BQQ = (box_BQ4[:, :, None] == box_BQ4[:, None]).all(-1) & (label_BQ[:, :, None] == label_BQ[:, None])
            hidden_BQQ = hidden_BQQ | same_BQQ
        itself_QQ = torch.eye(label_BQ.shape[1], dtype=torch.bool, device=label_BQ.device)
        return hidden_BQQ & ~itself_QQ


def _repeat(x_QD: Tensor, batch: int) -> Tensor:
    return x_QD[None].expand(batch, -1, -1)
