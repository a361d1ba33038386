"""Freezing of the first stages of a Swin backbone, for detectors that start from published weights."""

from __future__ import annotations

import re

from timm.layers import DropPath
from torch import nn

from diptych.core.errors import ConfigError

_STAGE = re.compile(r"(?:^|\.)layers[._](\d+)\.(downsample\.)?")


def freeze_stages(net: nn.Module, count: int) -> None:
    """Freezes the first parts of a timm Swin inside `net` and turns off their stochastic depth.

    count  1: the patch embedding; 2: and the first stage with the merging after it; and so on; 0: nothing

    Raises ConfigError if `net` holds no Swin.
    """
    if not count:
        return
    if not any("patch_embed" in name for name, _ in net.named_modules()):
        raise ConfigError(f"frozen is {count} on a backbone without stages of Swin (expected 0)")
    for name, parameter in net.named_parameters():
        if _depth(name) <= count:
            parameter.requires_grad_(False)
    for name, module in net.named_modules():
        if isinstance(module, DropPath) and _depth(name) <= count:
            module.drop_prob = 0.0


def _depth(name: str) -> float:
    """1 for what is of the patch embedding, 2 for the first stage and so on; infinite for all else. timm counts the merging after a stage
    to the next one."""
    if "patch_embed." in name:
        return 1
    match = _STAGE.search(name)
    return float("inf") if match is None else int(match[1]) + 2 - bool(match[2])
