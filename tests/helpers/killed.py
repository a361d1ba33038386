"""A kill at a chosen moment: the n-th time that a file is renamed, removed, cut or flushed ends the work, and nothing after it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest


class Killed(BaseException):
    """Stands for SIGKILL: nothing that handles errors catches it, and what cleans up is stopped as well."""


KillAt = Callable[[int], AbstractContextManager[list[int]]]


@contextmanager
def kill_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Kill what runs in the block at the n-th change of the disk; the list has an entry once it happened."""
    killed: list[int] = []
    count, remove = 0, os.unlink

    def counted(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def call(*args: object, **kwargs: object) -> object:
            nonlocal count
            if killed or count == number:
                killed.append(count)
                raise Killed
            count += 1
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "fsync", "truncate", "unlink", "rename"):
            patch.setattr(os, name, counted(name))
        unlink = Path.unlink

        def counted_unlink(path: Path, missing_ok: bool = False) -> None:
            nonlocal count
            if path.name.startswith(".") and not path.name.startswith(".0"):  # a lock, which ends with its process
                with suppress(FileNotFoundError):
                    remove(path)
                return
            if killed or count == number:
                killed.append(count)
                raise Killed
            count += 1
            unlink(path, missing_ok)

        patch.setattr(Path, "unlink", counted_unlink)
        with suppress(Killed):
            yield killed


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> KillAt:
    """`with kill(n) as killed:` ends the block at the n-th change of the disk."""
    return lambda number: kill_at(number, monkeypatch)
