"""All claims with their newest verdicts: what the table, the pages and the forest plot show. Holm's correction is over the main claims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diptych.claims import freshness, ledger
from diptych.claims.claim import Claim
from diptych.claims.freshness import State
from diptych.claims.ledger import Entry, Superseded
from diptych.claims.verdict import LEVEL, holm
from diptych.report.forest import WIDE, ControlMark, ForestLayout, ForestRow, forest_plot

WIDTH = 26
NOT_JUDGED = "not judged"
COUNTED = ("shown", "reversed", "equal within the margin", "open", "no verdict", NOT_JUDGED)


@dataclass(frozen=True, slots=True)
class Row:
    """p_holm  of the newest verdict, adjusted over all main claims, those without verdict too (their p is 1); no number for further claims
    tries   declarations that were run to their end by the log
    """

    claim: Claim
    entry: Entry | None
    state: State | None
    before: tuple[Superseded, ...] = ()
    p_holm: float = math.nan
    tries: int = 1
    remark: str = field(default="", repr=False)

    @property
    def verdict(self) -> str:
        return self.entry.verdict if self.entry else NOT_JUDGED

    @property
    def counted(self) -> str:
        """The verdict after Holm's correction: what counts where verdicts are counted. Of further claims the verdict itself."""
        decided = self.verdict in ("shown", "reversed") and not self.claim.name
        return "open" if decided and not self.p_holm < LEVEL else self.verdict

    def to_json(self) -> dict[str, Any]:
        return {
            "claim": self.claim.key,
            "kind": self.claim.kind,
            "verdict": self.verdict,
            "counted": self.counted,
            "state": self.state,
            "p_holm": None if math.isnan(self.p_holm) else self.p_holm,
            "tries": self.tries,
            "entry": asdict(self.entry) if self.entry else None,
            "superseded": [line.line for line in self.before],
        }


def rows(folder: Path, claims: Sequence[Claim], *, states: bool = True) -> list[Row]:
    """In the order of the claims. states=False does not ask whether verdicts are fresh, which reads all sources."""
    kept = freshness.read(folder) if states else {}
    latest = [(claim, ledger.latest(folder, claim.key)) for claim in claims]
    main = {claim.key: entry.p if entry and entry.verdict != "no verdict" else 1.0 for claim, entry in latest if not claim.name}
    judged = {claim.key for claim, entry in latest if entry and entry.verdict != "no verdict"}
    adjusted = {key: p for key, p in zip(main, holm(list(main.values())), strict=True) if key in judged}
    return [
        Row(
            claim,
            entry,
            freshness.state(kept, claim, entry) if states and entry else None,
            tuple(ledger.superseded(folder, claim.key)),
            adjusted.get(claim.key, math.nan),
            ledger.tries(folder, claim),
            ledger.remark(folder, claim.key),
        )
        for claim, entry in latest
    ]


def processor_hours(entries: Sequence[Row]) -> float:
    """Of the newest verdicts together: sweeps, arms and controls, and the models that cells share, where their cost is known."""
    return sum(row.entry.cpu_seconds + (row.entry.shared_cpu_seconds or 0.0) for row in entries if row.entry) / 3600


def table_lines(entries: Sequence[Row]) -> list[str]:
    """A line a claim for a terminal."""
    lines = []
    for row in entries:
        if row.entry is None:
            before = f"  (by earlier rules: {row.before[-1].line.get('verdict')})" if row.before else ""
            lines.append(f"{row.claim.key:<{WIDTH}}{NOT_JUDGED}{before}")
            continue
        entry, (low, high) = row.entry, row.entry.interval
        words = f"{entry.verdict}{'' if row.state == 'fresh' else f' ({row.state})'}"
        corrected = "" if math.isnan(row.p_holm) else f", Holm {row.p_holm:.2g}"
        numbers = f"{entry.metric} {entry.difference:+.4f} [{low:+.4f}, {high:+.4f}], p {entry.p:.2g}{corrected}"
        tries = f"  tries: {row.tries}" if row.tries > 1 else ""
        lines.append(f"{row.claim.key:<{WIDTH}}{words:<32}{numbers}{tries}  {entry.date} {entry.commit}")
    main = [row for row in entries if not row.claim.name]
    counts = [f"{sum(row.counted == word for row in main)} {word}" for word in COUNTED]
    return [
        *lines,
        f"after Holm's correction over all {len(main)} main claims, those without a verdict with p = 1: {', '.join(counts)}",
        f"all verdicts together took {processor_hours(entries):.1f} processor hours",
    ]


def forest(entries: Sequence[Row], layout: ForestLayout = WIDE) -> str:
    """SVG of all claims that have a verdict, sorted by their gain in units of what matters."""
    judged = [(row, row.entry) for row in entries if row.entry]
    spans = []
    for row, entry in judged:
        unit = entry.matters * (1 if entry.higher_is_better else -1)
        ends = sorted(value / unit for value in entry.interval)
        base = _mean(entry.baseline.scores[entry.metric])
        marks = tuple(ControlMark(side.name, (_mean(side.scores[entry.metric]) - base) / unit) for side in entry.every_control)
        dots = zip(entry.baseline.scores[entry.metric], entry.method.scores[entry.metric], strict=True)
        each = tuple((method - baseline) / unit for baseline, method in dots)
        name = row.claim.key if row.state == "fresh" else f"{row.claim.key} ({row.state})"
        spans.append(ForestRow(name, entry.difference / unit, (ends[0], ends[1]), row.verdict, each, marks))
    return forest_plot(sorted(spans, key=lambda span: span.mean, reverse=True), layout=layout)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
