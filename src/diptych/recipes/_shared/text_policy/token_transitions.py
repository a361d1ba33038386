"""Transitions of a policy over tokens: what a rollout of answers becomes, one row a token.

Letters: B answers, N transitions, P tokens of a prompt, L tokens of an answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.data.load.batch import TensorBatch
from diptych.objectives.gather import all_gather, world
from diptych.objectives.policy.advantages import gae


@dataclass(frozen=True)
class AnswerEpisodes:
    """Answers to prompts, as a policy sampled them.

    chosen_BL     True where a token was taken
    mask_BLV      tokens that could be taken; None: all
    log_BL        log-probabilities of the tokens by the policy that took them, under the mask
    log_ratio_BL  log-probabilities without a mask, by the policy less by the reference
    value_BL      values of the states before the tokens
    reward_B      of whole answers
    """

    prompt_BP: Tensor
    there_BP: Tensor
    ids_BL: Tensor
    chosen_BL: Tensor
    mask_BLV: Tensor | None
    log_BL: Tensor
    log_ratio_BL: Tensor
    value_BL: Tensor
    reward_B: Tensor

    @property
    def tokens(self) -> int:
        """Number of tokens that were taken."""
        return int(self.chosen_BL.sum())

    def of_all_processes(self) -> AnswerEpisodes:
        """The answers of all processes, in the order of the processes."""
        if world()[1] == 1:
            return self
        gathered: dict[str, Any] = {one.name: _gathered(getattr(self, one.name)) for one in fields(self)}
        return AnswerEpisodes(**gathered)


def joined_episodes(rounds: Sequence[AnswerEpisodes]) -> AnswerEpisodes:
    """Several rounds of answers, one after another."""
    columns = [[getattr(one, field.name) for one in rounds] for field in fields(AnswerEpisodes)]
    return AnswerEpisodes(*(None if column[0] is None else torch.cat(column) for column in columns))  # type: ignore[arg-type]


def _gathered(value: Tensor | None) -> Tensor | None:
    if value is None:
        return None
    plain = value.to(torch.uint8) if value.dtype == torch.bool else value
    return all_gather(plain).flatten(0, 1).to(value.dtype)


@dataclass(frozen=True)
class TransitionBatch(TensorBatch):
    """Tokens that were taken, and the answers (episodes) that they are of.

    episode_N      the token's answer
    place_N        place of the token in the answer; tokens from there on are not read
    mask_NV        tokens that could be taken; None: all
    old_log_N, old_value_N  log-probability and value when it was taken
    reward, kl, coefficient, length  of the rollout: mean reward and length of its answers, KL by token, price of the KL
    """

    prompt_EP: Tensor
    there_EP: Tensor
    answer_EL: Tensor
    episode_N: Rows[Tensor]
    place_N: Rows[Tensor]
    action_N: Rows[Tensor]
    old_log_N: Rows[Tensor]
    old_value_N: Rows[Tensor]
    advantage_N: Rows[Tensor]
    return_N: Rows[Tensor]
    mask_NV: Rows[Tensor] | None
    reward: Tensor
    kl: Tensor
    coefficient: Tensor
    length: Tensor


def transitions(
    episodes: AnswerEpisodes,
    count: int,
    *,
    coefficient: Tensor,
    gamma: float = 0.99,
    lam: float = 0.95,
    normalised_rewards: bool = False,
) -> TransitionBatch:
    """The first `count` tokens of the answers as rows of this process, which gets an equal share of them in order.

    The reward of an answer comes with its last token; each token pays `coefficient` times its log ratio. Advantages run over the tokens of
    all answers one after another, cut where an answer begins. Where the count cuts an answer, the value of its next
    state stands for the rest.

    normalised_rewards  rewards of the tokens, KL among them, have mean 0 and deviation 1
    """
    rank, processes = world()
    answer_N, place_N = episodes.chosen_BL.nonzero(as_tuple=True)
    if count % processes:
        raise ConfigError(f"{count} transitions cannot be shared equally by {processes} processes")
    next_N = torch.arange(1, len(answer_N) + 1, device=answer_N.device)
    last_place_B = episodes.chosen_BL.sum(1) - 1
    ends_N = place_N == last_place_B[answer_N]
    task_N = torch.where(ends_N, episodes.reward_B[answer_N].to(episodes.value_BL), 0.0)
    price = coefficient.to(task_N)
    reward_N = (task_N - price * episodes.log_ratio_BL[answer_N, place_N])[:count]
    if normalised_rewards:
        reward_N = (reward_N - reward_N.mean()) / (reward_N.std(unbiased=False) + 1e-8)
    value_N = episodes.value_BL[answer_N, place_N]
    following = value_N[next_N[count - 1]] if count < len(value_N) and not bool(ends_N[count - 1]) else value_N.new_zeros(())
    made = gae(
        reward_N, value_N[:count], (place_N == 0)[:count], last_value=following, last_done=ends_N[count - 1], gamma=gamma, lam=lam
    )
    share = slice(rank * count // processes, (rank + 1) * count // processes)
    row_N, at_N = answer_N[:count][share], place_N[:count][share]
    return TransitionBatch(
        prompt_EP=episodes.prompt_BP,
        there_EP=episodes.there_BP,
        answer_EL=episodes.ids_BL,
        episode_N=row_N,
        place_N=at_N,
        action_N=episodes.ids_BL[row_N, at_N],
        old_log_N=episodes.log_BL[row_N, at_N],
        old_value_N=value_N[:count][share],
        advantage_N=made.advantage[share],
        return_N=made.returns[share],
        mask_NV=None if episodes.mask_BLV is None else episodes.mask_BLV[row_N, at_N],
        reward=episodes.reward_B.mean(),
        kl=mean_log_ratio(episodes),
        coefficient=coefficient.clone(),
        length=episodes.chosen_BL.sum(1).to(value_N).mean(),
    )


def mean_log_ratio(episodes: AnswerEpisodes) -> Tensor:
    """KL by token, estimated by the mean log ratio of the tokens that were taken."""
    return episodes.log_ratio_BL[episodes.chosen_BL].mean()
