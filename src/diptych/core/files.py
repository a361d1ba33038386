"""Writing so that a reader, or a kill at any moment, sees the old file or the new one, never half of one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write beside the target, flush to disk, rename. Creates missing parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder that appears at `path` only when the block ends well. An existing folder is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield work
        os.chmod(work, 0o755)
        publish(work, path)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def publish(work: Path, path: Path) -> None:
    """Put a finished folder where it belongs, on disk before it is seen. A kill between the two renames of a replacement leaves the
    finished one at `work`."""
    for folder, _, files in os.walk(work):
        for name in files:
            _fsync(Path(folder, name))
        _fsync(Path(folder))
    if path.exists():
        old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
        os.replace(path, old / "old")
        os.replace(work, path)
        shutil.rmtree(old)
    else:
        os.replace(work, path)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
