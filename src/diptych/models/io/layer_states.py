"""Hidden states of a language model's layers, split into those of image tokens and those of the text tokens after them.

Letters: B batch, L positions, D width, E the layers that were asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.core.contracts import LayerStates


def split_layer_states(state_EBLD: Tensor, slot_BL: Tensor, mask_BL: Tensor) -> list[LayerStates]:
    """For each row the hidden states of its image tokens, and those of all tokens after the last of them except padding."""
    place_L = torch.arange(slot_BL.shape[1], device=slot_BL.device)
    last_B1 = torch.where(slot_BL, place_L, -1).amax(1, keepdim=True)
    behind_BL = mask_BL & (place_L > last_B1)
    rows = zip(state_EBLD.float().cpu().unbind(1), slot_BL.cpu(), behind_BL.cpu(), strict=True)
    return [LayerStates(state_ELD[:, slot_L].numpy(), state_ELD[:, behind_L].numpy()) for state_ELD, slot_L, behind_L in rows]
