"""Reward interface, and validation of rewards: one finite number per answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DiptychError, RunError

SHOWN = 60
"""Characters of a prompt or an answer that an error message quotes."""


class Reward(Protocol):
    """Score of each answer, in its own unit; higher is better. An answer may be empty."""

    def __call__(
        self, prompts: Sequence[str], answers: Sequence[str], references: Sequence[Sequence[str]]
    ) -> Sequence[float] | npt.NDArray[np.float64]: ...


def checked_rewards(
    name: str, reward: Reward, prompts: Sequence[str], answers: Sequence[str], references: Sequence[Sequence[str]]
) -> npt.NDArray[np.float64]:
    """Rewards of N answers, [N]. Raises RunError, on one line with the prompt and the answer, if a reward is not finite, if the
    number of rewards differs from the number of answers, or if the reward function itself raises."""
    try:
        scores_N = np.asarray(reward(prompts, answers, references), np.float64)
    except DiptychError:
        raise
    except Exception as error:
        raise RunError(f"reward '{name}' raised {type(error).__name__} on {len(answers)} answers: {error}") from error
    if scores_N.shape != (len(answers),):
        raise RunError(f"reward '{name}' gave {list(scores_N.shape)} scores for {len(answers)} answers (expected one each)")
    if not np.isfinite(scores_N).all():
        row = int(np.flatnonzero(~np.isfinite(scores_N))[0])
        what = "an empty answer" if not answers[row].strip() else f"the answer {answers[row][:SHOWN]!r}"
        raise RunError(f"reward '{name}' of {what} to {prompts[row][:SHOWN]!r} is {scores_N[row]} (expected a finite number)")
    return scores_N
