"""Interface of towers, and outputs of towers and dual encoders.  Letters: B batch, N items, P patches or words, D width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from diptych.core.rows import Embeddings


@dataclass(frozen=True, slots=True)
class TowerOutput:
    """One tower's answer.

    tokens_BPD  a vector per patch or word, after the last norm; a class token is not among them
    mask_BP     bool, True where the token is real and not padding
    pooled_BD   the whole input as one vector, not projected and not normalised
    """

    tokens_BPD: Tensor
    mask_BP: Tensor
    pooled_BD: Tensor


@dataclass(frozen=True, slots=True)
class PairFeatures:
    """Inputs of a dual encoder's losses: unit-norm features, and the learned scalars as they multiply and shift logits.

    scale  [1], exp(log_scale), so about 14.3 at the published start and at most 100
    bias   [1], or None for models that have none
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
"""Into the joint space: as the dual encoder says, not at all, by a matrix, by a matrix with a bias."""


class Tower(nn.Module):
    """A module that turns images, or texts with their mask, into `TowerOutput`.

    width     of the pooled vector
    projects  the pooled vector already lies in the joint space: a dual encoder projects it no further
    projection  of a tower that comes with weights: how they lead its vector into the joint space, whatever the dual encoder asks for
    spec      what `image_tower` or `text_tower` was called with: a name and every argument, plain JSON values. Calling it again with
              them builds the same architecture, which is how saved models come back.
    """

    projects: bool = False
    projection: Projection = ""
    width: int
    spec: dict[str, Any]

    @property
    def token_width(self) -> int:
        """Of a token; as the pooled vector's where a tower does not say otherwise."""
        return self.width
