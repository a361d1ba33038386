"""Declaration of a claim. Everything that could be adjusted after seeing results is fixed here before the first run.

Metric, direction, margins, controls, rates, what is held equal, and by its hash the seeds of the verdict: an edited claim gets others.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from diptych.claims.budget import QUANTITIES, Quantity
from diptych.claims.cell import Work
from diptych.claims.declared import declared_hash
from diptych.claims.sweep import TUNING_SEEDS, TUNING_SHARE, around
from diptych.claims.verdict import MINIMUM_SEEDS, Margins
from diptych.core.errors import ConfigError

__all__ = ["QUANTITIES", "Arm", "Claim", "Kind", "Margins", "Work", "around", "declare"]

Kind = Literal["paper's claim", "mechanism check"]
SMALLEST_VERDICT_SEED, VERDICT_SEEDS = 1_000, 1_000_000
LONG = 2 * 10 * 60
"""Processor seconds of ten minutes on two cores: a verdict that takes longer says why in its claim."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A side of a claim, or a control: a name and what runs one cell of it.

    run    a frozen dataclass with `__call__(cell)`, whose fields are its configuration, or a function
    rates  learning rates to sweep, three at least, in the arm's own neighbourhood; none where nothing is trained
    """

    name: str
    run: Work
    rates: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.rates and len(set(self.rates)) < 3:
            raise ConfigError(f"arm '{self.name}' sweeps {len(set(self.rates))} rates (expected three at least, or none at all)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """`method` beats `baseline` in `metric`, and no control reaches both.

    name              tells a system's further claims from its main one, which has none
    kind              the paper's claim (its metric and baseline, made small), or a check that a part does what it says
    sentence          the claim in words, as a reader would repeat it
    source            paper and year, and which of its findings this is
    refuted           what result would refute it
    controls          what a reader would ask first: untrained, raw input, the trivial recipe. They never sweep
    bounds            what could be reached at best, with more than the arms are given (true labels, all tasks at once): run under the
                      same seeds, shown, and no part of the verdict. They never sweep
    margins           the smallest difference that would matter, and how close counts as equal
    equal_budget      quantities that must be within a tenth in both arms; the others are measured and shown
    tuned_by          metric by which rates are chosen; "" takes `metric`
    reported          further metrics that are written down and never decide
    seeds             how many give the verdict
    tuning_seeds      which ones choose the rates
    tuning_share      share of an arm's steps at which they are chosen
    why_long          why a verdict takes more than ten minutes of two cores (`LONG`), where it does
    """

    slug: str
    kind: Kind
    sentence: str
    source: str
    refuted: str
    baseline: Arm
    method: Arm
    controls: tuple[Arm, ...]
    metric: str
    margins: Margins
    data: str
    higher_is_better: bool = True
    equal_budget: tuple[Quantity, ...] = QUANTITIES
    tuned_by: str = ""
    reported: tuple[str, ...] = ()
    seeds: int = 5
    tuning_seeds: tuple[int, ...] = (0, 1, 2)
    bounds: tuple[Arm, ...] = ()
    name: str = ""
    why_long: str = ""
    tuning_share: float = TUNING_SHARE

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.every_arm]
        if len(set(names)) < len(names):
            raise ConfigError(f"claim '{self.key}': two of its arms and controls have the same name ({', '.join(names)})")
        if not self.controls:
            raise ConfigError(f"claim '{self.key}' does not name a control (expected one at least, such as the untrained model)")
        if any(arm.rates for arm in (*self.controls, *self.bounds)):
            raise ConfigError(f"claim '{self.key}': controls and bounds sweep no rates")
        if self.seeds < MINIMUM_SEEDS:
            raise ConfigError(f"claim '{self.key}' has {self.seeds} seeds (expected at least {MINIMUM_SEEDS})")
        if not 0 < self.tuning_share <= 1:
            raise ConfigError(f"claim '{self.key}' tunes at {self.tuning_share:g} of the steps (expected above 0, at most 1)")
        if not set(self.tuning_seeds) <= TUNING_SEEDS or not self.tuning_seeds:
            raise ConfigError(f"claim '{self.key}' tunes on seeds {self.tuning_seeds} (expected some of {sorted(TUNING_SEEDS)})")

    @property
    def key(self) -> str:
        """Name on the command line and in the ledger: "clip", or "clip/combinations"."""
        return f"{self.slug}/{self.name}" if self.name else self.slug

    @property
    def arms(self) -> tuple[Arm, Arm]:
        return self.baseline, self.method

    @property
    def every_arm(self) -> tuple[Arm, ...]:
        return (*self.arms, *self.controls, *self.bounds)

    def hash(self) -> str:
        """Twelve hex digits over the declaration and the configuration and code of its arms, not over words that explain it."""
        return declared_hash(self, without=("refuted", "source", "why_long"))

    def verdict_seeds(self, count: int = 0) -> tuple[int, ...]:
        """The seeds of the verdict, drawn from the hash: nobody chooses them, and an edited claim gets fresh ones."""
        chosen: list[int] = []
        draw = 0
        while len(chosen) < (count or self.seeds):
            digest = hashlib.sha256(f"{self.hash()}/{draw}".encode()).digest()
            seed = SMALLEST_VERDICT_SEED + int.from_bytes(digest[:8], "big") % (VERDICT_SEEDS - SMALLEST_VERDICT_SEED)
            chosen += [seed] if seed not in chosen else []
            draw += 1
        return tuple(chosen)


STEPS_AND_SAMPLES: tuple[Quantity, ...] = ("steps", "samples")


def declare(
    *,
    margins: Margins | float,
    kind: Kind = "paper's claim",
    equal_budget: tuple[Quantity, ...] = STEPS_AND_SAMPLES,
    refuted: str = "",
    **fields: Any,
) -> Claim:
    """A `Claim` of the paper, at equal steps and samples, refuted by an interval on the wrong side of zero, where nothing else is said.

    margins  one number for both: the smallest difference that would matter is also how close counts as equal

    Raises TypeError for a field that `Claim` does not have or that is missing.
    """
    side = "below" if fields.get("higher_is_better", True) else "above"
    return Claim(
        kind=kind,
        margins=margins if isinstance(margins, Margins) else Margins(matters=margins, equivalence=margins),
        equal_budget=equal_budget,
        refuted=refuted or f"a difference whose interval lies {side} zero",
        **fields,
    )
