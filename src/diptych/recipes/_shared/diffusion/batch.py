"""Batches of diffusion training: pictures in [-1, 1], prompts as ids, and for each row a step of noise and the noise itself.

All randomness is that of the draws, so that a step that is repeated after a kill sees the same noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.contracts import Draws
from diptych.core.rows import Rows
from diptych.data.load.batch import TensorBatch, pixels
from diptych.data.media.transforms import HALF, Preprocess
from diptych.models.diffusion.settings import DiffusionSettings
from diptych.objectives.diffusion.denoising import drawn_timestep, skewed_timesteps


@dataclass(frozen=True)
class DiffusionBatch(TensorBatch):
    """Pictures in [-1, 1], ids [B, E, L] of a prompt each, steps of noise, and noise in the shape of the latents; of models with an
    autoencoder also the noise that its posterior is drawn with."""

    image_BCHW: Rows[Tensor]
    text_BEL: Rows[Tensor]
    timestep_B: Rows[Tensor]
    noise_BCHW: Rows[Tensor]
    posterior_BCHW: Rows[Tensor] | None


def image_preprocess(size: int, resize: str = "crop") -> Preprocess:
    """Pictures to [-1, 1] at this size."""
    return Preprocess(size, *HALF, resize, "bicubic")  # type: ignore[arg-type]


def diffusion_batch(
    draws: Draws, text_BEL: Tensor, settings: DiffusionSettings, preprocess: Preprocess, *, skew: float = 0.0
) -> DiffusionBatch:
    """The batch of these draws and prompts. `skew`: alpha of `skewed_timesteps`; 0 takes all steps equally often."""
    timestep_B = drawn_timesteps(draws, settings.timesteps, skew)
    noise_BCHW = drawn_noise(draws, latent_shape(settings, preprocess.size))
    posterior_BCHW = drawn_noise(draws, latent_shape(settings, preprocess.size)) if settings.vae else None
    return DiffusionBatch(
        preprocess([pixels(draw) for draw in draws]), text_BEL, timestep_B, noise_BCHW, posterior_BCHW
    )


def latent_shape(settings: DiffusionSettings, image_size: int) -> tuple[int, int, int]:
    """Shape [C, H, W] of the latents of a picture."""
    side = image_size // settings.latent_scale
    return settings.latent_channels, side, side


def drawn_timesteps(draws: Draws, steps: int, skew: float) -> Tensor:
    """A step of noise for each draw, int64 [B]."""
    return torch.tensor([drawn_timestep(draw.rng, _cumulative(steps, skew)) for draw in draws], dtype=torch.int64)


def drawn_noise(draws: Draws, shape: Sequence[int]) -> Tensor:
    """Standard normal noise, float32 [B, *shape]."""
    return torch.from_numpy(np.stack([draw.rng.standard_normal(tuple(shape), dtype=np.float32) for draw in draws]))


@lru_cache(maxsize=4)
def _cumulative(steps: int, skew: float) -> npt.NDArray[np.float64]:
    return np.cumsum(skewed_timesteps(steps, skew))
