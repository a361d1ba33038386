"""Held-out splits of a comparison: which are measured, what is refused before training, how often each was looked at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from diptych.comparisons import job as cells
from diptych.core.contracts import Dataset
from diptych.core.disk.files import write_json
from diptych.core.errors import ConfigError, DataError, RunError, UnknownName
from diptych.worlds.address import held_out, training_rows

REHEARSED = 256
"""Rows of a held-out split on which a task is tried before anything is trained."""


def measured_splits(whole: Any, names: Sequence[str] = ()) -> dict[str, Dataset]:
    """Held-out rows by split: those named, or all. Raises UnknownName for a split that the data do not hold out."""
    parts = held_out(whole)
    if strange := [name for name in names if name not in parts]:
        raise UnknownName("held-out split", strange[0], sorted(parts))
    return {name: part for name, part in parts.items() if not names or name in names}


def check_tasks(whole: Any, parts: Mapping[str, Dataset], tasks: Sequence[str], *, given: bool) -> None:
    """Refuse data without held-out rows and tasks that do not fit the data, before anything is trained.

    given  the arms are models that are there, which may be scored on data without splits
    """
    names = [cells.make_task(words).name for words in tasks]
    if not tasks or len(set(names)) < len(names):
        raise ConfigError(f"tasks are {', '.join(tasks) or 'missing'} (expected one or more, each once, such as retrieval)")
    if not given and whole.name in parts:
        raise DataError(
            f"'{whole.name}' has no held-out rows, and training rows may not be scored",
            field="split",
            expected="a column 'split' with train and another name: diptych data split",
        )
    for words in tasks:
        _rehearse(words, parts)


def record_data(whole: Any, out: Path) -> None:
    """Write down which data a folder compares on. Raises RunError where it compares on others."""
    file, fingerprint = out / "data.json", training_rows(whole).fingerprint
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        if before["fingerprint"] != fingerprint:
            raise RunError(
                f"{out} compares on '{before['name']}' with fingerprint {before['fingerprint']}; these data have {fingerprint}: "
                "choose another --out"
            )
    write_json(file, {"name": whole.name, "fingerprint": fingerprint})


def record_looks(out: Path, scored: Mapping[str, int]) -> dict[str, int]:
    """Times that each split was looked at in a folder, this one included, kept in `looks.json`.

    scored  split -> cells that were scored on it now; a split whose results were only read is not looked at again
    """
    path = out / "looks.json"
    looks: dict[str, list[dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for split, count in scored.items():
        if count:
            looks.setdefault(split, []).append({"time": now, "cells": count})
    write_json(path, looks)
    return {split: len(each) for split, each in looks.items()}


class _Constant:
    """Answers everything alike, without looking: enough to see whether a task fits the data."""

    name, fingerprint = "rehearsal", "rehearsal"

    def embed_images(self, images: Sequence[Any], *, batch_size: int = 64) -> Any:
        return np.ones((len(images), 1), np.float32)

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Any:
        return np.ones((len(texts), 1), np.float32)


def _rehearse(words: str, parts: Mapping[str, Any]) -> None:
    """Try a task on some rows of every split, so that data without labels or wrong captions are refused now and not at the end."""
    task = cells.make_task(words)
    if hasattr(task, "train") or not isinstance(_Constant(), task.needs):  # trains a head, or asks for more than embeddings
        return
    for part in parts.values():
        step = max(1, len(part) // REHEARSED)
        task.predict(_Constant(), part.select(range(0, len(part), step)))
