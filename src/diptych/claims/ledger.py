"""The ledger: one file a system, ``docs/claims/SLUG.jsonl``, with a remark beside it. Written only by the command, never edited.

A line is a verdict, or a verdict of earlier rules that is kept and superseded. Whether the code has changed since stands in
`claims/freshness.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from diptych.claims.claim import Claim
from diptych.claims.controls.raw_input import BLIND
from diptych.claims.verdict import Judgement, Margins, judge
from diptych.core.config import from_plain
from diptych.core.disk.json_text import parse_json
from diptych.core.errors import ConfigError, DataError, UnknownName

LOG = "log.jsonl"
"""Every run, also those that were dry, smoke tests excepted: there is no quiet second try."""


@dataclass(frozen=True, slots=True)
class Side:
    """An arm or control. `scores`: metric -> one value a seed; `budget`: means a cell, see `claims/budget.py`."""

    name: str
    scores: dict[str, list[float]]
    rate: float | None
    budget: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Entry:
    """A verdict.

    hash             of the declaration
    sweep            arm -> {"rates": {rate: [a score a tuning seed]}, "chosen": rate, "at_edge": bool, "widened": [rate]}: those that
                     the runner tried beyond the declared ones
    reached          control -> the arms that are not above it
    p, p_equal       of the two-sided t test, and of the two one-sided tests at the equivalence margin
    seeds_needed     for power .8 at the margin that matters, at the spread that was seen
    cpu_seconds      of all cells, the sweep and the controls included
    bounds           what could be reached at best; no part of the verdict
    shared_cpu_seconds  of models that all cells share (a base, a language model), once, beside `cpu_seconds`; None: not known
    tries            declarations of this claim that were run to their end, this one included, by the log
    raw              raw-input controls that the runner added; raw_missing says why others do not fit the claim
    rejudged, was    date on which kept scores were judged again by a later rule, and the verdict before; "" of a verdict of its own
    """

    claim: str
    kind: str
    date: str
    commit: str
    hash: str
    machine: dict[str, Any]
    seeds: tuple[int, ...]
    data: str
    metric: str
    higher_is_better: bool
    matters: float
    equivalence: float
    baseline: Side
    method: Side
    controls: tuple[Side, ...]
    equal_budget: tuple[str, ...]
    sweep: dict[str, Any]
    difference: float
    interval: tuple[float, float]
    p: float
    p_equal: float
    verdict: str
    why: str
    reached: dict[str, list[str]]
    seeds_needed: int
    cpu_seconds: float
    bounds: tuple[Side, ...] = ()
    shared_cpu_seconds: float | None = 0.0
    tries: int = 1
    raw: tuple[Side, ...] = ()
    raw_missing: dict[str, str] = field(default_factory=dict)
    rejudged: str = ""
    was: str = ""

    @property
    def sides(self) -> tuple[Side, ...]:
        return self.baseline, self.method, *self.every_control, *self.bounds

    @property
    def every_control(self) -> tuple[Side, ...]:
        """Declared controls and those that the runner added."""
        return *self.controls, *self.raw

    def judge(self) -> Judgement:
        """Judgement of the present rule on the scores of the line."""
        return judge(
            self.baseline.scores[self.metric],
            self.method.scores[self.metric],
            {side.name: side.scores[self.metric] for side in self.every_control},
            Margins(self.matters, self.equivalence),
            higher_is_better=self.higher_is_better,
            blind=BLIND,
        )


@dataclass(frozen=True, slots=True)
class Superseded:
    """A verdict of earlier rules, kept with why it counts no more; `line` holds all of it."""

    claim: str
    superseded: str
    line: dict[str, Any] = field(repr=False)


def learned(spent: Mapping[str, float | None]) -> bool:
    """True if an arm with this budget took a step, or read rows to solve for what it uses."""
    return any((spent.get(name) or 0) > 0 for name in ("steps", "samples", "labelled"))


Line = Entry | Superseded
OLD = ("closure", "trace")
"""Fields of lines from before freshness had a file of its own, where they stand now."""


def path_of(folder: Path, key: str) -> Path:
    """The file of the system of this claim."""
    return folder / f"{key.partition('/')[0]}.jsonl"


def append(path: Path, line: Entry | dict[str, Any]) -> None:
    """Add one line. A file is only ever appended to, so two branches merge by union."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(line if isinstance(line, dict) else asdict(line)), ensure_ascii=False, allow_nan=False)
    with path.open("a", encoding="utf-8") as file:
        file.write(text + "\n")


def lines(path: Path) -> Iterator[Line]:
    """Every line, oldest first; nothing when there is no file yet."""
    if not path.exists():
        return
    for row, text in enumerate(path.read_bytes().splitlines(), 1):
        try:
            plain = parse_json(text)
            if not isinstance(plain, dict):
                raise ValueError(f"a {type(plain).__name__}, where a mapping is expected")
            if "superseded" in plain:
                yield Superseded(plain["claim"], plain["superseded"], plain)
            else:
                yield from_plain(Entry, {name: value for name, value in plain.items() if name not in OLD})
        except (ValueError, KeyError, TypeError, ConfigError, UnknownName) as error:
            raise DataError(f"not a ledger line ({error})", file=path, row=row) from error


def entries(folder: Path, key: str) -> list[Entry]:
    """The verdicts on a claim by the present rules, oldest first."""
    return [line for line in lines(path_of(folder, key)) if isinstance(line, Entry) and line.claim == key]


def latest(folder: Path, key: str) -> Entry | None:
    """The newest verdict on a claim; where its scores were judged again, the newest such line, wherever in the file it is."""
    all_lines = entries(folder, key)
    newest = next((entry for entry in reversed(all_lines) if not entry.rejudged), None)
    if newest is None:
        return all_lines[-1] if all_lines else None
    again = [entry for entry in all_lines if entry.rejudged and _cells(entry) == _cells(newest)]
    return again[-1] if again else newest


def _cells(entry: Entry) -> tuple[Any, ...]:
    """Identifies the cells of a verdict."""
    return entry.hash, entry.commit, entry.date, entry.seeds


def tries(folder: Path, claim: Claim) -> int:
    """Declarations of a claim that were run to their end by the log, dry runs too, with the present one: what was changed until it won."""
    path, hashes = folder / LOG, {claim.hash()}
    for row, text in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
        try:
            line = parse_json(text)
            hashes |= {str(line["hash"])} if line["claim"] == claim.key and line.get("verdict") else set()
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"not a line of the log ({error})", file=path, row=row) from error
    return len(hashes)


def superseded(folder: Path, key: str) -> list[Superseded]:
    """The verdicts on a claim by earlier rules, oldest first."""
    return [line for line in lines(path_of(folder, key)) if isinstance(line, Superseded) and line.claim == key]


def remark(folder: Path, key: str) -> str:
    """Text under the heading ``## KEY`` in the system's remark file; "" when there is none."""
    path = path_of(folder, key).with_suffix(".md")
    if not path.exists():
        return ""
    remark_lines: list[str] = []
    inside = False
    for text in path.read_text(encoding="utf-8").splitlines():
        if text.startswith("## "):
            inside = text[3:].strip() == key
        elif inside:
            remark_lines.append(text)
    return "\n".join(remark_lines).strip()


def edits(claim: Claim, entry: Entry) -> list[str]:
    """In what a declaration differs from the one that was judged, as far as its line says; the trace says the rest."""
    pairs = {
        "metric": (entry.metric, claim.metric),
        "direction": (entry.higher_is_better, claim.higher_is_better),
        "margins": ((entry.matters, entry.equivalence), (claim.margins.matters, claim.margins.equivalence)),
        "arms": ((entry.baseline.name, entry.method.name), tuple(arm.name for arm in claim.arms)),
        "controls": (sorted(side.name for side in entry.controls), sorted(arm.name for arm in claim.controls)),
        "what is held equal": (sorted(entry.equal_budget), sorted(claim.equal_budget)),
        "data": (entry.data, claim.data),
        "number of seeds": (len(entry.seeds), claim.seeds),
        "tuning seeds": (_tuned_on(entry, "seeds"), {arm.name: list(claim.tuning_seeds) for arm in claim.arms if arm.rates}),
        "rates": (_tuned_on(entry, "rates"), {arm.name: [f"{rate:g}" for rate in arm.rates] for arm in claim.arms if arm.rates}),
    }
    return [f"{name}: {old} was judged, {new} is declared" for name, (old, new) in pairs.items() if old != new]


def _tuned_on(entry: Entry, name: str) -> dict[str, list[Any]]:
    return {arm: [value for value in swept[name] if value not in swept.get("widened", ())] for arm, swept in entry.sweep.items()}


def recompute_verdict(entry: Entry) -> str:
    """Verdict of the present rule on the scores of a line; one other than the line's own means that the rule has changed."""
    return entry.judge().verdict


def judged_again(entry: Entry, *, today: str, cpu_seconds: float = 0.0) -> Entry:
    """The line with the verdict of the present rule on its scores; `was` keeps the first one."""
    judged = entry.judge()
    return replace(
        entry,
        verdict=judged.verdict,
        why=judged.why,
        reached={name: list(arms) for name, arms in judged.reached.items()},
        was=entry.was or entry.verdict,
        rejudged=today,
        cpu_seconds=entry.cpu_seconds + cpu_seconds,
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
