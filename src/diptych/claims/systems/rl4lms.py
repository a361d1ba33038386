"""RL4LMs on scenes: how far PPO and NLPO drift from the language model that they began as when both have earned the same reward."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.bridges import hosted
from diptych.claims.claim import Arm, Claim
from diptych.claims.training import trained
from diptych.claims.verdict import Margins
from diptych.models.io.saved_model import open_model
from diptych.recipes.alignment.rl4lms import RL4LMs
from diptych.tasks.generation.generated_text import TextGeneration
from diptych.worlds.scenes.world import scenes

TEXTS = "small:world:scenes?n=2000&seed=1&max_objects=2&lengths=short&paraphrases=0&negatives=false"
SCENES, TESTED, SMOKE_ROWS = 320, 60, 16
RATES = (1e-4, 2e-4, 4e-4)
EARNED, NEVER = 0.05, 1.0
"""Reward above that of the first rollouts at which drift is read, and the drift of a run that never earns it."""


@dataclass(frozen=True)
class Drifting:
    """Tunes the shared language model on prompts of the cell's seed.

    drift     KL to the reference by token, in nats, where the reward of the rollouts first is `EARNED` above that of the first ones
    reward    of greedy answers to prompts of other scenes; repetition, the share of their word pairs that they repeat
    """

    recipe: RL4LMs

    def __call__(self, cell: Cell) -> Scores:
        train, test = (
            scenes(
                SMOKE_ROWS if cell.smoke else count,
                seed=cell.seed,
                split=split,  # type: ignore[arg-type]
                max_objects=2,
                lengths=("short",),
                paraphrases=0,
                negatives=False,
            ).remembering()
            for split, count in (("train", SCENES), ("test", TESTED))
        )
        run = trained(hosted(self.recipe, cell, address=TEXTS), train, cell)
        lines = [line for line in run.metrics() if line["kind"] == "train"]
        task = TextGeneration(max_tokens=24, draws=1, window=50)
        metrics = task.score(task.predict(open_model(run.model), test)).metrics
        return {
            "drift": drift_at_reward([line["reward"] for line in lines], [line["kl"] for line in lines]),
            "reward": metrics["reward"].value,
            "repetition": metrics["repetition"].value,
            "last_kl": lines[-1]["kl"],
        }


def drift_at_reward(reward: list[float], kl: list[float], earned: float = EARNED) -> float:
    """KL where the reward first is `earned` above its first value, on the line between two logged rollouts; `NEVER` where it never is."""
    target = reward[0] + earned
    for before in range(len(reward) - 1):
        if reward[before] < target <= reward[before + 1]:
            share = (target - reward[before]) / (reward[before + 1] - reward[before])
            return float(np.clip(kl[before] + share * (kl[before + 1] - kl[before]), 0.0, NEVER))
    return NEVER


def claims() -> tuple[Claim, ...]:
    nlpo = replace(RL4LMs.tiny(), small_steps=400, steps=12)
    ppo = replace(nlpo, algorithm="ppo")
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
                Arm("reward is length alone", Drifting(replace(ppo, reward="length:20"))),
            ),
            metric="drift",
            higher_is_better=False,
            margins=Margins(matters=0.01, equivalence=0.01),
            equal_budget=("samples",),
            data=f"{SCENES} scenes of two things, METEOR of a sentence about their phrases; a small language model that all seeds share",
            reported=("reward", "repetition", "last_kl"),
            seeds=4,
            tuning_seeds=(0,),
        ),
    )
