"""Rollouts of a policy in gymnasium environments, with one-line errors for an environment that raises and for an episode that
does not end.

Letters: T steps, E environments, A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from diptych.core.errors import RunError


class Environment(Protocol):
    """The two calls of `gymnasium.Env` that a rollout makes."""

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]: ...

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class ActorOutput:
    """Actions [E] for observations [E, ...], their log-probabilities and the values of the observations."""

    action_E: Tensor
    log_prob_E: Tensor
    value_E: Tensor


Actor = Callable[[Tensor, Tensor | None], ActorOutput]
"""Observations [E, ...] and a mask [E, A] of the actions that may be taken (None: all) -> what is done."""


@dataclass(frozen=True, slots=True)
class EnvironmentRollout:
    """T steps of E environments.

    begins_TE     True where an episode begins
    mask_TEA      actions that could be taken, stored with each step; None without masks
    last_value_E, last_done_E  value of the observation after the last step, and whether an episode ended there
    scores        total reward of each episode that ended
    """

    observation_TE: Tensor
    action_TE: Tensor
    log_prob_TE: Tensor
    value_TE: Tensor
    reward_TE: Tensor
    begins_TE: Tensor
    mask_TEA: Tensor | None
    last_value_E: Tensor
    last_done_E: Tensor
    scores: tuple[float, ...]


@dataclass
class EnvironmentRunner:
    """Steps environments side by side and goes on where the last rollout stopped.

    environments  as many as run side by side
    actor         the policy
    seed          environment e begins with seed + e
    gamma         discount; a time limit (truncated, not terminated) adds gamma times the value of the last observation to the reward
    max_episode   steps after which an episode without an end is an error; 0 sets no limit
    masks         of an environment, the [A] actions that may be taken now; None: all
    """

    environments: Sequence[Environment]
    actor: Actor
    seed: int = 0
    gamma: float = 0.99
    max_episode: int = 10_000
    masks: Callable[[Any], Any] | None = None
    _observations: list[Any] = field(default_factory=list)
    _begins: list[bool] = field(default_factory=list)
    _episodes: list[list[float]] = field(default_factory=list)
    _ended: list[int] = field(default_factory=list)

    @torch.no_grad()
    def collect(self, steps: int) -> EnvironmentRollout:
        """The next `steps` steps of every environment."""
        count = len(self.environments)
        if not self._observations:
            self._begins, self._episodes, self._ended = [True] * count, [[] for _ in range(count)], [0] * count
            self._observations = [self._reset(e, seed=self.seed + e) for e in range(count)]
        rows: list[tuple[Tensor, ActorOutput, Tensor, Tensor, Tensor | None]] = []
        scores: list[float] = []
        for _ in range(steps):
            observation_E, mask_EA, begins_E = _stacked(self._observations), self._mask(), torch.tensor(self._begins)
            output = self.actor(observation_E, mask_EA)
            reward = [self._advance(e, output.action_E[e].tolist(), scores) for e in range(count)]
            rows.append((observation_E, output, torch.tensor(reward).to(output.value_E), begins_E, mask_EA))
        observation_TE, reward_TE, begins_TE = (torch.stack([row[n] for row in rows]) for n in (0, 2, 3))  # type: ignore[misc]
        action_TE, log_prob_TE, value_TE = (
            torch.stack([getattr(row[1], name) for row in rows]) for name in ("action_E", "log_prob_E", "value_E")
        )
        masks = [row[4] for row in rows if row[4] is not None]
        last_value_E = self.actor(_stacked(self._observations), self._mask()).value_E
        return EnvironmentRollout(
            observation_TE, action_TE, log_prob_TE, value_TE, reward_TE, begins_TE, torch.stack(masks) if masks else None,
            last_value_E, torch.tensor(self._begins), tuple(scores),
        )  # fmt: skip

    def _advance(self, e: int, action: Any, scores: list[float]) -> float:
        """One step of environment e; an episode that ended is followed by the next. Returns the reward."""
        step = len(self._episodes[e])
        try:
            observation, given, terminated, truncated, _ = self.environments[e].step(action)
        except Exception as error:
            raise RunError(self._failure(e, f"step {step} of episode {self._ended[e]}, action {action}", error)) from error
        reward = _number(given)
        if not np.isfinite(reward):
            raise RunError(
                f"{self._name(e)} gave a reward of {given!r} at step {step} of episode {self._ended[e]}, action {action} (expected a "
                "finite number)"
            )
        self._episodes[e].append(reward)
        self._begins[e] = bool(terminated or truncated)
        if self._begins[e]:
            scores.append(sum(self._episodes[e]))
            if not terminated:
                value_1 = self.actor(_stacked([observation]), None).value_E
                reward += self.gamma * float(value_1[0])
            self._ended[e] += 1
            observation, self._episodes[e] = self._reset(e), []
        elif self.max_episode and len(self._episodes[e]) >= self.max_episode:
            raise RunError(
                f"episode {self._ended[e]} of {self._name(e)} has not ended after {self.max_episode} steps (expected an end or a time "
                "limit, or max_episode 0)"
            )
        self._observations[e] = observation
        return reward

    def _reset(self, e: int, seed: int | None = None) -> Any:
        try:
            observation, _ = self.environments[e].reset(seed=seed)
        except Exception as error:
            raise RunError(self._failure(e, f"the reset before episode {self._ended[e]}", error)) from error
        return observation

    def _failure(self, e: int, where: str, error: Exception) -> str:
        return f"{self._name(e)} raised {type(error).__name__} at {where}: {error}"

    def _name(self, e: int) -> str:
        return f"environment {e} ({type(self.environments[e]).__name__}, seed {self.seed + e})"

    def _mask(self) -> Tensor | None:
        if self.masks is None:
            return None
        return torch.stack([torch.as_tensor(np.asarray(self.masks(one)), dtype=torch.bool) for one in self.environments])


def _stacked(observations: Sequence[Any]) -> Tensor:
    rows = [np.asarray(one) for one in observations]
    if any(row.shape != rows[0].shape for row in rows) or rows[0].dtype == object:
        shapes = ", ".join(f"{list(row.shape)} of {row.dtype}" for row in rows)
        raise RunError(f"the environments' observations are {shapes} (expected arrays of one shape)")
    return torch.from_numpy(np.stack(rows))


def _number(given: Any) -> float:
    """The number of a reward; NaN for anything else."""
    try:
        return float(given)
    except (TypeError, ValueError):
        return float("nan")
