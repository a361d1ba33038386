"""Rollouts of the policy engine: rows, random numbers, bad rewards and environments, and two processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_engines import OPTIONS
from toy import toy_pool
from toy_engines import Bandit, Rollout
from toy_processes import trained

from diptych.core.errors import RunError
from diptych.train.engines.environments import ActorOutput, EnvironmentRunner
from diptych.train.engines.rollouts import RowNoise, minibatches
from diptych.train.fit import fit


@pytest.mark.parametrize("shard", ["ddp", "fsdp"])
def test_two_processes_act_and_learn_as_one(shard: str, tmp_path: Path) -> None:
    alone = trained(1, tmp_path / "one", program="toy_engines", kind="shared", options={})
    together = trained(2, tmp_path / "two", program="toy_engines", kind="shared", options={"shard": shard})
    torch.testing.assert_close(alone["logit_PA"], together["logit_PA"], rtol=1e-12, atol=1e-12)


def test_row_noise_depends_on_the_generator_alone() -> None:
    torch.manual_seed(5)
    first = RowNoise(6).uniform(2)
    torch.manual_seed(5)
    again = RowNoise(6)
    assert torch.equal(first, again.uniform(2))
    assert not torch.equal(first, again.uniform(2))


def test_every_row_is_seen_once_a_pass() -> None:
    rows = torch.arange(10)
    parts = [part.prompt_B.tolist() for part in minibatches(Rollout(rows), 4, passes=2, shuffled=True)]
    assert [len(part) for part in parts] == [4, 4, 2] * 2
    assert sorted(chain(*parts[:3])) == sorted(chain(*parts[3:])) == rows.tolist()
    assert parts[:3] != parts[3:]
    plain = [part.prompt_B.tolist() for part in minibatches(Rollout(rows), 4, passes=1, shuffled=False)]
    assert plain == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


class Broken(Bandit):
    def rollout(self, model: Any, companions: Mapping[str, torch.nn.Module], batch: Rollout) -> Rollout:
        made = super().rollout(model, companions, batch)
        reward_B = made.reward_B.clone()  # type: ignore[union-attr]
        reward_B[2] = torch.nan
        return replace(made, reward_B=reward_B)


class Silent(Bandit):
    def rollout(self, model: Any, companions: Mapping[str, torch.nn.Module], batch: Rollout) -> Rollout:
        return super().rollout(model, companions, batch).rows(0, 0)


def test_a_reward_that_is_not_a_number_ends_the_run_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^the rollout of step 0, row 2: reward_B is nan \(expected finite"):
        fit(Broken(), toy_pool(), tmp_path / "nan", OPTIONS)
    with pytest.raises(RunError, match=r"^the rollout of step 0 has no rows"):
        fit(Silent(), toy_pool(), tmp_path / "silent", OPTIONS)


class Counting:
    """An environment that ends, throws, or gives another reward or shape where it is told to."""

    def __init__(
        self, *, ends: int = 0, throws: int = -1, nan: int = -1, resets: int = 99, wide: int = 2, reward: Any = float("nan")
    ) -> None:
        self.ends, self.throws, self.nan, self.steps, self.resets, self.wide = ends, throws, nan, 0, resets, wide
        self.reward = reward

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        if self.resets == 0:
            raise OSError("no window")
        self.steps, self.resets = 0, self.resets - 1
        return np.zeros(self.wide, np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.steps == self.throws:
            raise ValueError("the door is\nlocked")
        return (
            np.full(2, self.steps, np.float32),
            self.reward if self.steps == self.nan else 1.0,
            self.steps == self.ends,
            False,
            {},
        )


def still(observation_E: torch.Tensor, mask_EA: torch.Tensor | None) -> ActorOutput:
    zero_E = torch.zeros(len(observation_E))
    return ActorOutput(zero_E.long(), zero_E, zero_E)


FAULTS: list[tuple[list[Counting], str]] = [
    ([Counting(ends=2), Counting(throws=3)], r"environment 1 \(Counting, seed 8\) raised ValueError at step 2 of episode 0, action 0: "
                                             r"the door is\\nlocked$"),
    ([Counting(ends=2, resets=2)], r"environment 0 \(Counting, seed 7\) raised OSError at the reset before episode 2: no window$"),
    ([Counting(resets=0)], r"environment 0 \(Counting, seed 7\) raised OSError at the reset before episode 0: no window$"),
    ([Counting(nan=2)], r"environment 0 \(Counting, seed 7\) gave a reward of nan at step 1 of episode 0"),
    ([Counting(nan=1, reward=None)], r"environment 0 \(Counting, seed 7\) gave a reward of None at step 0 of episode 0"),
    ([Counting()], r"episode 0 of environment 0 \(Counting, seed 7\) has not ended after 6 steps"),
    ([Counting(ends=3), Counting(ends=3, wide=3)], r"the environments' observations are \[2\] of float32, \[3\] of float32 \(expected"),
]  # fmt: skip


@pytest.mark.parametrize(("environments", "line"), FAULTS)
def test_environments_that_fail_cost_one_line(environments: list[Counting], line: str) -> None:
    with pytest.raises(RunError, match=f"^{line}"):
        EnvironmentRunner(environments, still, seed=7, max_episode=6).collect(10)


def test_episodes_follow_each_other_across_rollouts() -> None:
    runner = EnvironmentRunner([Counting(ends=3), Counting(ends=2)], still)
    first, second = runner.collect(4), runner.collect(2)
    assert first.begins_TE.T.int().tolist() == [[1, 0, 0, 1], [1, 0, 1, 0]]
    assert first.last_done_E.tolist() == [False, True]
    assert second.begins_TE.T.int().tolist() == [[0, 0], [1, 0]]
    assert first.scores == (2.0, 3.0, 2.0)
