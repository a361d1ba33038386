"""Encoders that slots are compared with: a vector (VAE), and convolutions that learn with the policy.

Letters: B batch, C channels, D width, M modules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.slots.initialised import convolution, rectified

GRID = 4
"""Side of the map that a VAE's vector is read from."""


@dataclass(frozen=True, slots=True)
class VectorOutput:
    """The picture again, mean and log variance of the vector."""

    image_BCHW: Tensor
    mean_BD: Tensor
    log_variance_BD: Tensor


class VectorAutoencoder(nn.Module):
    """A variational autoencoder: convolutions down to a map of 4 x 4, a vector, and back (OCR-RL's)."""

    def __init__(self, size: int, *, width: int = 256, channels: int = 3) -> None:
        super().__init__()
        halvings = int(math.log2(size // GRID))
        if GRID * 2**halvings != size:
            raise ConfigError(f"size is {size} (expected 4 times a power of two)")
        down: list[nn.Module] = []
        up: list[nn.Module] = [rectified(64, 64, 1)]
        for number in range(halvings):
            down += [rectified(channels if not number else 64, 64, 2, stride=2), *(rectified(64, 64, 1) for _ in range(3))]
            up += [rectified(64, 64, 3, padding=1), rectified(64, 64, 1), rectified(64, 64, 1), rectified(64, 256, 1)]
            up.append(nn.PixelShuffle(2))
        self.encoder = nn.Sequential(*down, convolution(64, 64, 1))
        self.decoder = nn.Sequential(*up, convolution(64, channels, 1))
        self.mean, self.log_variance = (nn.Linear(64 * GRID * GRID, width) for _ in range(2))
        self.spread = nn.Linear(width, 64 * GRID * GRID)

    def grid(self, image_BCHW: Tensor) -> Tensor:
        """[B, 64, 4, 4]: the map before the vector."""
        map_BDhw: Tensor = self.encoder(image_BCHW)
        return map_BDhw

    def forward(self, image_BCHW: Tensor, noise_BD: Tensor | None = None) -> VectorOutput:
        read_BD = self.grid(image_BCHW).flatten(1)
        mean_BD, log_variance_BD = self.mean(read_BD), self.log_variance(read_BD)
        noise_BD = torch.randn_like(mean_BD) if noise_BD is None else noise_BD
        drawn_BD = mean_BD + (0.5 * log_variance_BD).exp() * noise_BD
        return VectorOutput(self.decoder(self.spread(drawn_BD).unflatten(1, (64, GRID, GRID))), mean_BD, log_variance_BD)


def vector_kl(mean_BD: Tensor, log_variance_BD: Tensor) -> Tensor:
    """[B]: KL of each vector to the standard normal, in nats."""
    return -0.5 * (1 + log_variance_BD - mean_BD.square() - log_variance_BD.exp()).sum(1)


class NatureCNN(nn.Module):
    """The convolutions of DQN (Mnih et al., 2015), as a vector or as a map that learns with the policy. grid: [B, places, 64]."""

    def __init__(self, size: int, *, width: int = 512, channels: int = 3, grid: bool = False) -> None:
        super().__init__()
        self.grid = grid
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()
        )
        side = ((size - 8) // 4 - 3) // 2 - 1
        if side < 1:
            raise ConfigError(f"size is {size} (expected 36 or more)")
        if not grid:
            self.linear = nn.Sequential(nn.Linear(64 * side * side, width), nn.ReLU())

    def forward(self, image_BCHW: Tensor) -> Tensor:
        map_BDhw = self.convolutions(image_BCHW)
        made: Tensor = map_BDhw.flatten(2).transpose(1, 2) if self.grid else self.linear(map_BDhw.flatten(1))[:, None]
        return made


class SeveralCNNs(nn.Module):
    """Several independent `NatureCNN`s, each the vector of a module: [B, M, D]."""

    def __init__(self, size: int, *, modules: int = 5, width: int = 512) -> None:
        super().__init__()
        self.cnns = nn.ModuleList(NatureCNN(size, width=width) for _ in range(modules))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return torch.cat([cnn(image_BCHW) for cnn in self.cnns], 1)
