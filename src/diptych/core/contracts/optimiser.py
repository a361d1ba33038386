"""Declarative specification of an optimiser."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from diptych.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Rule:
    """Optimiser settings for parameters whose name matches `pattern` (a regular expression, `re.search`).

    lr_scale multiplies the learning rate; 0 freezes (no gradient is computed). With `counted` it does not: gradients are computed and
    count in the norm that is clipped, and a shared `floor` "rate" still applies to them. decay None keeps the default.
    With `length` above 1 their schedule is that of a run this many times as long, of which these steps are the beginning: a rate
    that falls is not at its end when the others are. `constant` keeps their rate at lr * lr_scale, without warm-up or schedule.
    The first rule that matches wins.
    """

    pattern: str
    lr_scale: float = 1.0
    decay: bool | None = None
    counted: bool = False
    length: float = 1.0
    constant: bool = False


@dataclass(frozen=True, slots=True)
class Optimiser:
    """The optimiser as data; `train/optimise.py` builds it. Weight decay is decoupled and spares every parameter with
    fewer than two dimensions (biases, norms, scale) unless a rule says otherwise. With `coupled_decay`, for "sgd" and "adamw",
    it is added to the gradient instead and enters the momentum, as in the published recipes of ImageNet; "adamw" is then Adam.

    adam  "adamw" as "torch" has it, or as "transformers" 4.24 had it (`CorrectedAdamW`), which some published code calls
    lamb  "lamb" as "written", its running means corrected for their start, tensors without decay not rescaled, or "plain" as an early
          implementation has it that published runs name (`PlainLamb`)
    over  what "cosine" and "linear" fall along: the "rest" after the warm-up; the whole "run", whose beginning the warm-up takes, as in
          LAVIS and timm; "both", the whole run with the warm-up as a factor of it, as in OpenMMLab
    warmup_rounds  a warm-up that is a share of the run has the "nearest" whole number of steps, or is rounded "up" as in transformers, or
          "down" as in OpenMMLab
    floor what cosine, linear and decay do not fall below: lr * final_lr as a "share", which each rule's lr_scale multiplies, or as one
          "rate" for all parameters, as in OpenMMLab and timm: it then lifts those of a small lr_scale. "cut": they fall to 0, and what is
          below lr * final_lr is lifted to it, in the warm-up too
    """

    kind: Literal["adamw", "sgd", "lamb", "adan"] = "adamw"
    adam: Literal["torch", "transformers"] = "torch"
    lamb: Literal["written", "plain"] = "written"
    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.2
    schedule: Literal["cosine", "linear", "constant", "step", "decay", "one_cycle", "half_life"] = "cosine"
    warmup: float = 0.0  # steps when >= 1, else a share of the run
    warmup_rounds: Literal["nearest", "up", "down"] = "nearest"
    warmup_from: float | None = None  # share of lr at step 0, from which warm-up is linear; None: the first step has lr / warmup
    warmup_peak: Literal["after", "last"] = "after"  # with warmup_from: lr is reached after the warm-up, or with its last step
    # steps that a stair of the warm-up takes, the first one a step more, as where a schedule moves after the update; 0: each step rises
    warmup_stair: int = 0
    # warm-up: evenly, with each period to its share, by the step's logarithm, or evenly and over with the "first" period however long
    rises: Literal["step", "period", "log", "first"] = "step"
    final_lr: float = 0.0  # share of lr at the end
    floor: Literal["share", "rate", "cut"] = "share"
    over: Literal["rest", "run", "both"] = "rest"
    late: float = (
        0  # each step has the rate of this many before it, as where a schedule moves after the update; or of a part of one
    )
    late_peak: bool = False  # the first ones, which have none before them, have lr itself, and not the rate of step 0
    part: tuple[float, float] = (0.0, 1.0)  # which part of the whole schedule, warm-up included, these steps go through
    power: float = 1.0  # "linear": of what is left of the way, as in polynomial schedules
    drop_at: float | tuple[float, ...] = 0.75  # "step": shares of the run from each of which the rate is a tenth of what it was
    decay_drops: tuple[float, ...] = ()  # shares of the run from each of which the weight decay is a tenth of what it was
    final_decay: float | None = None  # weight decay moves from weight_decay to it as half a cosine over the whole run
    decay_rate: float = 0.9  # "decay": the rate is multiplied by it after each period, and stays at or above lr * final_lr
    periods: float = 1.0  # "decay", and what falls or rises by the "period": how many the run has, usually its epochs
    falls: Literal["step", "period"] = "step"  # cosine and linear: at each step, or after each period
    half_life: float = 0.0  # "half_life": steps in which the rate halves, from the first on; warm-up is a factor of it
    clip_norm: float = 0.0  # global gradient norm; 0 leaves gradients alone
    # the norm is that of all gradients, the largest absolute value among them, or each child module of the model has its own
    clip_by: Literal["norm", "largest", "parts"] = "norm"
    coupled_decay: bool = False
    third_beta: float = 0.99  # "adan": what is kept of the mean of squares; `betas` are of gradients and of their differences
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "warmup", "clip_norm"):
            value = getattr(self, name)
            if not value >= 0 or (value == math.inf and name != "clip_norm"):  # a norm is never above infinity
                raise ConfigError(f"{name} is {value} (expected a finite number, 0 or more)")
        if self.schedule == "half_life" and not self.half_life > 0:
            raise ConfigError(f"half_life is {self.half_life} (expected above 0)")
