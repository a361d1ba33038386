"""Weight initialisation of DenseCLIP's pyramids and heads for training (2112.01518)."""

from __future__ import annotations

import re
from typing import Literal

from torch import nn

Start = Literal["released", "usual"]
"""As they were when DenseCLIP was trained, or as OpenMMLab and torchvision start the same parts."""

WITHIN = re.compile(r"^(neck|coarser|head\.scales|head\.(classification|regression)_head\.conv|heads\.mask_layers)\.")
"""Convolutions of OpenMMLab's `ConvModule`, which start by themselves."""


def init_as_released_(model: nn.Module) -> None:
    """Draws pyramid and heads of a segmenter or detector again, as released: nobody calls the initialisation that OpenMMLab has for them.

    Convolutions of the pyramid and those with a ReLU after them come from a normal by He's rule over what leaves them, with biases of 0;
    the first layer of the proposals, the layers of regions and the last layer of every head are as PyTorch makes them. RetinaNet's
    classes start without the prior of 0.01, therefore.
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
