"""`diptych` by a process whose disk is full from a step on: python full_disk.py RANK STEP WORD ..."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diptych.cli import main
from diptych.train import checkpoint
from diptych.train.devices import shard_files


def failing(write: Callable[..., None], step: int) -> Callable[..., None]:
    """The same function, which has room for checkpoints before this step."""

    def checked(tensors: Any, path: Path, *more: Any) -> None:
        if f"step-{step:08d}" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(tensors, path, *more)

    return checked


if __name__ == "__main__":
    rank, step, *words = sys.argv[1:]
    if os.environ.get("RANK") == rank:
        for module in (checkpoint, shard_files):
            module.save_file = failing(module.save_file, int(step))  # type: ignore[attr-defined]
    raise SystemExit(main(words))
