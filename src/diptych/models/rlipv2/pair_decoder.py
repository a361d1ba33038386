"""ParSe (RLIP, 2209.01814): one decoder for subjects and objects in parallel, then a second for relations.

    p(subject, object, relation | image) = p(subject, object | image) p(relation | subject, object, image)

Letters: B batch, S layers, N pairs, Q entity queries (2N: subjects, then objects), D width, C 2 or 4 coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn

from diptych.models.detection.box_reference import BoxPosition, refine_reference
from diptych.models.detection.decoder_layer import DecoderLayer
from diptych.models.detection.feature_pyramid import PyramidTokens
from diptych.models.layers.mlp import MLP
from diptych.models.layers.multi_branch_fusion import MultiBranchFusion
from diptych.models.rlipv2.pair_queries import PairQueries

RelationStart = Literal["fused", "slots", "both"]
RelationPosition = Literal["box", "learned", "entities"]


class EntityDecoder(nn.Module):
    """Decoder of all 2N entity queries; every layer returns contents and boxes.

    A layer's box is sigmoid(MLP(content) + logit(reference)), with separate heads for subjects and objects;
    the detached box is the next layer's reference. Heads start with zero change; if the reference is a point,
    the first predicts sides of about sigmoid(-2). With `dense` layers (DETR) there is no reference: one head per side is shared
    by all layers and predicts the whole box.
    """

    def __init__(self, layers: Sequence[DecoderLayer], width: int, *, anchors: bool, in_padded: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.dense = layers[0].dense
        heads = 1 if self.dense else len(layers)
        self.subject_box = nn.ModuleList(MLP((width, width, width, 4)) for _ in range(heads))
        self.object_box = nn.ModuleList(MLP((width, width, width, 4)) for _ in range(heads))
        self.box_position = BoxPosition(width, in_padded=in_padded) if anchors else None
        self.norm = nn.LayerNorm(width) if self.dense else None

    def reset_boxes(self) -> None:
        """Initialise the box heads as published."""
        for heads in (self.subject_box, self.object_box):
            for row, head in enumerate(heads):
                assert isinstance(head, MLP)
                nn.init.zeros_(head.last.weight)
                nn.init.zeros_(head.last.bias)
                if row == 0 and not self.dense:
                    nn.init.constant_(head.last.bias[2:], -2.0)

    def forward(self, queries: PairQueries, pyramid: PyramidTokens) -> tuple[Tensor, Tensor]:
        """Return content_BSQD and box_BSQ4 (cxcywh in 0..1) after each layer."""
        x_BQD, reference_BQC = queries.content_BQD, queries.reference_BQC
        contents, boxes = [], []
        for row, layer in enumerate(self.layers):
            position_BQD = queries.position_BQD
            if self.box_position is not None and reference_BQC is not None and position_BQD is None:
                position_BQD = self.box_position(reference_BQC, x_BQD, pyramid, first=row == 0)
            assert position_BQD is not None
            x_BQD = layer(x_BQD, position_BQD, reference_BQC, pyramid, queries.hidden_BQQ)
            out_BQD = x_BQD if self.norm is None else self.norm(x_BQD)
            box_BQ4 = self._boxes(min(row, len(self.subject_box) - 1), out_BQD, reference_BQC)
            reference_BQC = None if self.dense else box_BQ4.detach()
            contents.append(out_BQD)
            boxes.append(box_BQ4)
        return torch.stack(contents, 1), torch.stack(boxes, 1)

    def read_boxes(self, content_BSQD: Tensor, reference_BQC: Tensor | None, box_BSQ4: Tensor) -> Tensor:
        """Predict box_BSQ4 from other contents (late fusion: the fused queries), relative to the decoder's own references.

        These are `reference_BQC` of the queries for the first layer, and `box_BSQ4` of the layer before for the others.
        """
        references = [reference_BQC, *([None] * (len(self.layers) - 1) if self.dense else box_BSQ4.detach()[:, :-1].unbind(1))]
        heads = [min(row, len(self.subject_box) - 1) for row in range(len(self.layers))]
        return torch.stack([self._boxes(*read) for read in zip(heads, content_BSQD.unbind(1), references, strict=True)], 1)

    def _boxes(self, head: int, x_BQD: Tensor, reference_BQC: Tensor | None) -> Tensor:
        subject_BND, object_BND = x_BQD.chunk(2, 1)
        change_BQ4 = torch.cat((self.subject_box[head](subject_BND), self.object_box[head](object_BND)), 1)
        return change_BQ4.sigmoid() if reference_BQC is None else refine_reference(reference_BQC, change_BQ4)


class RelationDecoder(nn.Module):
    """Decoder of N relation queries, each made from its subject and its object, with separate layers.

    A query's reference is the mean of its two boxes (centre and sides averaged, not their union).
    Boxes are only references: they get no gradient from this decoder.

    The released module has box heads here, too (`add_boxes`). They move both boxes, and so the next layer's reference,
    after each layer, but have no loss and are never trained.
    Pre-training starts from a COCO detector that fills them with trained weights, so in a released checkpoint they are not zero;
    newly initialised ones are zero and move nothing.

    start     initial query. "fused": MultiBranchFusion(h_s, h_o). "slots": the sum of two learned vectors, for the slots of its
    subject and its object. "both": their sum (published). "zero": 0 (ParSe)
    position  "box": as entity queries with anchors. "learned": a vector per pair (ParSeD). "entities": h_s + h_o (ParSe,
    and ParSeD that
              starts from slots: the released R-Tagger)
    pairs     slots with learned vectors; fewer pairs use the first of them
    """

    def __init__(
        self,
        layers: Sequence[DecoderLayer],
        width: int,
        pairs: int,
        *,
        position: RelationPosition,
        start: RelationStart | Literal["zero"] = "both",
        branches: int = 16,
        in_padded: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.fuse = MultiBranchFusion(width, branches=branches) if start in ("fused", "both") else None
        self.content_QD = nn.Parameter(torch.randn(2 * pairs, width)) if start in ("slots", "both") else None
        self.position_ND = nn.Parameter(torch.randn(pairs, width)) if position == "learned" else None
        self.box_position = BoxPosition(width, in_padded=in_padded) if position == "box" else None
        self.norm = nn.LayerNorm(width) if layers[0].dense else None
        self.subject_box: nn.ModuleList | None = None
        self.object_box: nn.ModuleList | None = None

    @property
    def slots(self) -> int | None:
        """Maximal number of pairs; None if it is unlimited, since nothing is learned per slot."""
        if self.position_ND is not None:
            return len(self.position_ND)
        return None if self.content_QD is None else len(self.content_QD) // 2

    def add_boxes(self, entities: EntityDecoder) -> None:
        """Add box heads as released: frozen copies of the entity decoder's with a zero last layer."""
        self.subject_box, self.object_box = deepcopy(entities.subject_box), deepcopy(entities.object_box)
        for head in (*self.subject_box, *self.object_box):
            assert isinstance(head, MLP)
            nn.init.zeros_(head.last.weight)
            nn.init.zeros_(head.last.bias)
            head.requires_grad_(False)

    def forward(self, entity_BQD: Tensor, box_BQ4: Tensor, pyramid: PyramidTokens, hidden_BNN: Tensor | None = None) -> Tensor:
        """Return content_BSND after each layer, from the entity decoder's last contents and boxes."""
        subject_BND, object_BND = entity_BQD.chunk(2, 1)
        subject_BN4, object_BN4 = box_BQ4.detach().chunk(2, 1)
        pairs = subject_BND.shape[1]
        position_BND = subject_BND + object_BND if self.position_ND is None else self.position_ND[None, :pairs]
        x_BND = torch.zeros_like(subject_BND) if self.fuse is None else self.fuse(subject_BND, object_BND)
        if self.content_QD is not None:
            x_BND = x_BND + sum(slot_ND[:pairs] for slot_ND in self.content_QD.chunk(2))
        contents = []
        for row, layer in enumerate(self.layers):
            mean_BN4 = (subject_BN4 + object_BN4) / 2
            if self.box_position is not None:
                position_BND = self.box_position(mean_BN4, x_BND, pyramid, first=row == 0)
            x_BND = layer(x_BND, position_BND, mean_BN4, pyramid, hidden_BNN)
            contents.append(x_BND if self.norm is None else self.norm(x_BND))
            if self.subject_box is not None and self.object_box is not None:
                with torch.no_grad():
                    subject_BN4 = refine_reference(subject_BN4, self.subject_box[row](x_BND))
                    object_BN4 = refine_reference(object_BN4, self.object_box[row](x_BND))
        return torch.stack(contents, 1)
