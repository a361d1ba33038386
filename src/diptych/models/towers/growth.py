"""Grow a transformer in place from its trained weights: depth, and width of its MLPs.

A new block is a mixture, parameter inheriting with momentum (GrowCLIP, 2308.11331): beta times a copy of the nearest block plus
(1 - beta) times fresh weights. beta 1 is a pure copy of the neighbouring block; beta 0 a block from scratch. With
`identity`, the two layers of a block that write to the residual stream are initialised to zero: the function of the network is
then preserved, to the last bit but one, for any beta. (Zeros in *both* layers of a branch would stop its gradient,
so only the output layer is zero.)

A wider MLP keeps its old units; the input weights of new ones are a mixture of copied and fresh weights,
their output weights are zero, so this is always function-preserving. The residual stream does not grow,
since the statistics of its norms would change.

Letters: L layers, M units of an MLP, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.layers.frozen_modules import mix_
from diptych.models.layers.transformer import Block, Transformer

Grown = dict[nn.Parameter, nn.Parameter]
"""New parameter -> the one that it extends, for the optimiser state."""


@dataclass(frozen=True, slots=True)
class GrowthInit:
    """Initialisation of added layers and units.

    beta      0 (all fresh) to 1 (all copied)
    identity  a new block starts as the identity
    """

    beta: float = 0.9
    identity: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ConfigError(f"beta is {self.beta} (expected 0, all fresh, to 1, all copied)")


def deepen(blocks: nn.ModuleList, layers: int, inherit: GrowthInit, *, like: Block | None = None) -> None:
    """Grow a stack of blocks to `layers`. New blocks follow the block that they copy, spread evenly; an empty stack copies
    `like`. Fresh weights come from the current torch random state.
    """
    old = [_block(block) for block in blocks]
    if layers < len(old):
        raise ConfigError(f"a stack of {len(old)} blocks cannot grow to {layers}")
    source = [(j * len(old)) // layers for j in range(layers)] if old else [-1] * layers
    grown: list[Block] = []
    for index, number in enumerate(source):
        if old and (index == 0 or source[index - 1] != number):
            grown.append(old[number])
            continue
        model = old[number] if old else like
        if model is None:
            raise ConfigError("an empty stack of blocks needs a block to copy the sizes from")
        grown.append(_new_block(model, layers, inherit))
    del blocks[:]
    blocks.extend(grown)


@torch.no_grad()
def _new_block(model: Block, layers: int, inherit: GrowthInit) -> Block:
    width, hidden = model.mlp_in.in_features, model.mlp_in.out_features
    ratio, act, eps = hidden / width, model.act_name, model.norm_1.eps
    # Build a whole stack of that depth and keep one block, so that its weights have the right scale.
    fresh = Transformer(width, layers, model.attention.heads, mlp_ratio=ratio, act=act, eps=eps)
    block = _block(fresh.blocks[0]).to(model.mlp_in.weight)
    mix_(block, 1 - inherit.beta, (inherit.beta, model))
    if inherit.identity:
        for layer in (block.attention.out, block.mlp_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    return block


@torch.no_grad()
def widen(blocks: nn.ModuleList, hidden: int, inherit: GrowthInit) -> Grown:
    """Grow the MLP of every block to `hidden` units."""
    grown: Grown = {}
    for block in map(_block, blocks):
        old_in, old_out = block.mlp_in, block.mlp_out
        had, width = old_in.out_features, old_in.in_features
        if hidden < had:
            raise ConfigError(f"an MLP of {had} units cannot grow to {hidden}")
        if hidden == had:
            continue
        copied = torch.arange(had, hidden) % had
        block.mlp_in = nn.Linear(width, hidden).to(old_in.weight)
        block.mlp_out = nn.Linear(hidden, width).to(old_out.weight)
        fresh_MD = torch.randn(hidden - had, width).to(old_in.weight) * (2 * width) ** -0.5
        new_MD = torch.lerp(fresh_MD, old_in.weight[copied], inherit.beta)
        block.mlp_in.weight.copy_(torch.cat([old_in.weight, new_MD]))
        block.mlp_in.bias.copy_(torch.cat([old_in.bias, inherit.beta * old_in.bias[copied]]))
        block.mlp_out.weight.copy_(_with_zeros(old_out.weight, hidden))
        block.mlp_out.bias.copy_(old_out.bias)
        for name in ("weight", "bias"):
            for new, old in ((block.mlp_in, old_in), (block.mlp_out, old_out)):
                grown[getattr(new, name)] = getattr(old, name)
    return grown


def _with_zeros(weight_DM: Tensor, hidden: int) -> Tensor:
    return torch.cat([weight_DM, weight_DM.new_zeros(len(weight_DM), hidden - weight_DM.shape[1])], 1)


def _block(module: nn.Module) -> Block:
    if not isinstance(module, Block):
        raise ConfigError(f"{type(module).__name__} cannot grow (expected the blocks of our own vision and text transformers)")
    return module


@dataclass(frozen=True, slots=True, order=True)
class TowerSizes:
    """Sizes that can grow. MLP widths are multiples of the tower's width."""

    image_layers: int
    text_layers: int
    shared_layers: int
    image_mlp: int
    text_mlp: int

    def within(self, other: TowerSizes) -> bool:
        """Return True if no size is larger than that of `other`."""
        return all(getattr(self, name) <= getattr(other, name) for name in self.__slots__)

    def plus(self, **more: int) -> TowerSizes:
        return replace(self, **{name: getattr(self, name) + value for name, value in more.items()})
