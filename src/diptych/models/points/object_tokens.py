"""Tokens of a language model for the objects of a room: Chat-3D v2's attribute and relation tokens, Chat-Scene's projections.

Letters: B rooms, M objects, F features of an object, A width of an attribute, D width of the language model, H heads, E width of
a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError

TokenKind = Literal["attributes", "projection"]
HEADS, HEAD_WIDTH = 8, 64
"""Width of the relation layer, as released, regardless of the width of the language model."""


@dataclass(frozen=True)
class ObjectTokenSettings:
    """Tokens of a thing.

    kind           "attributes": an MLP on features, size and colour, scaled to a set norm (Chat-3D v2.0); "projection":
                   Linear, GELU, Linear on unit-norm features (Chat-3D v2.1, Chat-Scene)
    relation       a second token from an attention layer over the objects of the room ("attributes")
    feature_width  of the features of an object (Uni3D: 1,024)
    image_width    of an object's features from images, a second token with "projection" (Chat-Scene: DINOv2's 1,024); 0 for none
    attribute_width  of size and colour each
    token_norm, relation_norm  norms of both tokens; 0 takes the mean norm of the language model's own embeddings
    position_share  weight of an object's projected centre in the input of the relation layer
    token_dropout  within the MLP, and in the relation layer
    """

    kind: TokenKind = "attributes"
    relation: bool = True
    feature_width: int = 1024
    image_width: int = 0
    attribute_width: int = 512
    token_norm: float = 200.0
    relation_norm: float = 50.0
    position_share: float = 0.1
    token_dropout: float = 0.1

    def __post_init__(self) -> None:
        projected = self.kind == "projection"
        if self.kind not in get_args(TokenKind) or (self.relation if projected else self.image_width):
            raise ConfigError(
                f"kind {self.kind!r}, relation {self.relation}, image_width {self.image_width} (expected attributes | projection, a "
                "relation token with attributes, and an image token with projection)"
            )

    @property
    def count(self) -> int:
        """Tokens of a thing."""
        return 1 + self.relation + (self.image_width > 0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        return cls(**plain)


class RelationLayer(nn.Module):
    """Attention layer x + attention(LN(x)) over the objects of a room, with missing objects masked.

    It has no feed-forward part and no distances between objects, like the released run.
    """

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        inner = HEADS * HEAD_WIDTH
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, inner) for _ in range(3))
        self.out, self.dropout = nn.Linear(inner, width), nn.Dropout(dropout)
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)

    def forward(self, x_BMD: Tensor, open_BM: Tensor) -> Tensor:
        normed_BMD = self.norm(x_BMD)
        query, key, value = (
            layer(normed_BMD).unflatten(-1, (HEADS, HEAD_WIDTH)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        logit_BHMM = query @ key.transpose(-2, -1) * HEAD_WIDTH**-0.5
        weight_BHMM = logit_BHMM.masked_fill(~open_BM[:, None, None], -torch.inf).softmax(-1)
        read_BMD = self.dropout(self.dropout(self.out((weight_BHMM @ value).transpose(1, 2).flatten(2))))
        mixed_BMD: Tensor = x_BMD + read_BMD
        return mixed_BMD


class ObjectTokens(nn.Module):
    """Tokens [B, M, count, D] of the objects of rooms. `norm`: the mean norm of the language model's embeddings."""

    def __init__(self, settings: ObjectTokenSettings, width: int, norm: float = 1.0) -> None:
        super().__init__()
        self.settings, attribute = settings, settings.attribute_width
        self.token_norm, self.relation_norm = settings.token_norm or norm, settings.relation_norm or norm
        if settings.kind == "projection":
            self.project = nn.Sequential(nn.Linear(settings.feature_width, width), nn.GELU(), nn.Linear(width, width))
            if settings.image_width:
                self.project_image = nn.Sequential(nn.Linear(settings.image_width, width), nn.GELU(), nn.Linear(width, width))
            return
        self.size, self.colour = nn.Linear(3, attribute), nn.Linear(3, attribute)
        self.project = nn.Sequential(
            nn.Linear(settings.feature_width + 2 * attribute, width),
            nn.GELU(),
            nn.Dropout(settings.token_dropout),
            nn.LayerNorm(width),
            nn.Linear(width, width),
        )
        if settings.relation:
            self.centre = nn.Linear(3, width)
            self.relate = RelationLayer(width, settings.token_dropout)

    def attributes(self, feature_BMF: Tensor, box_BM6: Tensor, colour_BM3: Tensor) -> Tensor:
        """Return [B, M, D], before the norm is set."""
        if self.settings.kind == "projection":
            projected: Tensor = self.project(F.normalize(feature_BMF[..., : self.settings.feature_width], dim=-1))
            return projected
        parts = [feature_BMF, self.size(box_BM6[..., 3:]), self.colour(colour_BM3)]
        attribute_BMD: Tensor = self.project(torch.cat(parts, -1))
        return attribute_BMD

    def forward(self, feature_BMF: Tensor, box_BM6: Tensor, colour_BM3: Tensor, open_BM: Tensor) -> Tensor:
        """feature_BMF  of objects, with those from images behind them; box_BM6: centres and extents in metres; colour_BM3:
        mean colour in 0..1; open_BM: True for real ones.

        The relation token is what the layer adds to an object's attributes; no gradient from it reaches the attributes.
        """
        attribute_BMD = self.attributes(feature_BMF, box_BM6, colour_BM3)
        if self.settings.kind == "projection":
            if not self.settings.image_width:
                return attribute_BMD[:, :, None]
            image_BMD = self.project_image(F.normalize(feature_BMF[..., self.settings.feature_width :], dim=-1))
            return torch.stack([attribute_BMD, image_BMD], 2)
        tokens = [F.normalize(attribute_BMD, dim=-1) * self.token_norm]
        if self.settings.relation:
            still_BMD = attribute_BMD.detach()
            mixed_BMD = self.relate(still_BMD + self.settings.position_share * self.centre(box_BM6[..., :3]), open_BM)
            tokens.append(F.normalize(mixed_BMD - still_BMD, dim=-1) * self.relation_norm)
        return torch.stack(tokens, 2)
