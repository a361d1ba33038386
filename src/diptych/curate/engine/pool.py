"""Runs curation steps over a pool, one after the other, and records what each dropped, why, and its cost.

OUT/quarantine.parquet      rows that could not be read, and why
OUT/curation.json           input, output, steps with configuration and counts
OUT/tables/removed.parquet  uid, step, reason: one row per dropped sample
OUT/tables/step_NN_SLUG...  verdict of each finished step; an interrupted run resumes after the last of these
OUT/tables/NAME.parquet     columns that steps made (duplicate_of)
OUT/NAME                    other output files of a step (metaclip.html); of a step that comes again, with its number (metaclip_02.html)
OUT/lineage.json            steps from the first source on, with version, commit and time (`data.lineage`)
OUT/costs.json              seconds of every step; a separate file, so that equal work gives equal tables
OUT/parts/                  finished parts of an interrupted step
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.config import to_plain
from diptych.core.contracts import CurationStepResult, Dataset, Drop, Operator
from diptych.core.disk.files import write_atomic, write_json
from diptych.core.disk.lock import DISK_FULL, exclusive
from diptych.core.errors import RunError
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.tables import arrow_names, as_table, joined
from diptych.curate.engine.verdicts import (
    DROPS,
    ColumnByUid,
    DropTable,
    StringColumn,
    selected,
    verdict_result,
    verdict_table,
)
from diptych.data.columns import MadeBy, read_table, table_names, write_table
from diptych.data.curated import curation_id, is_curated, with_made_column
from diptych.data.dataset import Pool
from diptych.data.lineage.record import made_now, write_lineage
from diptych.data.quarantine import write_quarantine
from diptych.data.shards.mark import CURATION as MARK
from diptych.data.shards.mark import sweep_partial
from diptych.data.subset import uid_column

FORMAT = 1
COSTS = "costs.json"
ALARMING = 0.95  # share of dropped rows above which a report has a warning


class Selectable(Dataset, Protocol):
    """A data set whose subsets are of its own kind."""

    def select(self, rows: Sequence[int]) -> Self: ...


Data = TypeVar("Data", bound=Selectable)


@dataclass(frozen=True, slots=True)
class StepReport:
    """Report of one curation step: rows before and after, seconds, whether it was resumed from an earlier run, and printed
    notes."""

    slug: str
    config: dict[str, Any]
    before: int
    after: int
    seconds: float
    resumed: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CurationResult(Generic[Data]):
    """Kept rows, dropped rows with reasons in order of the steps, cost of each step, and the columns that steps made by name and uid."""

    kept: Data
    removed: Sequence[Drop]
    steps: tuple[StepReport, ...]
    columns: dict[str, Any]

    def lines(self) -> list[str]:
        """The removal table: rows before and after and the cost of each step, then dropped rows by kind of reason."""
        lines = []
        drops, start = DropTable.of(self.removed).table, 0
        for step in self.steps:
            left = drops.slice(start, step.before - step.after)  # a chain may have a step twice
            start += step.before - step.after
            each = f", {step.before / step.seconds:,.0f} rows per second" if step.seconds > 0 else ""
            resumed = ", taken from an earlier run" if step.resumed else ""
            lines.append(f"{step.slug} {step.before:,} -> {step.after:,} ({step.seconds:.1f} s{each}{resumed})")
            if step.after < step.before * (1 - ALARMING):
                lines.append(f"! {step.slug} dropped {1 - step.after / step.before:.1%} of the rows: look at the reasons below")
            lines += [f"  {note}" for note in step.notes]
            reasons = Counter(map(kind_of, StringColumn(left["reason"])))
            lines += [f"  {count:>9,}  {count / max(1, step.before):6.1%}  {reason}" for reason, count in reasons.most_common()]
        return lines


def kind_of(reason: str) -> str:
    """Kind of a drop reason: the text before the colon; of "same bytes as UID" and "near UID" the words before the uid.

    >>> kind_of("same bytes as cat-17"), kind_of("short_side: 12 pixels (expected more than 200)")
    ('same bytes as', 'short_side')
    """
    head = reason.split(":")[0]
    return next((kind for kind in ("same bytes as", "same pixels as", "near") if head.startswith(f"{kind} ")), head)


def curate(
    data: Data, operators: Sequence[Operator], out: Path | None = None, *, source: str = "", embeddings: Path | None = None
) -> CurationResult[Data]:
    """Applies the steps in order, each to the rows that the previous one kept, and returns the result.

    `source` is the address of `data`; it is recorded so that `out` can later be opened as the curated data set (`data.curated`).

    `embeddings` is a folder of embedding tables that steps read, and extend with missing images (`index.embedding_table`).

    With `out`, tables are written there, and finished steps of an earlier run with the same data and configuration are reused.
    Raises RunError if a step invents, loses or repeats a uid, or if another process is curating into `out`.
    """
    if out is None:
        return _curate_alone(data, operators, out, source, embeddings)
    target = out.absolute()
    with exclusive(target.parent, f".{target.name}.lock", f"{out} is being curated"):
        sweep_partial(out, finished=False)
        try:
            return _curate_alone(data, operators, out, source, embeddings)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise RunError(
                f"the disk of {out} is full: finished parts are kept; free some space and run the same command again"
            ) from error


def _curate_alone(
    data: Data, operators: Sequence[Operator], out: Path | None, source: str, embeddings: Path | None
) -> CurationResult[Data]:
    """The body of `curate`, run under its lock."""
    current = data
    removed: list[pa.Table] = []
    steps: list[StepReport] = []
    columns: dict[str, Any] = {}
    for number, operator in enumerate(operators):
        before, table = current, f"step_{number:02d}_{operator.slug}"
        config: dict[str, Any] = {"options": configuration(operator), "input": before.fingerprint}
        if columns:  # later steps read them, and no fingerprint covers them
            config["after"] = [[step.slug, step.config] for step in steps]
        made_by = MadeBy(operator.slug, config)
        done = _earlier_verdict(out, table, made_by) if out else None
        parts = PartStore(out / "parts" / table, made_by.config_hash) if out else PartStore()
        parts = dataclasses.replace(parts, embeddings=embeddings)
        result = done or (operator.run(before, parts) if hasattr(operator, "run") else operator(before))
        verdict = verdict_table(result)
        order = pc.sort_indices(uids := uid_column(before))
        if not verdict["uid"].combine_chunks().equals(uids.take(order)):
            _refuse(before, result, operator.slug)
        if out and not done:
            if operator.slug in {earlier.slug for earlier in operators[:number]}:  # files of both stay
                result = dataclasses.replace(result, files={_numbered(name, number): one for name, one in result.files.items()})
            _write_step(out, table, result, verdict, made_by)
            parts.clear()
            # Reloaded as a resumed run would: Parquet renames the fields of nested types, which changes the bytes written later.
            result = dataclasses.replace(result, columns=_stored_columns(out, table))
        for name, values in result.columns.items():
            columns[name] = joined(name, columns.get(name), values)
        current = selected(before, np.sort(order.to_numpy()[verdict["kept"].to_numpy()]))
        if isinstance(current, Pool) and number + 1 < len(operators):
            for name, values in result.columns.items():
                current = cast(Data, with_made_column(cast(Pool, current), name, as_table(name, values)))
        removed.append(DropTable.of(result.dropped).table)
        steps.append(
            StepReport(
                operator.slug,
                configuration(operator),
                len(before),
                len(current),
                result.seconds,
                resumed=done is not None,
                notes=result.notes,
            )
        )
    curation = CurationResult(current, DropTable(pa.concat_tables([DROPS.empty_table(), *removed])), tuple(steps), columns)
    if out:
        _write(out, data, curation, source)
        with suppress(OSError):  # parts of other steps are in it, or it was never made
            (out / "parts").rmdir()
    return curation


def plan(data: Dataset, operators: Sequence[Operator]) -> list[dict[str, Any]]:
    """Estimated cost of each step on the whole input; later steps will actually see fewer rows."""
    return [{"step": operator.slug, **operator.plan(data)} for operator in operators]


def configuration(operator: Operator) -> dict[str, Any]:
    """Configuration of an operator as plain values; a model is given by name and fingerprint. Fields marked "runtime" do
    not affect the result and are left out."""
    fields: Any = dataclasses.fields(operator)  # type: ignore[arg-type]  # operators are dataclasses by contract
    plain = {}
    for field in fields:
        if field.metadata.get("runtime"):
            continue
        value = getattr(operator, field.name)
        model = hasattr(value, "fingerprint")
        plain[field.name] = {"name": value.name, "fingerprint": value.fingerprint} if model else to_plain(value)
    for name in getattr(operator, "paths", ()):  # the content of a file counts, not only its path
        if path := getattr(operator, name):
            plain[f"{name}_sha256"] = _content(Path(path))
    return plain


def _content(path: Path) -> str:
    """Hash of a file, of all files of a folder or of a run's model; "" if the path does not exist (the step reports it)."""
    if (path / "run.json").is_file():
        path = path / "model"
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest() if path.exists() else ""


def _refuse(data: Dataset, result: CurationStepResult, slug: str) -> None:
    """Raises RunError unless the step returned exactly one verdict per uid."""
    judged = [*result.kept, *(drop.uid for drop in result.dropped)]
    uids = set(data.uids)
    if invented := set(judged) - uids:
        raise RunError(f"step '{slug}' invented uid '{min(invented)}'")
    if forgotten := uids - set(judged):
        raise RunError(f"step '{slug}' has no result for uid '{min(forgotten)}'")
    raise RunError(f"step '{slug}' judged a uid twice ({len(judged)} verdicts for {len(uids)} rows)")


def _write_step(out: Path, table: str, result: CurationStepResult, verdict: pa.Table, made_by: MadeBy) -> None:
    """Writes a step's tables, columns first: the presence of the verdict marks the step as finished."""
    for name, content in result.files.items():
        if isinstance(content, Path):
            out.mkdir(parents=True, exist_ok=True)
            shutil.move(content, out / name)
        else:
            write_atomic(out / name, content)
    for name, values in result.columns.items():
        write_table(out, f"{table}-{name}", as_table(name, values), made_by)
    as_tables = sorted(name for name, values in result.columns.items() if isinstance(values, pa.Table))
    config = {"of": made_by.config_hash, "columns": sorted(result.columns), "as_tables": as_tables}
    write_json(out / COSTS, {**_costs(out), table: result.seconds})
    write_table(out, table, verdict, dataclasses.replace(made_by, config=config))


def _earlier_verdict(out: Path, table: str, made_by: MadeBy) -> CurationStepResult | None:
    """Verdict of an earlier run, when it was made from the same data with the same configuration."""
    if table not in table_names(out):
        return None
    stored = read_table(out, table)
    config = stored.made_by.get("config") or {}
    if config.get("of") != made_by.config_hash:
        return None
    seconds = float(_costs(out).get(table, 0.0))
    return verdict_result(stored.table.replace_schema_metadata(None), made_by.step, _stored_columns(out, table), seconds)


def _stored_columns(out: Path, table: str) -> dict[str, Any]:
    """Columns of a finished step, as Arrow tables or by uid."""
    config = read_table(out, table).made_by["config"]
    made: dict[str, Any] = {}
    for column in config["columns"]:
        pairs = read_table(out, f"{table}-{column}").table.replace_schema_metadata(None)
        if column in config["as_tables"]:
            made[column] = pairs
        else:
            kind = arrow_names(pairs.schema.field(column).type)
            made[column] = ColumnByUid(pairs.set_column(1, column, pairs[column].cast(kind)))
    return made


def _numbered(name: str, number: int) -> str:
    """Name of a file of a step that a chain has twice.

    >>> _numbered("top_fraction.html", 3)
    'top_fraction_03.html'
    """
    stem, dot, ending = name.partition(".")
    return f"{stem}_{number:02d}{dot}{ending}"


def _costs(out: Path) -> dict[str, float]:
    path = out / COSTS
    costs: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return costs


def _write(out: Path, data: Dataset, curation: CurationResult[Any], source: str) -> None:
    drops = DropTable.of(curation.removed).table
    removed = drops.take(pc.sort_indices(drops["uid"])).combine_chunks()
    apart = ("notes", "seconds", "resumed")  # equal work gives equal bytes
    steps = [{name: value for name, value in to_plain(step).items() if name not in apart} for step in curation.steps]
    config = [{"step": step["slug"], "options": step["config"]} for step in steps]
    made_by = MadeBy("curate", {"input": data.fingerprint, "steps": config})
    write_table(out, "removed", removed, made_by)
    for name, values in curation.columns.items():
        write_table(out, name, as_table(name, values), made_by)
    kept = curation.kept
    summary = {
        "format": FORMAT,
        "input": {"name": data.name, "source": source, "fingerprint": data.fingerprint, "count": len(data)} | _earlier(source),
        "output": {"fingerprint": kept.fingerprint, "count": len(kept)},
        "columns": sorted(curation.columns),
        "steps": steps,
    }
    write_quarantine(out, getattr(data, "quarantine", []))
    write_json(out / MARK, summary)
    made = [made_now(step.slug, source, config=step.config, before=step.before, after=step.after) for step in curation.steps]
    if made:
        made[0] = dataclasses.replace(made[0], fingerprint=data.fingerprint)
    write_lineage(out, made, source)


def _earlier(source: str) -> dict[str, str]:
    """Identity of the curation that the input is, if it is one."""
    return {"curation": curation_id(Path(source))} if source and is_curated(Path(source)) else {}
