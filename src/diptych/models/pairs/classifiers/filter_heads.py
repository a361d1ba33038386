"""Heads of image filters, trained on your own labels: unsafe (from embeddings) and watermarked (from pixels).

Sizes are LAION-5B's (Schuhmann et al., 2022, 2210.08402): a multi-layer perceptron on CLIP embeddings, and an EfficientNet-B3 whose
input is squashed to a square. No weights are included: users decide which images are unsafe.
Letters: B batch, D width of the embedding.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

SAFETY_WIDTHS = (1024, 2048, 1024, 256, 128, 16)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SafetyHead(nn.Module):
    """D - 1024 - 2048 - 1024 - 256 - 128 - 16 - 1; ReLU and dropout after all but the last two layers.
    Returns logits [B] for a sigmoid; the released head for ViT-H/14 compares its raw output with 0.5.
    """

    def __init__(self, width: int, *, hidden: tuple[int, ...] = SAFETY_WIDTHS, dropout: float = 0.2) -> None:
        super().__init__()
        sizes = (width, *hidden, 1)
        layers: list[nn.Module] = []
        for layer, (one, other) in enumerate(pairwise(sizes)):
            layers.append(nn.Linear(one, other))
            if layer < len(sizes) - 3:
                layers += [nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers)

    def forward(self, vector_BD: Tensor) -> Tensor:
        logit_B: Tensor = self.layers(vector_BD)[:, 0]
        return logit_B


class WatermarkNet(nn.Module):
    """timm's network, then 625 - 256 - 2 with ReLU and one dropout; class 0 is "watermark". Pixels 0..1 in, logits [B, 2] out."""

    def __init__(self, net: str = "efficientnet_b3", *, side: int = 256, dropout: float = 0.3) -> None:
        super().__init__()
        import timm

        self.side = side
        self.net = timm.create_model(net, pretrained=False, num_classes=0)
        width = int(self.net.num_features)
        self.head = nn.Sequential(
            nn.Linear(width, 625), nn.ReLU(), nn.Dropout(dropout), nn.Linear(625, 256), nn.ReLU(), nn.Linear(256, 2)
        )
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        square = nn.functional.interpolate(
            image_BCHW, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False
        )
        logit_B2: Tensor = self.head(self.net((square - self.mean) / self.std))
        return logit_B2
