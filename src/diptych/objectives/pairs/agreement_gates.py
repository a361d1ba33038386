"""Weights for pairs whose texts disagree: ALIP's running gates (Yang et al., 2023, 2308.08428).

An image has a raw text and a synthetic caption. With unit rows x (image), t (raw), c (synthetic), three cosines a sample say how
well they agree, and three running means say how well samples agree of late:

    S = (t . c, x . t, x . c)                           the order of every `..3` here: language, raw, synthetic
    H <- m H + (1 - m) mean over the global batch(S)    before H is used; H starts at 1
    language   W_s = exp(g_s (S_tc - H_tc))  where S_tc <= H_tc, else 1
    raw        W_t = exp(g_p (S_xt - H_xt))  where W_s < 1,      else 1
    synthetic  W_c = exp(g_p (S_xc - H_xc))  where W_s < 1,      else 1

The raw pair of a sample is weighted by W_s W_t, the synthetic one by W_s W_c. W_s lies in (0, 1]; W_t and W_c exceed 1 where an image
agrees with that text more than is usual: a sample whose raw text is wrong still learns from its caption.

What implementations get wrong: means of one process instead of the global batch (the processes then drift apart); means that are
lost on resume; H that starts at the first batch's mean, which makes W_t exceed 1 for mismatched pairs early on; dividing by the sum
of the weights (the paper takes the plain mean); gradients through the weights. Nothing here has a gradient.

Letters: N samples of this process, 3 agreements.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, check_equal_rows, mean_over_processes


@dataclass(frozen=True, slots=True)
class AnchorWeights:
    """Per-anchor loss weights, the language gate included: float, no gradient."""

    raw_N: Tensor
    synthetic_N: Tensor


def initial_means() -> Tensor:
    """mean_3 before any step: ones."""
    return torch.ones(3)


@torch.no_grad()
def agreements(image_ND: Tensor, raw_ND: Tensor, synthetic_ND: Tensor) -> Tensor:
    """agreement_N3 of unit rows: raw with synthetic, image with raw, image with synthetic."""
    if not image_ND.shape == raw_ND.shape == synthetic_ND.shape or image_ND.ndim != 2:
        shapes = ", ".join(str(list(x.shape)) for x in (image_ND, raw_ND, synthetic_ND))
        raise ShapeError(f"images, raw texts and captions must be [N, D] alike, got {shapes}")
    pairs = ((raw_ND, synthetic_ND), (image_ND, raw_ND), (image_ND, synthetic_ND))
    return torch.stack([(one * other).sum(1) for one, other in pairs], 1)


@torch.no_grad()
def updated_means(mean_3: Tensor, agreement_N3: Tensor, *, momentum: float = 0.99, process_group: Group = None) -> Tensor:
    """The running means after this step's global batch, equal on all processes. `mean_3` itself stays as it is.

    Every process must bring equally many rows. Raises ShapeError, or ConfigError for a momentum outside [0, 1].
    """
    if not 0 <= momentum <= 1:
        raise ConfigError(f"momentum is {momentum} (expected 0..1)")
    if agreement_N3.ndim != 2 or agreement_N3.shape[1:] != mean_3.shape:
        raise ShapeError(f"agreements must be [N, 3] and means [3], got {list(agreement_N3.shape)} and {list(mean_3.shape)}")
    check_equal_rows(process_group, agreement_N3=agreement_N3)
    now_3 = mean_over_processes(agreement_N3.mean(0), process_group)
    return torch.lerp(now_3, mean_3.to(now_3), momentum)


@torch.no_grad()
def agreement_gates(
    agreement_N3: Tensor, mean_3: Tensor, *, gamma_language: float = 2.0, gamma_description: float = 2.0
) -> AnchorWeights:
    """Gates from agreements and the means that they are compared with (`updated_means` first). gamma 0 gives ones."""
    if gamma_language < 0 or gamma_description < 0:
        raise ConfigError(f"gammas are {gamma_language} and {gamma_description} (expected 0 or more)")
    above_N3 = agreement_N3 - mean_3.to(agreement_N3)
    doubted_N = above_N3[:, 0] < 0
    language_N = (gamma_language * above_N3[:, 0].clamp(max=0)).exp()
    description_N2 = torch.where(doubted_N[:, None], (gamma_description * above_N3[:, 1:]).exp(), 1.0)
    raw_N, synthetic_N = (language_N[:, None] * description_N2).unbind(1)
    return AnchorWeights(raw_N, synthetic_N)
