"""Training in processes of its own, ended by kill -9 once a checkpoint is there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path


def start(command: list[str]) -> subprocess.Popen[str]:
    """The command in a process group of its own."""
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def kill_at(out: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Kill -9 of a process and all that it started, once a checkpoint is there."""
    until = time.monotonic() + 240
    while not any(path.name >= f"step-{step:08}" for path in (out / "checkpoints").glob("step-*")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < until, "no checkpoint came"
        time.sleep(0.02)
    for pid in started_by(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def started_by(pid: int) -> list[int]:
    """A process and all that it started, those in sessions of their own too, which `torchrun` gives its workers."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(stat.parent.name)] = int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found
