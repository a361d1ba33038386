"""GroupViT's training additions to transformers' model: weight initialisation and stochastic depth (2202.11094).

Letters: B batch, L positions, D width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

DEVIATION = 0.02


def init_groupvit_(net: nn.Module) -> None:
    """Initialise a `GroupViTVisionModel` as in the authors' code.

    Linear layers, positions and the first stage's group tokens are normal with deviation 0.02 (truncated at 2, as in timm).
    Biases are zero, and so are group tokens to which a projection of the previous stage's is added.
    The patch embedding keeps PyTorch's initialisation. transformers initialises positions and all group tokens with zero, so that
    the tokens of the first stage remain equal.
    """
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=DEVIATION)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            module.reset_parameters()
        elif isinstance(token := getattr(module, "group_token", None), nn.Parameter) and not getattr(
            module, "group_projector", None
        ):
            nn.init.trunc_normal_(token, std=DEVIATION)
        elif isinstance(positions := getattr(module, "position_embeddings", None), nn.Parameter):
            nn.init.trunc_normal_(positions, std=DEVIATION)


def drop_paths(net: Any, highest: float) -> None:
    """Add stochastic depth: in training a block's attention, and its MLP,
    is dropped for some images and scaled up for the others.

    The drop rate rises linearly over the blocks of all stages, from 0 to `highest`. Names of weights do not change.
    """
    blocks = [block for stage in net.vision_model.encoder.stages for block in stage.layers]
    for block, rate in zip(blocks, torch.linspace(0, highest, len(blocks), device="cpu").tolist(), strict=True):
        for branch in (block.self_attn, block.mlp) if rate > 0 else ():
            branch.register_forward_hook(partial(_left_out, rate))


def _left_out(rate: float, branch: nn.Module, inputs: Any, answer: Any) -> Any:
    if not branch.training:
        return answer
    whole_BLD: Tensor = answer[0] if isinstance(answer, tuple) else answer
    keep = 1 - rate
    kept_B11 = (keep + torch.rand(len(whole_BLD), 1, 1, dtype=whole_BLD.dtype, device=whole_BLD.device)).floor()
    left_BLD = whole_BLD / keep * kept_B11
    return (left_BLD, *answer[1:]) if isinstance(answer, tuple) else left_BLD
