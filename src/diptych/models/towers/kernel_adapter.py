"""Low-rank adapters of convolutions in loralib's layout, whose rank is a multiple of the kernel size.

    W [E, D, k, k] + (alpha / r) (B A).view(E, D, k, k)        A [r k, D k] random, B [E k, r k] zero

`peft` instead has a convolution A with r outputs and a matrix B [E, r].
The two differ in capacity: for 32 x 32 patches at rank 4, loralib's has 3.2 million parameters, `peft`'s 15 thousand. Letters: E
outputs, D inputs, k the side, r the rank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError


class KernelAdapter(nn.Module):
    """Convolution with a frozen kernel and an adapter in loralib's layout (Hu et al., 2021, 2106.09685),
    without dropout, as there.

    base   a convolution with a square kernel and one group, which is frozen
    alpha  the update is scaled by alpha / rank
    """

    def __init__(self, base: nn.Conv2d, rank: int, alpha: float) -> None:
        side, other = base.kernel_size
        if side != other or base.groups != 1 or base.padding_mode != "zeros":
            raise ConfigError(
                f"--lora-kernel: a convolution has kernels of {side} x {other}, {base.groups} groups and {base.padding_mode} around "
                "(expected square kernels, one group and zeros)"
            )
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.scaling = alpha / rank
        like = base.weight
        self.lora_A = nn.Parameter(like.new_empty(rank * side, base.in_channels * side))
        self.lora_B = nn.Parameter(like.new_zeros(base.out_channels * side, rank * side))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Rows and columns of the kernel, by the attribute name of convolutions."""
        return self.base_layer.kernel_size

    def kernel(self) -> Tensor:
        """Return the kernel plus the update of the adapter, [E, D, k, k]."""
        weight = self.base_layer.weight
        return weight + (self.lora_B @ self.lora_A).view(weight.shape) * self.scaling

    def forward(self, x_BDHW: Tensor) -> Tensor:
        base = self.base_layer
        convolved: Tensor = nn.functional.conv2d(
            x_BDHW, self.kernel(), base.bias, base.stride, base.padding, base.dilation, base.groups
        )
        return convolved

    @torch.no_grad()
    def merge(self) -> nn.Conv2d:
        """Return the convolution with the adapter merged into its kernel."""
        self.base_layer.weight.copy_(self.kernel())
        return self.base_layer
