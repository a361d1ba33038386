"""Atomic file writing: a reader, or a kill at any moment, sees the old file or the new one, never a partial one.

Files and folders have the modes that the user's umask gives to any other program's: 0644 and 0755 where it is 022.
"""

from __future__ import annotations

import glob
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from diptych.core.disk.exchange import exchange
from diptych.core.disk.lock import Lock

FILE_MODE, FOLDER_MODE = 0o666, 0o777
"""Before the umask takes away what it does."""
SWEPT_AFTER = 60.0
"""Seconds in which a new folder gets its lock."""


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write beside the target, flush to disk, rename. Creates missing parent folders."""
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears at `path`, flushed to disk, only when the block ends well. Creates missing parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = _temporary_path(path)
    handle = os.open(work, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), FILE_MODE)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(work, path)
    except BaseException:
        work.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """A file of indented JSON in UTF-8, written beside the target and renamed."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder that appears at `path` only when the block ends well. An existing folder is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    work = _temporary_path(path)
    work.mkdir(mode=FOLDER_MODE)
    lock = Lock.on_folder(work)  # marks the folder as in use
    try:
        yield work
        publish(work, path)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            lock.close()


def publish(work: Path, path: Path) -> None:
    """Put a finished folder where it belongs, on disk before it is seen. An older one is replaced in one step where the file system can
    exchange two names; elsewhere there is a moment between two renames, in which a kill leaves the old folder beside, and `restore`
    brings it back."""
    mask = umask()
    for folder, _, files in os.walk(work):
        for name in files:
            _settle(Path(folder, name), FILE_MODE & ~mask)
        _settle(Path(folder), FOLDER_MODE & ~mask)
    restore(path)
    if path.is_symlink():
        path = path.resolve()  # what the link leads to is replaced; the link stays
    if path.exists():
        old = path.with_name(f".{path.name}.old.{secrets.token_hex(4)}")
        if exchange(work, path):
            os.replace(work, old)
        else:
            os.replace(path, old)
            os.replace(work, path)
    else:
        os.replace(work, path)
    _fsync(path.parent)
    for old in path.parent.glob(f".{glob.escape(path.name)}.old.*"):  # also what a kill left here
        shutil.rmtree(old, ignore_errors=True)


def _sweep(path: Path) -> None:
    """Remove what killed processes left half written beside a target."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if not re.fullmatch(r"[0-9a-f]{8}", left.name.rpartition(".")[2]) or not left.is_dir():
            continue
        if time.time() - left.stat().st_mtime > SWEPT_AFTER and (lock := Lock.on_folder(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            lock.close()


def restore(path: Path) -> None:
    """Bring back a folder that a killed replacement had moved aside and not yet replaced. Elsewhere nothing happens."""
    if os.path.lexists(path):
        return
    for old in path.parent.glob(f".{glob.escape(path.name)}.old.*"):
        os.replace(old, path)
        return


def umask() -> int:
    """The umask of this process, without changing it for the other threads where the system says it."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1], 8) for line in status if line.startswith("Umask:"))
    except (OSError, StopIteration):
        mask = os.umask(0o077)
        os.umask(mask)
        return mask


def _temporary_path(path: Path) -> Path:
    """A name beside a target that nothing has; readers pass over names that start with a dot."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _settle(path: Path, mode: int) -> None:
    """Written down, with its mode: a library may have made it for its owner alone. What a link leads to is not ours."""
    if path.is_symlink():
        return
    os.chmod(path, mode)
    _fsync(path)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
