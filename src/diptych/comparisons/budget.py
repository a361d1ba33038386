"""Training budget of a comparison's arms, in steps, samples or seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from diptych.core.errors import ConfigError

Kind = Literal["steps", "samples", "seconds"]


@dataclass(frozen=True, slots=True)
class Budget:
    """Training budget of every arm.

    steps    optimiser steps
    samples  samples seen, repeats included; rounded up to whole batches
    seconds  of training on this machine; turned into steps by the time of a few real ones (`compare.py` says when)
    """

    kind: Kind
    amount: int

    @classmethod
    def parse(cls, words: str) -> Budget:
        """
        >>> Budget.parse("samples:25600")
        Budget(kind='samples', amount=25600)
        """
        kind, colon, number = words.strip().partition(":")
        digits = number.replace(",", "").replace("_", "")
        if kind not in get_args(Kind) or not colon or not digits.isdigit() or int(digits) < 1:
            raise ConfigError(f"budget {words!r} (expected steps:N, samples:N or seconds:N with N from 1, such as steps:200)")
        return cls(kind, int(digits))  # type: ignore[arg-type]

    def steps_of(self, batch_size: int, seconds_a_step: float = math.nan) -> int:
        """Optimiser steps that this budget pays for; at least one."""
        if self.kind == "steps":
            return self.amount
        if self.kind == "samples":
            return math.ceil(self.amount / batch_size)
        return max(1, int(self.amount / seconds_a_step))

    def __str__(self) -> str:
        return f"{self.kind}:{self.amount}"
