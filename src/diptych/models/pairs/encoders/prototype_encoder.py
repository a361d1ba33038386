"""Dual encoder with a projection head per tower, and cluster prototypes of the current episode (ProtoCLIP, 2206.10996).

Letters: B batch, N items, C channel, H W, L tokens, E rows of an episode, K clusters, D width of a head.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from diptych.core.rows import Embeddings, Rows
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.outputs import PairFeatures, Tower

Kind = Literal["image", "text", "teacher"]
KINDS: tuple[Kind, ...] = ("image", "text", "teacher")
"""Features that the clusters of an episode are computed from."""


@dataclass(frozen=True, slots=True)
class EpisodePrototypes:
    """Cluster means and centroids of an episode, the same for all rows and without gradient; kinds in the order of KINDS.

    image_3KD, text_3KD  means of image and of text features over the clusters of each kind
    centroid_3KD         the clusters' own centroids (zeros for the teacher's, whose targets are one-hot)
    filled_3K            False where a cluster is empty

    `means("image", over="text")` are the keys of image queries, `centroids("text")` the source of their targets.
    """

    image_3KD: Tensor
    text_3KD: Tensor
    centroid_3KD: Tensor
    filled_3K: Tensor

    def means(self, features: Literal["image", "text"], *, over: Kind) -> Tensor:
        """Return prototype_KD: the means of these features over the clusters of the kind `over`."""
        return (self.image_3KD if features == "image" else self.text_3KD)[KINDS.index(over)]

    def centroids(self, kind: Kind) -> Tensor:
        """Return centroid_KD of the clusters of this kind."""
        return self.centroid_3KD[KINDS.index(kind)]

    def filled(self, kind: Kind) -> Tensor:
        """Return filled_K of the clusters of this kind."""
        return self.filled_3K[KINDS.index(kind)]


@dataclass(frozen=True, kw_only=True, slots=True)
class PrototypePairs(PairFeatures):
    """`PairFeatures`, and the outputs of the heads.

    head_image_ND, head_text_ND  unit-norm
    head_scale                   [1], a temperature of its own
    label_N3                     the row's cluster of each kind, -1 if the row is not in the episode
    """

    head_image_ND: Embeddings[Tensor]
    head_text_ND: Embeddings[Tensor]
    head_scale: Tensor
    label_N3: Rows[Tensor]
    prototypes: EpisodePrototypes

    def labels(self, kind: Kind) -> Tensor:
        """Return label_N: each row's cluster of this kind, -1 if unknown."""
        return self.label_N3[:, KINDS.index(kind)]


class ProjectionHead(nn.Sequential):
    """Linear, batch norm, ReLU, linear."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out))


class EpisodeMemory(nn.Module):
    """Labels of the rows of an episode and prototypes of its clusters, as buffers, so they are in checkpoints.

    A row is identified by its own number, not its position, so that it does not matter which process has it.
    """

    row_E: Tensor
    label_E3: Tensor
    image_3KD: Tensor
    text_3KD: Tensor
    centroid_3KD: Tensor
    filled_3K: Tensor

    def __init__(self, rows: int, clusters: int, width: int) -> None:
        super().__init__()
        self.register_buffer("row_E", torch.full((rows,), -1, dtype=torch.int64))
        self.register_buffer("label_E3", torch.full((rows, 3), -1, dtype=torch.int64))
        for name in ("image_3KD", "text_3KD", "centroid_3KD"):
            self.register_buffer(name, torch.zeros(3, clusters, width))
        self.register_buffer("filled_3K", torch.zeros(3, clusters, dtype=torch.bool))

    def prototypes(self) -> EpisodePrototypes:
        return EpisodePrototypes(
            *(tensor.clone() for tensor in (self.image_3KD, self.text_3KD, self.centroid_3KD, self.filled_3K))
        )

    def labels(self, row_N: Tensor) -> Tensor:
        """Return label_N3 of these rows; -1 for a row that is not in this episode."""
        place_N = torch.searchsorted(self.row_E, row_N).clamp_max(len(self.row_E) - 1)
        known_N1 = (self.row_E[place_N] == row_N)[:, None]
        return torch.where(known_N1, self.label_E3[place_N], -1)

    @torch.no_grad()
    def store_(self, row_N: Tensor, label_N3: Tensor, prototypes: EpisodePrototypes) -> None:
        """Replace the last episode. At most E rows; other entries are empty."""
        order_N = row_N.argsort()
        free = len(self.row_E) - len(row_N)  # at the front: -1 sorts before every row
        self.row_E.fill_(-1)
        self.label_E3.fill_(-1)
        self.row_E[free:], self.label_E3[free:] = row_N[order_N], label_N3[order_N]
        for name in ("image_3KD", "text_3KD", "centroid_3KD", "filled_3K"):
            getattr(self, name).copy_(getattr(prototypes, name))


class PrototypeEncoder(nn.Module):
    """`DualEncoder` with heads on its projected vectors before normalisation.

    The text head is initialised as a copy of the image head, as published, so that prototypes of both start in one space.
    """

    def __init__(
        self, image_tower: Tower, text_tower: Tower, *, width: int, hidden: int, head_width: int, rows: int, clusters: int
    ) -> None:
        super().__init__()
        self.encoder = DualEncoder(image_tower, text_tower, width=width)
        self.image_head = ProjectionHead(width, hidden, head_width)
        self.text_head = copy.deepcopy(self.image_head)
        self.log_head_scale = nn.Parameter(torch.full((1,), math.log(1 / 0.07)))
        self.episode = EpisodeMemory(rows, clusters, head_width)

    def forward(self, image_BCHW: Tensor, text_BL: Tensor, text_mask_BL: Tensor, row_B: Tensor) -> PrototypePairs:
        encoder = self.encoder
        image_ND = encoder.image_projection(encoder.image_tower(image_BCHW).pooled_BD)
        text_ND = encoder.text_projection(encoder.text_tower(text_BL, text_mask_BL).pooled_BD)
        return PrototypePairs(
            image_ND=l2_normalise(image_ND),
            text_ND=l2_normalise(text_ND),
            scale=encoder.log_scale.exp(),
            head_image_ND=l2_normalise(self.image_head(image_ND)),
            head_text_ND=l2_normalise(self.text_head(text_ND)),
            head_scale=self.log_head_scale.exp(),
            label_N3=self.episode.labels(row_B),
            prototypes=self.episode.prototypes(),
        )

    @torch.no_grad()
    def clamp_head_scale_(self) -> None:
        """Keep the heads' temperature in [1, max_scale]."""
        self.log_head_scale.clamp_(0.0, math.log(self.encoder.max_scale))
