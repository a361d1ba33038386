"""The schedule of BLIP's pre-training code (Li et al., 2022, arXiv 2201.12086), and of what is built on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from diptych.core.contracts import Optimiser
from diptych.core.errors import ConfigError

Schedule = Literal["epochs", "cosine"]


def with_schedule(
    spec: Optimiser, schedule: Schedule, *, decay_rate: float, epochs: float, warmup_lr: float, min_lr: float
) -> Optimiser:
    """The optimiser with that schedule.

    "epochs": warm-up is linear from `warmup_lr` and ends with the first epoch, where that is shorter; the rate is multiplied by
    `decay_rate` after each epoch and does not fall below `min_lr`. "cosine" leaves the optimiser as it is. Raises ConfigError.
    """
    if schedule == "cosine":
        return spec
    if schedule != "epochs":
        raise ConfigError(f"schedule is {schedule!r} (expected epochs | cosine)")
    if not 0 < decay_rate <= 1 or epochs <= 0:
        raise ConfigError(f"decay_rate is {decay_rate} over {epochs} epochs (expected above 0 and at most 1, over more than 0)")
    falls = replace(spec, schedule="decay", decay_rate=decay_rate, periods=epochs, final_lr=min_lr / spec.lr)
    return replace(falls, warmup_from=warmup_lr / spec.lr, rises="first")
