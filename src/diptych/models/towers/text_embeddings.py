"""Texts from token embeddings: what prompt learning puts into a text tower in place of words.

Every text tower takes embeddings [B, L, D] with a mask beside ids [B, L]. Where a tower looks for the end of a text among the ids, it
takes the last real token of embeddings; `read_mask` therefore says, for the ids that embeddings stand in for, up to where it reads.

Letters: K texts, L tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.layers.pooling import first_position
from diptych.models.towers.outputs import Tower


def token_table(tower: Tower) -> nn.Embedding:
    """The table of token embeddings of a text tower. Raises ConfigError for a tower without one."""
    table = getattr(tower, "embed", None)
    if not isinstance(table, nn.Embedding):
        raise ConfigError(f"{type(tower).__name__} has no token embeddings (expected a text tower that reads tokens)")
    return table


def read_mask(tower: Tower, ids_KL: Tensor, mask_KL: Tensor) -> Tensor:
    """The mask to give beside embeddings of these ids, so that the vector is taken where it is taken of the ids themselves.

    Only a tower that pools at an id differs from `mask_KL`: what follows that place is left out, and since it is causal nothing
    before it would have read it.
    """
    pooling = getattr(tower, "pooling", "")
    if pooling == "largest":
        end_K = ids_KL.argmax(1)
    elif pooling == "eot" and getattr(tower, "eot_id", None) is not None:
        end_K = first_position(ids_KL, int(tower.eot_id))  # type: ignore[arg-type]
    else:
        return mask_KL
    place_L = torch.arange(ids_KL.shape[1], device=ids_KL.device)
    return mask_KL & (place_L <= end_K[:, None])
