"""Evaluation of a model by a task: predict, keep the records, score. Used by the public API, training and comparison."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from diptych.core.contracts import Dataset, Task
from diptych.core.disk.files import write_json
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Result
from diptych.models.io.open_address import require
from diptych.tasks._scoring.records import read_records, with_facts, write_records
from diptych.tasks.roles import open_roles


def evaluate(
    task: Task, model: Any, data: Dataset, *, others: Mapping[str, Any] | None = None, out: Path | None = None
) -> Result:
    """Result of one protocol. With `out`, a folder, also OUT/TASK-DATA.parquet (records) and OUT/TASK-DATA.json (result).

    others   models or addresses by role, for a task with roles
    Raises ConfigError when a model lacks what the task asks for or records lack declared columns, DataError when data are empty or do
    not fit.
    """
    require(model, task.needs, who=f"task '{task.name}'")
    parts = open_roles(task, others or {})
    if not len(data):
        raise DataError(f"'{data.name}' is empty: there is nothing to evaluate", expected="one sample or more")
    ask: Callable[..., pa.Table] = task.predict
    before = getattr(model, "spent", None)
    predictions = ask(model, data, **parts)
    cast_in = {name: [_identity(one) for one in _several(part)] for name, part in parts.items() if part is not None}
    columns = getattr(task, "report_columns", None)
    if columns is not None and (missing := {*asdict(columns).values()} - {*predictions.column_names, ""}):
        raise ConfigError(
            f"task '{task.name}' declares report columns that its records lack: {', '.join(sorted(missing))} "
            f"(they have {', '.join(predictions.column_names)})"
        )
    records = with_facts(
        predictions,
        protocol=f"{task.name} v{task.version}",
        data={"name": data.name, "fingerprint": data.fingerprint, "samples": len(data)},
        model=_identity(model),
        **({} if before is None else {"spent": asdict(model.spent - before)}),
        **({"roles": cast_in} if cast_in else {}),
        **({} if columns is None else {"report_columns": asdict(columns)}),
    )
    result = task.score(records)
    if out is not None:
        stem = file_stem(task.name, data.name)
        write_records(out / f"{stem}.parquet", records)
        write_json(out / f"{stem}.json", result.to_json())
    return result


def _several(part: Any) -> list[Any]:
    return part if isinstance(part, list) else [part]


def _identity(model: Any) -> dict[str, str]:
    return {"name": getattr(model, "name", type(model).__name__), "fingerprint": getattr(model, "fingerprint", "")}


def rescore(task: Task, path: Path) -> Result:
    """Result from kept records, with this task's tie policy and options; the model is not needed."""
    return task.score(read_records(path))


def file_stem(task: str, data: str) -> str:
    """File name of task and data: everything but letters, digits, dots, dashes and underscores becomes a dash."""
    return f"{task}-{re.sub(r'[^A-Za-z0-9._-]+', '-', data).strip('-.') or 'data'}"
