"""Denoising error of a diffusion model, and the distribution of the steps of noise at which it is taken."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from diptych.core.errors import ConfigError


def denoising_loss(prediction_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Mean squared error over all values, in float32: noise that was predicted against noise that was added (DDPM, 2006.11239)."""
    return (prediction_BCHW.float() - target_BCHW.float()).square().mean().to(prediction_BCHW.dtype)


def skewed_timesteps(steps: int, alpha: float = 0.5) -> npt.NDArray[np.float64]:
    """Probabilities [steps] of the steps of noise t = 0 .. steps - 1, proportional to 1 - alpha cos(pi t / steps).

    ReVersion (2303.13495), relation-focal importance sampling: steps of much noise, which decide the layout, come up more often. With alpha
    0.5 the last step is about three times as likely as the first; 0 makes all equal.

    >>> [round(float(share), 9) for share in skewed_timesteps(1000)[[0, 999]]]
    [0.00050025, 0.001500748]
    """
    if steps < 1 or not 0 <= alpha <= 1:
        raise ConfigError(f"steps {steps} and alpha {alpha} (expected 1 or more, and 0..1)")
    raw_T = 1.0 / steps * (1.0 - alpha * np.cos(np.pi * np.arange(steps) / steps))
    share_T: npt.NDArray[np.float64] = raw_T / raw_T.sum()
    return share_T


def drawn_timestep(rng: np.random.Generator, cumulative_T: npt.NDArray[np.float64]) -> int:
    """A step of noise drawn from the running sum of its probabilities."""
    return min(int(np.searchsorted(cumulative_T, rng.random(), side="right")), len(cumulative_T) - 1)
