"""Weight initialisations that differ between published codes."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Start = Literal["clip", "spread", "torch", "xavier", "narrow"]
"""Initialisation of a transformer's blocks.

clip    normal: attention input width^-1/2, first MLP layer (2 width)^-1/2, both layers that write to the residual stream
        width^-1/2 (2 layers)^-1/2, so that its variance does not grow with depth; biases zero (CLIP's text tower, 2103.00020)
spread  the same with the MLP's biases uniform within 1 / sqrt(fan in), as by PyTorch's default, which CLIP's released code keeps
torch   PyTorch's default: attention input Xavier-uniform over all three parts at once, the other layers uniform within
        1 / sqrt(fan in); the attention's biases zero (CLIP's image tower, which its code does not initialise, and open_clip's)
xavier  every layer Xavier-uniform, each part of the attention input separately; the attention's biases zero,
        the MLP's normal with deviation 1e-6 (big_vision: SigLIP, 2303.15343; the text tower of TIPS, 2410.16512)
narrow  normal with deviation 0.02, truncated at 2, biases zero (timm's and ALBEF's vision transformers)
"""


@torch.no_grad()
def init_block_(start: Start, qkv: nn.Linear, out: nn.Linear, mlp_in: nn.Linear, mlp_out: nn.Linear, *, layers: int) -> None:
    """Initialise the four linear layers of one block of a stack of `layers`."""
    maps, width = (qkv, out, mlp_in, mlp_out), qkv.in_features
    if start == "torch":
        nn.init.xavier_uniform_(qkv.weight)
        for layer in (out, mlp_in, mlp_out):
            layer.reset_parameters()
        for layer in (qkv, out):
            nn.init.zeros_(layer.bias)
    elif start == "xavier":
        for weight in (*qkv.weight.chunk(3), out.weight, mlp_in.weight, mlp_out.weight):
            nn.init.xavier_uniform_(weight)
        for layer in (qkv, out):
            nn.init.zeros_(layer.bias)
        for layer in (mlp_in, mlp_out):
            nn.init.normal_(layer.bias, std=1e-6)
    elif start == "narrow":
        for layer in maps:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    else:
        into_residual = width**-0.5 * (2 * max(layers, 1)) ** -0.5
        for layer, std in zip(maps, (width**-0.5, into_residual, (2 * width) ** -0.5, into_residual), strict=True):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        for layer in (mlp_in, mlp_out) if start == "spread" else ():
            nn.init.uniform_(layer.bias, -(layer.in_features**-0.5), layer.in_features**-0.5)


@torch.no_grad()
def lecun_normal_(weight: Tensor) -> Tensor:
    """Initialise from a truncated normal with variance 1 / fan in: flax's default for linear layers and convolutions.

    The normal is truncated at two of its deviations and widened such that the result has this variance. `weight` is [out, in,
    ...].
    """
    std = math.sqrt(1 / weight[0].numel()) / 0.87962566103423978
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
