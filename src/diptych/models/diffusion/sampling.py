"""Pictures from noise, with classifier-free guidance (Ho and Salimans, 2022, arXiv 2207.12598), by diffusers' schedulers.

Letters: B pictures, C channel, H W.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.core.terminal.progress import with_bar
from diptych.models.diffusion.denoiser import DiffusionNet, TextCondition
from diptych.models.diffusion.settings import diffusers_library

SAMPLERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpm": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "pndm": "PNDMScheduler",
}
LONG = 8
"""Steps from which on a bar is shown."""

Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(noisy latents, step) -> prediction with the prompt, and without it."""


def make_scheduler(config: dict[str, Any], sampler: str = "") -> Any:
    """The scheduler that a configuration names, or one of `SAMPLERS` with its betas."""
    if sampler and sampler not in SAMPLERS:
        raise ConfigError(f"sampler is {sampler!r} (expected one of {', '.join(SAMPLERS)}, or '' for the model's own)")
    library = diffusers_library()
    name = SAMPLERS[sampler] if sampler else str(config.get("_class_name", "DDIMScheduler"))
    kind: Any = getattr(library, name, None)
    if not isinstance(kind, type) or not issubclass(kind, library.SchedulerMixin):
        raise ConfigError(f"scheduler {name!r} is not one of diffusers (expected one such as PNDMScheduler)")
    made: Any = getattr(library, name).from_config(config)
    return made


def sample_latents(
    noise_BCHW: Tensor,
    predict: Predict,
    scheduler: Any,
    *,
    steps: int,
    guidance: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Latents [B, C, H, W] from standard normal noise: at each step the prediction without the prompt, moved `guidance` times as far as
    the prompt moves it."""
    scheduler.set_timesteps(steps)
    latent_BCHW: Tensor = noise_BCHW * scheduler.init_noise_sigma
    extra = {"generator": generator} if "generator" in scheduler.step.__code__.co_varnames else {}
    for timestep in with_bar(scheduler.timesteps, len(scheduler.timesteps), "steps of denoising", least=4 * LONG):
        given_BCHW = scheduler.scale_model_input(latent_BCHW, timestep)
        with_BCHW, without_BCHW = predict(given_BCHW, timestep)
        prediction_BCHW = without_BCHW + guidance * (with_BCHW - without_BCHW)
        latent_BCHW = scheduler.step(prediction_BCHW, timestep, latent_BCHW, **extra).prev_sample
    return latent_BCHW


def guided(net: DiffusionNet, prompt: TextCondition, empty: TextCondition, guidance: float, **options: Any) -> Predict:
    """Both predictions in one pass of the network; one alone where `guidance` is 1."""

    def predict(latent_BCHW: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        count = len(latent_BCHW)
        if guidance == 1.0:
            only_BCHW = net.predict(latent_BCHW, timestep.expand(count), prompt, **options)
            return only_BCHW, only_BCHW
        both = joined(empty, prompt)
        predicted_BCHW = net.predict(torch.cat([latent_BCHW, latent_BCHW]), timestep.expand(2 * count), both, **options)
        without_BCHW, with_BCHW = predicted_BCHW.chunk(2)
        return with_BCHW, without_BCHW

    return predict


def joined(first: TextCondition, second: TextCondition) -> TextCondition:
    """The rows of two conditions, one after the other."""
    pooled = None
    if first.pooled_BP is not None and second.pooled_BP is not None:
        pooled = torch.cat([first.pooled_BP, second.pooled_BP])
    return TextCondition(torch.cat([first.state_BLD, second.state_BLD]), pooled)
