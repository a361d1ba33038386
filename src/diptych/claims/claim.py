"""What a claim is. Everything that could be bent afterwards (metric, direction, budget) stands here before the first run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from diptych.claims.verdict import Margins
from diptych.core.errors import ConfigError

Scores = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm under one seed. `folder` may hold a run that a kill interrupted; the arm goes on with it.

    smoke asks for the smallest thing that still exercises the code: two steps, a handful of samples.
    """

    seed: int
    folder: Path
    smoke: bool = False


@dataclass(frozen=True, slots=True)
class Arm:
    """A side of a claim: a name and what runs one cell of it and returns metric values.

    shared   its cells stand for all claims of its system that have the same sources and this arm: run once. The name must be its own there
    """

    name: str
    run: Callable[[Cell], Scores]
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """`method` beats `baseline` in `metric` under one budget.

    sentence   the claim in words, as a reader would repeat it
    source     paper and year, and which of its findings this is
    refuted    what result would speak against it
    budget     the same for both arms, in words ("200 steps x 256 pairs")
    sources    modules whose text decides the result; when one changes, the ledger line is stale
    """

    slug: str
    sentence: str
    source: str
    refuted: str
    baseline: Arm
    method: Arm
    metric: str
    budget: str
    data: str
    sources: tuple[str, ...]
    higher_is_better: bool = True
    reported: tuple[str, ...] = field(default=())
    """Further metrics that are written down and never decide."""
    margins: Margins = Margins(0.01, 0.01)
    name: str = ""
    """Tells a system's further claims from its main one, which has none."""

    @property
    def key(self) -> str:
        """What the command line and the ledger call it: "clip", or "clip/combinations"."""
        return f"{self.slug}/{self.name}" if self.name else self.slug

    def source_hash(self) -> str:
        """Twelve hex digits over the text of `sources`, in order."""
        digest = hashlib.sha256()
        for name in self.sources:
            spec = find_spec(name)
            if spec is None or spec.origin is None:
                raise ConfigError(f"claim '{self.key}': there is no module {name}")
            digest.update(Path(spec.origin).read_bytes())
        return digest.hexdigest()[:12]
