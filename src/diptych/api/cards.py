"""Facts of a training run for its model card: data and licences, training, scores."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from diptych.api.data import read
from diptych.core.disk.files import write_atomic
from diptych.core.run_folder import RunFolder
from diptych.models.io.card import completed
from diptych.worlds.rendered import RenderedDataset

READ = 10_000
"""Samples of a data set without columns whose licences are counted: each is opened for it."""


def write_card(folder: RunFolder, data: Any = None) -> None:
    """Complete the README.md of a finished run's model by what is known of data, training and, once it is evaluated, scores. Of several
    processes the first one writes.

    data  those that the run was trained on, where they are at hand; else they are read for their licences
    """
    card = folder.model / "README.md"
    if folder.state["status"] == "finished" and card.is_file() and os.environ.get("RANK", "0") == "0":
        write_atomic(card, completed(card.read_text(encoding="utf-8"), run_facts(folder, data)))


def run_facts(folder: RunFolder, data: Any = None) -> dict[str, Any]:
    """Facts of a run for a model card: its data with their licences, how it was trained, its scores."""
    from diptych.report.evaluation import results_by_split

    state, config = folder.state, folder.config
    data_line = f"{state['data']['name']} (fingerprint {state['data']['fingerprint']})"
    source = state.get("source", "")
    if data is None and source:
        data = read(source)
    data_line += f"; licences: {licences(data) if data is not None else 'not stated, the run was trained on an object'}"
    run, recipe = config["run"], config["recipe"]
    tuned = {name: value for name, value in run.get("tune", {}).items() if value not in ("", 0, 0.0, [], 1.0, 1)}
    batch, lr = recipe.get("batch_size"), recipe.get("lr")
    words = [
        f"`{state['slug']}`, {state.get('step', 0):,} steps" + (f" of {batch:,}" if isinstance(batch, int) else ""),
        *([f"learning rate {lr:g}"] if isinstance(lr, int | float) else []),
        f"seed {run['seed']}",
        *([f"started from {run['init']}"] if run.get("init") else []),
        *([", ".join(f"{name} {value}" for name, value in tuned.items())] if tuned else []),
    ]
    scores = {
        f"{result.task}, {part}: {result.main}": str(result.metrics[result.main])
        for part, result in results_by_split(folder).items()
    }
    return {"data": data_line, "recipe": "; ".join(words) + ".", "metrics": scores}


def licences(data: Any) -> str:
    """Licences that the samples of a data set state, with their counts; of an object without columns, those of its first `READ` samples."""
    if isinstance(data, RenderedDataset):
        return "none needed, the samples are rendered"
    if hasattr(data, "column"):
        column, rest = data.column("licence"), ""
    else:
        rows = min(len(data), READ)
        column = [getattr(data[row], "licence", "") for row in range(rows)]
        rest = f" of the first {rows:,} samples" if rows < len(data) else ""
    counts = Counter(licence or "unknown" for licence in column)
    return ", ".join(f"{name} ({count:,})" for name, count in counts.most_common()) + rest
