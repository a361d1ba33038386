"""Run curation steps over a pool, one after the other, and write down what each dropped, why, and what it cost.

OUT/curation.json           input, output, steps with configuration, counts and seconds
OUT/tables/removed.parquet  uid, step, reason: a row for every sample that left
OUT/tables/step_NN_SLUG...  verdict of each finished step; a run that was cut short goes on after the last of these
OUT/tables/NAME.parquet     columns that steps made (duplicate_of)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import pyarrow as pa

from diptych.core.config import to_plain
from diptych.core.contracts import Curated, Dataset, Drop, Operator
from diptych.core.errors import RunError
from diptych.core.files import write_json
from diptych.data.columns import MadeBy, read_table, table_names, write_table

FORMAT = 1
VERDICT = pa.schema([("uid", pa.string()), ("kept", pa.bool_()), ("reason", pa.string())])
REMOVED = pa.schema([("uid", pa.string()), ("step", pa.string()), ("reason", pa.string())])


class Selectable(Dataset, Protocol):
    """A data set whose subsets are of its own kind."""

    def select(self, rows: Sequence[int]) -> Self: ...


Data = TypeVar("Data", bound=Selectable)


@dataclass(frozen=True, slots=True)
class StepReport:
    slug: str
    config: dict[str, Any]
    before: int
    after: int
    seconds: float
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class Curation(Generic[Data]):
    """The rows that stay, what left and why, what each step cost, and the columns that steps made by name and uid."""

    kept: Data
    removed: tuple[Drop, ...]
    steps: tuple[StepReport, ...]
    columns: dict[str, dict[str, Any]]

    def lines(self) -> list[str]:
        """One line a step: name, rows before and after, seconds."""
        return [f"{s.slug} {s.before:,} -> {s.after:,} ({s.seconds:.1f} s)" for s in self.steps]


def curate(data: Data, operators: Sequence[Operator], out: Path | None = None) -> Curation[Data]:
    """Apply the steps in order, each to what the one before kept.

    With `out`, tables are written there, and finished steps of an earlier run with the same data and configuration are taken from
    there. Raises RunError when a step invents, loses or repeats a uid.
    """
    current = data
    removed: list[Drop] = []
    steps: list[StepReport] = []
    columns: dict[str, dict[str, Any]] = {}
    for number, operator in enumerate(operators):
        before, table = current, f"step_{number:02d}_{operator.slug}"
        made_by = MadeBy(operator.slug, {"options": configuration(operator), "input": before.fingerprint})
        done = _finished(out, table, made_by) if out else None
        result = done or operator(before)
        _check(before, result, operator.slug)
        for name, values in result.columns.items():
            columns.setdefault(name, {}).update(values)
        if out and not done:
            _write_step(out, table, result, made_by)
        staying = set(result.kept)
        current = before.select([row for row, uid in enumerate(before.uids) if uid in staying])
        removed += result.dropped
        steps.append(
            StepReport(
                operator.slug, configuration(operator), len(before), len(current), result.seconds, resumed=done is not None
            )
        )
    curation = Curation(current, tuple(removed), tuple(steps), columns)
    if out:
        _write(out, data, curation)
    return curation


def plan(data: Dataset, operators: Sequence[Operator]) -> list[dict[str, Any]]:
    """What each step would cost on the whole input; a step after others will see fewer rows."""
    return [{"step": operator.slug, **operator.plan(data)} for operator in operators]


def configuration(operator: Operator) -> dict[str, Any]:
    """Fields as plain values; a model among them is given by name and fingerprint."""
    fields: Any = dataclasses.fields(operator)  # type: ignore[arg-type]  # operators are dataclasses by contract
    plain = {}
    for field in fields:
        value = getattr(operator, field.name)
        model = hasattr(value, "fingerprint")
        plain[field.name] = {"name": value.name, "fingerprint": value.fingerprint} if model else to_plain(value)
    return plain


def _check(data: Dataset, result: Curated, slug: str) -> None:
    judged = [*result.kept, *(drop.uid for drop in result.dropped)]
    known = set(data.uids)
    if invented := set(judged) - known:
        raise RunError(f"step '{slug}' invented uid '{min(invented)}'")
    if forgotten := known - set(judged):
        raise RunError(f"step '{slug}' says nothing about uid '{min(forgotten)}'")
    if len(judged) != len(known):
        raise RunError(f"step '{slug}' judged a uid twice ({len(judged)} verdicts for {len(known)} rows)")


def _write_step(out: Path, table: str, result: Curated, made_by: MadeBy) -> None:
    """Columns first: the verdict is what marks the step as finished."""
    for name, values in result.columns.items():
        uids = sorted(values)
        column = pa.table({"uid": pa.array(uids, pa.string()), name: [values[uid] for uid in uids]})
        write_table(out, f"{table}-{name}", column, made_by)
    rows = [(uid, True, "") for uid in result.kept] + [(drop.uid, False, drop.reason) for drop in result.dropped]
    rows.sort()
    verdict = pa.table([pa.array(c, f.type) for c, f in zip(_transposed(rows, 3), VERDICT, strict=True)], schema=VERDICT)
    config = {"of": made_by.config_hash, "seconds": result.seconds, "columns": sorted(result.columns)}
    write_table(out, table, verdict, dataclasses.replace(made_by, config=config))


def _finished(out: Path, table: str, made_by: MadeBy) -> Curated | None:
    """The verdict of an earlier run, when it was made from the same data with the same configuration."""
    if table not in table_names(out):
        return None
    stored = read_table(out, table)
    config = stored.made_by.get("config") or {}
    if config.get("of") != made_by.config_hash:
        return None
    rows = stored.table.to_pylist()
    kept = tuple(row["uid"] for row in rows if row["kept"])
    dropped = tuple(Drop(row["uid"], made_by.step, row["reason"]) for row in rows if not row["kept"])
    made = {}
    for column in config["columns"]:
        pairs = read_table(out, f"{table}-{column}").table
        made[column] = dict(zip(pairs["uid"].to_pylist(), pairs[column].to_pylist(), strict=True))
    return Curated(kept, dropped, made, float(config["seconds"]))


def _write(out: Path, data: Dataset, curation: Curation[Any]) -> None:
    rows = sorted((drop.uid, drop.step, drop.reason) for drop in curation.removed)
    removed = pa.table([pa.array(c, f.type) for c, f in zip(_transposed(rows, 3), REMOVED, strict=True)], schema=REMOVED)
    steps = [to_plain(step) for step in curation.steps]
    made_by = MadeBy("curate", [step["slug"] for step in steps])
    write_table(out, "removed", removed, made_by)
    for name, values in curation.columns.items():
        uids = sorted(values)
        write_table(out, name, pa.table({"uid": pa.array(uids, pa.string()), name: [values[u] for u in uids]}), made_by)
    kept = curation.kept
    summary = {
        "format": FORMAT,
        "input": {"name": data.name, "fingerprint": data.fingerprint, "count": len(data)},
        "output": {"fingerprint": kept.fingerprint, "count": len(kept)},
        "steps": steps,
    }
    write_json(out / "curation.json", summary)


def _transposed(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [[row[column] for row in rows] for column in range(width)]
