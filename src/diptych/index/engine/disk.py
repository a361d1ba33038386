"""Disk space check before the engine writes. It writes into memory-mapped sparse files: a full disk then ends the process with a
signal (SIGBUS), and no error can be caught.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from diptych.core.errors import RunError
from diptych.index.engine.store import IndexItem, SparseVector

RESERVE = 16 << 20
"""Bytes that stay free: what the engine's logs and tables of contents take beside the items."""
COPIES = 6
"""Times that the bytes of an item are written at most, until it is settled: log, vectors, payload, their indexes."""


CHUNK = 32 << 20
"""Bytes of the engine's chunk files of dense vectors, which hold holes until they are filled."""


class DiskFull(RunError):
    """The disk is full. What was stored before is kept."""


def need_room(folder: Path, size: int) -> None:
    """Raise DiskFull, before anything is written, unless this many bytes fit and the reserve stays."""
    free = shutil.disk_usage(folder).free
    if free < size + RESERVE:
        raise DiskFull(
            f"the disk of {folder} is full: {free / 2**20:,.0f} MiB are free and {(size + RESERVE) / 2**20:,.0f} are needed; what was "
            "stored before is kept: make room and run the same again"
        )


def in_memory(folder: Path) -> bool:
    """True if a folder lies on tmpfs. There the engine's reading of a hole takes memory, as writing does, when it loads a chunk."""
    try:
        device = os.stat(folder).st_dev
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        fields, _, kind = line.partition(" - ")
        if fields.split()[2:3] == [number]:
            return kind.split(" ")[0] == "tmpfs"
    return False


def chunk_room(folder: Path) -> int:
    """Bytes of the next chunk file of every dense space."""
    return CHUNK * len({chunk.parent for chunk in folder.rglob("chunk_*.mmap")})


def fill_holes(folder: Path) -> None:
    """Give the chunk files of an engine on tmpfs their memory now. Raises DiskFull if there is not enough: loading them would end the
    process with a signal (SIGBUS)."""
    chunks = [(chunk, chunk.stat()) for chunk in folder.rglob("*.mmap") if chunk.is_file()]
    holes = sum(max(0, facts.st_size - 512 * facts.st_blocks) for _, facts in chunks)
    free = shutil.disk_usage(folder).free
    problem = (
        f"the memory disk of {folder} is too small: {free / 2**20:,.0f} MiB are free and {holes / 2**20:,.0f} are needed to open the "
        "index; what was stored before is kept: make room and run the same again"
    )
    if holes > free:
        raise DiskFull(problem)
    for chunk, facts in chunks:
        if facts.st_size > 512 * facts.st_blocks:
            with suppress(PermissionError):
                handle = os.open(chunk, os.O_RDWR | os.O_CLOEXEC)
                try:
                    os.posix_fallocate(handle, 0, facts.st_size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    raise DiskFull(problem) from error
                finally:
                    os.close(handle)


def temporary_copy(folder: Path) -> Path | None:
    """Copy of an engine's folder on another disk: the engine writes some files when it opens, for which a full disk has no room, and it
    follows no links. None if no other disk has room for it."""
    size = sum(512 * file.stat().st_blocks for file in folder.rglob("*") if file.is_file())
    for parent in (tempfile.gettempdir(), "/dev/shm"):
        with suppress(OSError):
            if os.stat(parent).st_dev != os.stat(folder).st_dev and shutil.disk_usage(parent).free >= size + RESERVE:
                made = Path(tempfile.mkdtemp(prefix="diptych-index-", dir=parent))
                try:
                    shutil.copytree(folder, made, copy_function=_copy_sparse, dirs_exist_ok=True)
                except BaseException:
                    shutil.rmtree(made, ignore_errors=True)
                    raise
                return made
    return None


def _copy_sparse(source: str, target: str) -> None:
    """A copy with the holes of the original."""
    with open(source, "rb") as from_file, open(target, "wb") as to_file:
        size, at = os.fstat(from_file.fileno()).st_size, 0
        to_file.truncate(size)
        while at < size:
            try:
                at = os.lseek(from_file.fileno(), at, os.SEEK_DATA)
            except OSError:  # nothing but a hole until the end
                return
            end = os.lseek(from_file.fileno(), at, os.SEEK_HOLE)
            from_file.seek(at)
            to_file.seek(at)
            while at < end and (part := from_file.read(min(end - at, 1 << 20))):
                to_file.write(part)
                at += len(part)


def size_of(items: Sequence[IndexItem]) -> int:
    """Bytes that items take until they are settled."""
    total = 0
    for item in items:
        total += sum(
            12 * vector.values.size if isinstance(vector, SparseVector) else vector.nbytes for vector in item.vectors.values()
        )
        total += len(json.dumps(item.payload, default=str))
    return COPIES * total


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Turn a full-disk error in our own files into one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"the disk of {folder} is full; what was stored before is kept: make room and run the same again"
        ) from error
