"""Training in processes of its own, ended by kill -9 once a checkpoint is there."""

from __future__ import annotations

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
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
