"""Advantage estimators: GAE, whitening, and baselines without a value model.

Letters: T steps of a rollout, B answers, L tokens, S answers to one prompt. `...` may hold environments side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diptych.core.errors import ShapeError
from diptych.objectives.gather import Group, all_gather, world


@dataclass(frozen=True, slots=True)
class Advantages:
    """Advantages, and the returns that a value model is trained on, both with the shape of the rewards."""

    advantage: Tensor
    returns: Tensor


def gae(
    reward_T: Tensor,
    value_T: Tensor,
    begins_T: Tensor,
    *,
    last_value: Tensor | float,
    last_done: Tensor | bool,
    gamma: float = 0.99,
    lam: float = 0.95,
) -> Advantages:
    """Generalised advantage estimation (Schulman et al., 2016, 1506.02438) over a rollout of [T, ...] steps, episodes one after another.

    delta_t = r_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lam A_{t+1}; both chains are cut where step t + 1 begins an episode.

    begins_T    True where an episode begins
    last_value  value of the state after the last step; used only if the episode continues (`last_done` False)
    """
    if not reward_T.shape == value_T.shape == begins_T.shape or len(reward_T) == 0:
        raise ShapeError(
            f"rewards {list(reward_T.shape)}, values {list(value_T.shape)} starts {list(begins_T.shape)} (expected one shape, and a step)"
        )
    goes_on_T = 1.0 - torch.cat([begins_T[1:].to(value_T), torch.as_tensor(last_done).to(value_T).expand_as(value_T[:1])])
    next_T = torch.cat([value_T[1:], torch.as_tensor(last_value).to(value_T).expand_as(value_T[:1])])
    delta_T = reward_T + gamma * next_T * goes_on_T - value_T
    advantage_T = torch.empty_like(delta_T)
    running = torch.zeros_like(delta_T[0])
    for step in range(len(delta_T) - 1, -1, -1):
        running = delta_T[step] + gamma * lam * goes_on_T[step] * running
        advantage_T[step] = running
    return Advantages(advantage_T, advantage_T + value_T)


def answer_gae(reward_BL: Tensor, value_BL: Tensor, chosen_BL: Tensor, *, gamma: float = 1.0, lam: float = 0.95) -> Advantages:
    """GAE over answers, one episode per row: its steps are the tokens where `chosen_BL` is True, the last of which ends it. Zero
    elsewhere.

    Other tokens in between (questions of a conversation) are skipped.
    """
    if not bool(chosen_BL.any(1).all()):
        row = int((~chosen_BL.any(1)).nonzero()[0])
        raise ShapeError(f"answer {row} has no token (expected one or more, the end mark counts)")
    advantage_BL = torch.zeros_like(reward_BL)
    running_B, next_B = torch.zeros_like(reward_BL[:, 0]), torch.zeros_like(value_BL[:, 0])
    for position in range(reward_BL.shape[1] - 1, -1, -1):
        chosen_B = chosen_BL[:, position]
        delta_B = reward_BL[:, position] + gamma * next_B - value_BL[:, position]
        running_B = torch.where(chosen_B, delta_B + gamma * lam * running_B, running_B)
        next_B = torch.where(chosen_B, value_BL[:, position], next_B)
        advantage_BL[:, position] = torch.where(chosen_B, running_B, 0.0)
    return Advantages(advantage_BL, (advantage_BL + value_BL) * chosen_BL)


def standardised(advantage_N: Tensor, *, eps: float = 1e-8, process_group: Group = None) -> Tensor:
    """Standardises over the rows of all processes: (A - mean) / (std + eps), with N - 1 in the variance, as PPO implementations
    do for a minibatch. A single row is returned unchanged."""
    rows_N = _of_all(advantage_N, process_group)
    if rows_N.numel() < 2:
        return advantage_N
    return (advantage_N - rows_N.mean()) / (rows_N.std() + eps)


def whitened(
    x: Tensor,
    counts: Tensor | None = None,
    *,
    shift_mean: bool = True,
    unbiased: bool = False,
    eps: float = 1e-8,
    eps_on: Literal["variance", "deviation"] = "variance",
    process_group: Group = None,
) -> Tensor:
    """Whitening: (x - mean) / sqrt(var + eps) over the entries of all processes where `counts` is True (None: all).

    shift_mean  False: the mean is added back, so that only the scale changes, as for rewards
    unbiased    N - 1 in the variance
    eps_on      "deviation": (x - mean) / (sqrt(var) + eps)
    """
    rows = _of_all(x, process_group)
    if counts is not None:
        rows = rows[_of_all(counts, process_group)]
    mean = rows.mean()
    variance = rows.var(unbiased=unbiased)
    white = (x - mean) * (torch.rsqrt(variance + eps) if eps_on == "variance" else 1 / (variance.sqrt() + eps))
    white = white if shift_mean else white + mean
    return white if counts is None else torch.where(counts, white, x)


def group_relative(reward_BS: Tensor, *, scale: bool = True, eps: float = 1e-4) -> Tensor:
    """Advantages of S answers to each prompt against their own mean (GRPO; Shao et al., 2024, 2402.03300), divided by their deviation
    unless `scale` is False."""
    if reward_BS.ndim != 2 or reward_BS.shape[1] < 2:
        raise ShapeError(f"rewards of a group are {list(reward_BS.shape)} (expected [prompts, answers], 2 answers or more)")
    centred_BS = reward_BS - reward_BS.mean(1, keepdim=True)
    return centred_BS / (reward_BS.std(1, keepdim=True) + eps) if scale else centred_BS


def leave_one_out(reward_BS: Tensor) -> Tensor:
    """Advantages of S answers to each prompt against the mean of the others (RLOO; Kool et al., 2019)."""
    return group_relative(reward_BS, scale=False) * (reward_BS.shape[1] / (reward_BS.shape[1] - 1))


def self_critical(reward_BS: Tensor, greedy_B: Tensor) -> Tensor:
    """Advantages of S drawn answers to each prompt against the greedy one (Rennie et al., 2017, 1612.00563)."""
    return reward_BS - greedy_B[:, None]


def _of_all(x: Tensor, process_group: Group) -> Tensor:
    """The entries of all processes, without gradient."""
    if world(process_group)[1] == 1:
        return x.detach()
    as_bytes = x.to(torch.uint8) if x.dtype == torch.bool else x
    return all_gather(as_bytes, process_group).flatten(0, 1).to(x.dtype)
