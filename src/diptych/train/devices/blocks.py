"""Stacks of equal blocks in a model: compilation and activation checkpointing. Names and tensors do not change."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakSet

from torch import nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from diptych.train.options import TrainOptions

_DONE: WeakSet[nn.Module] = WeakSet()
"""Blocks that have their options: a model that changes its structure is taken over again, with the blocks that it keeps."""


def stacked_blocks(model: nn.Module) -> Iterator[list[nn.Module]]:
    """Each stack of two or more blocks of one kind that hold further modules, such as the layers of a transformer. A stack of which a
    block holds another stack (the stages of a Swin transformer) is left out: its blocks are too large, and often called in parts."""
    stacks = []
    for stack in model.modules():
        blocks = list(stack.children()) if isinstance(stack, nn.ModuleList | nn.Sequential) else []
        if len(blocks) > 1 and len({type(block) for block in blocks}) == 1 and any(True for _ in blocks[0].children()):
            stacks.append(blocks)
    stacked = {block for blocks in stacks for block in blocks}
    for blocks in stacks:
        inside = {part for block in blocks for part in block.modules()} - set(blocks)
        if inside.isdisjoint(stacked):
            yield blocks


def with_block_options(model: nn.Module, options: TrainOptions) -> nn.Module:
    """The same model, its blocks compiled (`options.compile`) and every this many of a stack without kept activations
    (`options.checkpoint_layers`). Gradients are the same; the activations of a block take memory only while it is at work."""
    every = options.checkpoint_layers
    for blocks in stacked_blocks(model) if every or options.compile else ():
        for number, block in enumerate(blocks):
            if block in _DONE:
                continue
            _DONE.add(block)
            if every and number % every == every - 1:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
            if options.compile:
                block.compile()
    return model
