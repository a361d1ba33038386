"""Local tokens of reference pictures: dense CLIP features averaged in the boxes of a grid, as RelationBooth's release adds them.

Letters: B pictures, C channel, H W pixels, h w patches, G boxes, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align


def local_tokens(vision: Any, image_BCHW: Tensor, grid: int = 4, *, first_only: bool = False) -> Tensor:
    """Features [B, G, D] in the G = grid * grid boxes of each picture, column by column.

    vision      transformers' `CLIPVisionModelWithProjection`; its positions are interpolated to the size of the pictures
    first_only  as released, whose boxes all lie in the first picture: the others get its features
    """
    map_BDhw = dense_features(vision, image_BCHW)
    box_G4 = grid_boxes(grid).to(map_BDhw)
    height, width = map_BDhw.shape[-2:]
    corner_G4 = box_G4 * box_G4.new_tensor([width, height, width, height])
    pooled = roi_align(
        map_BDhw[:1] if first_only else map_BDhw, [corner_G4] * (1 if first_only else len(map_BDhw)), 1, aligned=True
    )
    token_BGD: Tensor = pooled.flatten(1).unflatten(0, (-1, grid * grid))
    return token_BGD.expand(len(map_BDhw), -1, -1)


def dense_features(vision: Any, image_BCHW: Tensor) -> Tensor:
    """Unit vectors [B, D, h, w] of the patches, before the projection. In the last layer each token takes its own value in the place of
    attention (CLIPSelf, 2310.01403)."""
    state = vision(image_BCHW, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states[-2]
    network = vision.vision_model
    last = network.encoder.layers[-1]
    state = state + last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(state)))
    state = state + last.mlp(last.layer_norm2(state))
    patch_BPD = functional.normalize(network.post_layernorm(state[:, 1:]), dim=-1)
    side = network.embeddings.patch_size
    map_BDhw: Tensor = patch_BPD.transpose(1, 2).unflatten(2, (image_BCHW.shape[-2] // side, image_BCHW.shape[-1] // side))
    return map_BDhw


def grid_boxes(count: int) -> Tensor:
    """Boxes [G, 4] of a grid as shares of the sides, x0 y0 x1 y1; the column changes slowest."""
    start = torch.arange(count) / count
    x_G, y_G = (part.flatten() for part in torch.meshgrid(start, start, indexing="ij"))
    return torch.stack([x_G, y_G, x_G + 1 / count, y_G + 1 / count], 1)
