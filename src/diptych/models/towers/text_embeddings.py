"""Encode texts from token embeddings, for prompt learning.

Every text tower accepts embeddings [B, L, D] with a mask, or ids [B, L].
A tower that finds the end of a text among the ids uses the last real token of embeddings; `read_mask` therefore returns, for the
ids that embeddings replace, the mask up to that end.

Letters: K texts, L tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.layers.pooling import first_position
from diptych.models.towers.outputs import Tower


def token_table(tower: Tower) -> nn.Embedding:
    """Return the table of token embeddings of a text tower. Raises ConfigError for a tower without one."""
    table = getattr(tower, "embed", None)
    if not isinstance(table, nn.Embedding):
        raise ConfigError(f"{type(tower).__name__} has no token embeddings (expected a text tower that reads tokens)")
    return table


def read_mask(tower: Tower, ids_KL: Tensor, mask_KL: Tensor) -> Tensor:
    """Return the mask for embeddings of these ids, such that pooling uses the same position as for the ids.

    It differs from `mask_KL` only for a tower that pools at an id: later tokens are masked; since the tower is causal,
    no earlier token would have attended to them.
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
