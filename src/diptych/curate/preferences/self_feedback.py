"""The log-ratio of an aligned model and its reference as a reward, and the best of several answers by it (RLAIF-V, 2405.17220).

    reward(answer) = (log p(answer) - log p_ref(answer)) / tokens of the answer

Without the length a sum favours short answers wherever the aligned model is surer of none of their tokens.

Letters: C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import Ranker
from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource


def log_ratio_rewards(
    nll_C2: npt.NDArray[np.float64], reference_C2: npt.NDArray[np.float64], *, average: bool = True
) -> npt.NDArray[np.float64]:
    """Reward of each candidate, [C], from what `Ranker.answer_nll` gives by both models: nats and tokens."""
    ratio_C = reference_C2[:, 0] - nll_C2[:, 0]
    return ratio_C / np.maximum(nll_C2[:, 1], 1) if average else ratio_C


def best_answers(
    model: Ranker,
    reference: Ranker,
    images: Sequence[ImageSource | None],
    prompts: Sequence[str],
    candidates: Sequence[Sequence[str]],
    *,
    average: bool = True,
) -> list[str]:
    """The candidate of the highest reward for each image, of equal ones the first. Raises ConfigError for an image without candidates."""
    if any(not len(answers) for answers in candidates):
        raise ConfigError("an image has no candidates (expected one answer or more)")
    own, others = (scorer.answer_nll(images, prompts, candidates) for scorer in (model, reference))
    best = []
    for answers, nll_C2, reference_C2 in zip(candidates, own, others, strict=True):
        best.append(answers[int(np.argmax(log_ratio_rewards(nll_C2, reference_C2, average=average)))])
    return best
