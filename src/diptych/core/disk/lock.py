"""File locks that are released when the process that holds them ends for any reason, so that no stale lock remains."""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diptych.core.errors import RunError

try:
    import fcntl
except ImportError:  # Windows has no flock: folders are not locked there
    fcntl = None  # type: ignore[assignment]

BUSY = (errno.EWOULDBLOCK, errno.EACCES)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


_LIVE: weakref.WeakSet[Lock] = weakref.WeakSet()


class Lock:
    """An exclusive lock on a file, held until `close`, which takes the file away, or until the end of the process, which leaves it there
    unlocked. Programs that are started do not inherit it."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._path: Path | None = None
        _LIVE.add(self)

    @classmethod
    def take(cls, path: Path) -> Lock | None:
        """The lock on a file that is made where it is missing, or None if another one holds it. A file system that knows no locks
        gives one that locks nothing. Raises OSError if the file cannot be written."""
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            lock = cls._locked(handle)
            if lock is None:
                return None
            lock._path = path
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(path)):
                    return lock
            lock._path = None  # the one before took its file away between the two calls
            lock.close()

    @classmethod
    def on_folder(cls, folder: Path) -> Lock | None:
        """The same on a folder that is there, without a file for it."""
        return cls._locked(os.open(folder, os.O_RDONLY | os.O_CLOEXEC))

    @classmethod
    def _locked(cls, handle: int) -> Lock | None:
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in BUSY:
                os.close(handle)
                return None
        return cls(handle)

    def __del__(self) -> None:
        with suppress(Exception):  # also while Python ends
            self.close()

    def close(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)  # while it is still ours
        if self._handle >= 0:
            os.close(self._handle)  # which lets go
            self._handle = -1
        _LIVE.discard(self)


def _forget() -> None:
    """In a process that was forked: what its parent holds, it must not hold on to when the parent is gone."""
    for lock in list(_LIVE):
        lock._path = None
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def exclusive(folder: Path, name: str, what: str) -> Iterator[None]:
    """Hold the lock called `name` in a folder for a block; the folder is made where it is missing. Where nothing can be written there,
    nothing is locked. Raises RunError: `what` is going on elsewhere, a folder has the lock's name, the disk is full."""
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock.take(path)
    except IsADirectoryError as error:
        raise RunError(f"{path} is a folder (expected a lock, which is a file): move it away") from error
    except OSError as error:
        if error.errno in DISK_FULL:
            raise RunError(f"the disk of {folder} is full: make room and run the same again") from error
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not folder.is_dir():
            raise
        yield
        return
    if lock is None:
        raise RunError(f"{what} in another process: let it end, or end it (the lock is on {path})")
    try:
        yield
    finally:
        lock.close()
