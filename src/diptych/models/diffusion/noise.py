"""Forward diffusion on plain tensors: noise of a step, what a network is to predict, and the clean picture that a prediction implies.

Letters: B batch, C channel, H W, T steps of noise. All functions take `alpha_T`, the running product of 1 - beta, float32 [T].
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from diptych.core.errors import ConfigError

Prediction = Literal["epsilon", "v_prediction", "sample"]


def noised(clean_BCHW: Tensor, noise_BCHW: Tensor, timestep_B: Tensor, alpha_T: Tensor) -> Tensor:
    """sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) noise, [B, C, H, W]."""
    keep_B111, spoil_B111 = _shares(timestep_B, alpha_T, clean_BCHW)
    return keep_B111 * clean_BCHW + spoil_B111 * noise_BCHW


def prediction_target(
    clean_BCHW: Tensor, noise_BCHW: Tensor, timestep_B: Tensor, alpha_T: Tensor, prediction: str = "epsilon"
) -> Tensor:
    """Regression target [B, C, H, W]: the noise; with "sample" the clean picture, with "v_prediction" the velocity
    sqrt(alpha_t) noise - sqrt(1 - alpha_t) x_0."""
    if prediction in ("epsilon", "sample"):
        return noise_BCHW if prediction == "epsilon" else clean_BCHW
    if prediction != "v_prediction":
        raise ConfigError(f"prediction_type is {prediction!r} (expected epsilon | v_prediction | sample)")
    keep_B111, spoil_B111 = _shares(timestep_B, alpha_T, clean_BCHW)
    return keep_B111 * noise_BCHW - spoil_B111 * clean_BCHW


def clean_estimate(
    noisy_BCHW: Tensor, prediction_BCHW: Tensor, timestep_B: Tensor, alpha_T: Tensor, prediction: str = "epsilon"
) -> Tensor:
    """The clean picture [B, C, H, W] that a prediction at each row's own step implies, unclipped."""
    if prediction == "sample":
        return prediction_BCHW
    keep_B111, spoil_B111 = _shares(timestep_B, alpha_T, noisy_BCHW)
    if prediction == "epsilon":
        return (noisy_BCHW - spoil_B111 * prediction_BCHW) / keep_B111
    if prediction != "v_prediction":
        raise ConfigError(f"prediction_type is {prediction!r} (expected epsilon | v_prediction | sample)")
    return keep_B111 * noisy_BCHW - spoil_B111 * prediction_BCHW


def _shares(timestep_B: Tensor, alpha_T: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    alpha_B111 = alpha_T[timestep_B].to(like.dtype).view(-1, 1, 1, 1)
    return alpha_B111.sqrt(), (1 - alpha_B111).sqrt()


def running_alphas(steps: int, beta_start: float, beta_end: float, beta_schedule: str = "scaled_linear") -> Tensor:
    """Running product [T] of 1 - beta_t for the schedules "linear" and "scaled_linear" (linear in the square root)."""
    if beta_schedule == "linear":
        beta_T = torch.linspace(beta_start, beta_end, steps, dtype=torch.float32)
    elif beta_schedule == "scaled_linear":
        beta_T = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float32) ** 2
    else:
        raise ConfigError(f"beta_schedule is {beta_schedule!r} (expected linear | scaled_linear)")
    return torch.cumprod(1.0 - beta_T, 0)
