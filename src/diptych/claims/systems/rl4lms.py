"""RL4LMs on rows of numbers: how far PPO and NLPO have drifted from the language model of the beginning at the same reward."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.bridges import hosted
from diptych.claims.claim import Arm, Claim
from diptych.claims.training import can_resume, trained
from diptych.claims.verdict import Margins
from diptych.core.randomness import keyed_rng
from diptych.core.run_folder import RunFolder
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.models.policy.prompt_rows import prompt_rows
from diptych.models.policy.sampled_answers import SamplingRules, sample_answers
from diptych.objectives.policy.action_masks import drawn_actions
from diptych.recipes.alignment.rl4lms import RL4LMs
from diptych.tasks._scoring.rewards.text_rewards import text_reward
from diptych.train.engines.rollouts import RowNoise
from diptych.train.fit import fit, resume
from diptych.train.options import TrainOptions

TEXTS, LENGTH, LARGEST = 1000, 8, 29
REWARD = "increasing_numbers:10"
STEPS, TOKENS, ANSWERS, SAMPLED = 14, 256, 32, 2048
RATES = (1.5e-4, 3e-4, 6e-4)
EARNED, NEVER, WINDOW = 0.12, 3.0, 3
"""Reward above that of the first rollout at which drift is read, drift in nats of a run that never earns it, rollouts of a mean."""


@dataclass(frozen=True)
class Drifting:
    """Tunes the shared language model, which writes rows of numbers, on a reward of rows that increase.

    drift     KL to the reference by token, in nats, where the reward of the rollouts first is `EARNED` above that of the first one; both
              are means of `WINDOW` rollouts
    last_reward, last_kl  means of the last rollouts
    """

    recipe: RL4LMs

    def __call__(self, cell: Cell) -> Scores:
        recipe, rows = hosted(self.recipe, cell, address="small"), number_rows()
        run = trained(recipe, rows, cell) if cell.smoke else logged(recipe, rows, cell)
        lines = [line for line in run.metrics() if line["kind"] == "train"]
        reward, kl = ([float(line[name]) for line in lines] for name in ("reward", "kl"))
        return {
            "drift": drift_at_reward(reward, kl),
            "last_reward": float(np.mean(reward[-WINDOW:])),
            "last_kl": float(np.mean(kl[-WINDOW:])),
        }


@dataclass(frozen=True)
class BestOfSamples:
    """Nothing is trained: of the `n` answers that the shared language model samples the best is taken, with the least `n`, whole or not,
    whose reward is `EARNED` above that of one answer.

    drift     KL to the language model by token: log n - (n - 1) / n nats an answer, an upper bound (Beirami et al., 2401.01879)
    n         that number
    """

    recipe: RL4LMs

    def __call__(self, cell: Cell) -> Scores:
        recipe = hosted(self.recipe, cell, address="small").prepare(number_rows())
        torch.manual_seed(cell.seed)
        policy, words, count = recipe.language_policy().eval(), recipe.words(), ANSWERS if cell.smoke else SAMPLED
        prompt_BP, there_BP = prompt_rows([""] * count, words)
        noise, rules = RowNoise(count), SamplingRules(words.end_id, words.pad_id, recipe.max_tokens)
        drawn = sample_answers(
            policy, prompt_BP, there_BP, rules,
            lambda logit_BV: drawn_actions(logit_BV.log_softmax(-1), noise.uniform()),
        )  # fmt: skip
        cell.spending.count(samples=count)
        n = answers_for_reward(increasing(recipe, drawn.ids_BL))
        tokens = float(drawn.chosen_BL.sum(1).double().mean())
        return {
            "drift": NEVER if math.isinf(n) else min(NEVER, (math.log(n) - (n - 1) / n) / tokens),
            "n": n if n < SAMPLED else SAMPLED,
        }


@dataclass(frozen=True, kw_only=True)
class LengthRewarded(RL4LMs):
    """PPO or NLPO whose reward is the number of words alone; the log has the reward of rows that increase."""

    def metrics(self, features: Any, batch: Any) -> dict[str, Tensor]:
        reward = torch.tensor(increasing(self, batch.answer_EL).mean())
        return super().metrics(features, batch) | {"reward": reward}


def increasing(recipe: RL4LMs, ids_BL: Tensor) -> npt.NDArray[np.float64]:
    """[B]: how far the numbers of each answer increase."""
    words = recipe.words()
    rows = [row[: row.index(words.end_id)] if words.end_id in row else row for row in ids_BL.tolist()]
    answers = [words.decode(row).strip() for row in rows]
    return np.asarray(text_reward(REWARD)([""] * len(answers), answers, [[]] * len(answers)), np.float64)


def answers_for_reward(reward_K: npt.NDArray[np.float64], earned: float = EARNED) -> float:
    """The least n, whole or not, for which the best of n answers drawn from K has a mean reward `earned` above that of one; infinite where
    the best of all is not enough."""
    ordered_K, rank_K = np.sort(reward_K), np.arange(len(reward_K) + 1) / len(reward_K)

    def best_of(n: float) -> float:
        return float((ordered_K * np.diff(rank_K**n)).sum())

    target, low, high = best_of(1.0) + earned, 1.0, float(len(reward_K))
    if best_of(high) < target:
        return math.inf
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if best_of(middle) >= target else (middle, high)
    return high


def logged(recipe: RL4LMs, rows: Pool, cell: Cell) -> RunFolder:
    """The finished run of a cell with a line for every rollout, where `trained` has one for every tenth."""
    if can_resume(cell.folder):
        folder = resume(cell.folder, rows, kind=type(recipe))
    else:
        options = TrainOptions(seed=cell.seed, progress=False, save_every=100, precision="fp32", device="cpu", log_every=1)
        folder = fit(cell.sized(recipe), rows, cell.folder, options)
    cell.spending.add(folder.expect_finished(), type(recipe))
    return folder


def number_rows(count: int = TEXTS) -> Pool:
    """Walks over numbers, of which a step goes down by two to up by three: "4 6 5 8 8 11 10 13". The same for every seed."""
    samples = []
    for row in range(count):
        rng = keyed_rng("rl4lms numbers", row)
        numbers = [int(rng.integers(0, 10))]
        while len(numbers) < LENGTH:
            numbers.append(int(np.clip(numbers[-1] + rng.integers(-2, 4), 0, LARGEST)))
        samples.append(Sample(f"numbers-{row}", None, (Text(" ".join(map(str, numbers)), "en"),)))
    return Pool.from_samples(samples, name="numbers")


def drift_at_reward(reward: list[float], kl: list[float], earned: float = EARNED) -> float:
    """KL where the reward first is `earned` above its first value, both as means of `WINDOW` values, on the line between two of them;
    `NEVER` where it never is."""
    reach = WINDOW // 2
    means = [
        [float(np.mean(values[max(0, at - reach) : at + reach + 1])) for at in range(len(values))] for values in (reward, kl)
    ]
    target = reward[0] + earned
    if means[0][0] >= target:
        return float(np.clip(means[1][0], 0.0, NEVER))
    for before in range(len(reward) - 1):
        (low, high), (near, far) = means[0][before : before + 2], means[1][before : before + 2]
        if low < target <= high:
            return float(np.clip(near + (target - low) / (high - low) * (far - near), 0.0, NEVER))
    return NEVER


def claims() -> tuple[Claim, ...]:
    tiny = RL4LMs.tiny()
    nlpo = replace(
        tiny, small_steps=200, pieces=320, prompts="nothing", reward=REWARD, prompt_length=2, max_tokens=12,
        batch_size=ANSWERS, steps=STEPS, minibatch=TOKENS, ppo=replace(tiny.ppo, transitions=TOKENS),
    )  # fmt: skip
    ppo = replace(nlpo, algorithm="ppo")
    length = LengthRewarded(**{each.name: getattr(ppo, each.name) for each in fields(ppo) if each.init} | {"reward": "length:10"})
    return (
        Claim(
            slug="rl4lms",
            kind="paper's claim",
            sentence="At an equal reward NLPO has drifted less from the language model that it began as than PPO",
            source="2210.01241: masks keep a policy near fluent text; an independent run of the release did not reproduce its scores",
            refuted="a difference whose interval lies above zero",
            baseline=Arm("ppo", Drifting(ppo), RATES),
            method=Arm("nlpo", Drifting(nlpo), RATES),
            controls=(
                Arm("ppo without KL", Drifting(replace(ppo, ppo=replace(ppo.ppo, kl=0.0)))),
                Arm("ppo on length alone", Drifting(length)),
                Arm("best of n samples", BestOfSamples(ppo)),
            ),
            metric="drift",
            higher_is_better=False,
            margins=Margins(matters=0.05, equivalence=0.05),
            equal_budget=("samples",),
            data=f"walks of {LENGTH} numbers by a small language model of all seeds; the reward is the share of a row that increases",
            reported=("last_reward", "last_kl"),
            seeds=5,
            tuning_seeds=(0,),
        ),
    )
