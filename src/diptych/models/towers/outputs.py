"""Interface of towers, and outputs of towers and dual encoders.  Letters: B batch, N items, P patches or words, D width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from diptych.core.rows import Embeddings


@dataclass(frozen=True, slots=True)
class TowerOutput:
    """Output of a tower.

    tokens_BPD  a vector per patch or word, after the final norm, without a class token
    mask_BP     bool, True where the token is real and not padding
    pooled_BD   the whole input as one vector, not projected and not normalised
    """

    tokens_BPD: Tensor
    mask_BP: Tensor
    pooled_BD: Tensor


@dataclass(frozen=True, slots=True)
class PairFeatures:
    """Inputs of a dual encoder's losses: unit-norm features, and the learned scale and bias of the logits.

    scale  [1], exp(log_scale), so about 14.3 at the published start and at most 100
    bias   [1], or None for models without one
    """

    image_ND: Embeddings[Tensor]
    text_ND: Embeddings[Tensor]
    scale: Tensor
    bias: Tensor | None = None


def all_or_none(*features: Tensor | None) -> tuple[Tensor, ...]:
    """Features that a model returns together or not at all: all of them, or an empty tuple."""
    given = tuple(tensor for tensor in features if tensor is not None)
    return given if len(given) == len(features) else ()


Projection = Literal["", "none", "plain", "bias"]
"""Projection into the joint space: as set by the dual encoder, none, a matrix, or a matrix with a bias."""


class Tower(nn.Module):
    """Interface of an image or text encoder that returns `TowerOutput`.

    width     of the pooled vector
    projects  the pooled vector is already in the joint space: a dual encoder adds no projection
    projection  for a tower with pretrained weights: the kind of their projection, which overrides that of the dual encoder
    spec      arguments of the call of `image_tower` or `text_tower`: a name and every argument, as plain JSON values.
              The same call rebuilds the architecture when a saved model is loaded.
    """

    projects: bool = False
    projection: Projection = ""
    width: int
    spec: dict[str, Any]

    @property
    def token_width(self) -> int:
        """Width of a token; by default that of the pooled vector."""
        return self.width
