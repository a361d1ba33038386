"""Weight initialisation of DenseCLIP's pyramids and heads for training (2112.01518)."""

from __future__ import annotations

import re
from typing import Literal

from torch import nn

Start = Literal["released", "usual"]
"""Initialisation of DenseCLIP's training run, or that of OpenMMLab and torchvision for the same parts."""

WITHIN = re.compile(r"^(neck|coarser|head\.scales|head\.(classification|regression)_head\.conv|heads\.mask_layers)\.")
"""Convolutions of OpenMMLab's `ConvModule`, which start by themselves."""


def init_as_released_(model: nn.Module) -> None:
    """Reinitialises pyramid and heads of a segmenter or detector as released, where OpenMMLab's own initialisation is never called.

    Convolutions of the pyramid and those with a ReLU after them use He's normal initialisation by fan-out, with biases of 0;
    the first layer of the proposals, the layers of regions and the last layer of every head have PyTorch's defaults. RetinaNet's
    classes therefore start without the prior of 0.01.
    """
    for name, module in model.named_modules():
        if name.startswith(("tap.", "guide.")) or not isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            continue
        if not WITHIN.search(name):
            module.reset_parameters()
            continue
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
