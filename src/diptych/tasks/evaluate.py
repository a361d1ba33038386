"""Run a task on a model: predict, keep the records, score. The one way in for the public face, training and comparison."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from diptych.core import contracts
from diptych.core.contracts import Dataset, Task
from diptych.core.errors import ConfigError, DataError
from diptych.core.files import write_json
from diptych.core.result import Result
from diptych.tasks._scoring.records import read_records, with_facts, write_records

CAPABILITIES = (
    "Embedder",
    "TokenEmbedder",
    "DenseEmbedder",
    "LexicalEmbedder",
    "Detector",
    "Relater",
    "Segmenter",
    "Generator",
    "PointEmbedder",
    "ClipEmbedder",
)


def evaluate(task: Task, model: Any, data: Dataset, *, out: Path | None = None) -> Result:
    """The result of one protocol. With `out`, a folder, also OUT/TASK-DATA.parquet (records) and OUT/TASK-DATA.json (result).

    Raises ConfigError when the model lacks what the task asks for, DataError when the data are empty or do not fit.
    """
    require(model, task.needs, who=f"task '{task.name}'")
    if not len(data):
        raise DataError(f"'{data.name}' is empty: there is nothing to evaluate", expected="one sample or more")
    records = with_facts(
        task.predict(model, data),
        protocol=f"{task.name} v{task.version}",
        data={"name": data.name, "fingerprint": data.fingerprint, "samples": len(data)},
        model={"name": getattr(model, "name", type(model).__name__), "fingerprint": getattr(model, "fingerprint", "")},
    )
    result = task.score(records)
    if out is not None:
        stem = file_stem(task.name, data.name)
        write_records(out / f"{stem}.parquet", records)
        write_json(out / f"{stem}.json", result.to_json())
    return result


def rescore(task: Task, path: Path) -> Result:
    """Score kept records again, with this task's tie policy and options; the model is not needed."""
    return task.score(read_records(path))


def require(model: Any, capability: type, *, who: str) -> None:
    """Refuse a model that cannot do what is asked; says what it can do."""
    if not isinstance(model, capability):
        offers = [name for name in CAPABILITIES if isinstance(model, getattr(contracts, name))]
        name = getattr(model, "name", type(model).__name__)
        raise ConfigError(f"{who} needs a model that is an {capability.__name__}; '{name}' offers {', '.join(offers) or 'none'}")


def file_stem(task: str, data: str) -> str:
    """A file name that tells task and data: everything but letters, digits, dots, dashes and underscores becomes a dash."""
    return f"{task}-{re.sub(r'[^A-Za-z0-9._-]+', '-', data).strip('-.') or 'data'}"
