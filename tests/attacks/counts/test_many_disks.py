"""Fifty disks that fill up: each command ends well or in one line, and the same command goes on when there is room, to the same end."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .forked import commands
from .test_many_kills import WORKS

DISKS = 10
NEEDED = {"data build": 1.2, "index build": 60, "index add": 60, "curate": 0.3, "train": 40}
"""MiB up to which the free room is drawn, by command."""


def fill(disk: Path, free: int) -> Path:
    """A file that leaves so many bytes."""
    spare = disk / "another.bin"
    usage = os.statvfs(disk)
    with spare.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, usage.f_bavail * usage.f_frsize - free))
    return spare


def attack(name: str, disk: Path, elsewhere: Path) -> None:
    """Run in a namespace of its own, with `disk` in memory."""
    with commands(elsewhere / "forks") as forks:
        work = WORKS[name](elsewhere, forks)
        whole = disk / "whole"
        whole.mkdir()
        work.prepare(whole)
        forks.run(*work.begin(whole), call=work.call).check().good()
        expected = work.result(whole)
        shutil.rmtree(whole)
        draw, full = random.Random(f"{name} {elsewhere}"), 0
        for number in range(DISKS):
            folder = disk / f"full-{number}"
            folder.mkdir()
            work.prepare(folder)
            free = 0 if not number else int(draw.uniform(0, NEEDED[name]) * 2**20)
            spare = fill(disk, free)
            outcome = forks.run(*work.begin(folder), call=work.call).check()
            assert outcome.code in (0, 1), (outcome.code, outcome.err)
            full += outcome.code
            spare.unlink()
            if outcome.code:
                work.checked(folder)
                forks.run(*work.resume(folder), call=work.call).check().good()
            assert work.result(folder) == expected
            shutil.rmtree(folder)
        print(f"RESULT {name}: {DISKS} disks, {full} of them full before the end, 0 lost, 0 tracebacks", flush=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NEEDED)
def test_disks_that_fill_up(name: str, tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    disk, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    disk.mkdir()
    elsewhere.mkdir()
    root = Path(__file__).parents[3]
    program = f"import sys; sys.path.insert(0, {str(root)!r}); from pathlib import Path; "
    program += "from tests.attacks.counts.test_many_disks import attack; "
    program += f"attack({name!r}, Path({str(disk)!r}), Path({str(elsewhere)!r}))"
    (elsewhere / "program.py").write_text(program)
    shell = f"mount -t tmpfs -o size=600m none {disk} && {sys.executable} {elsewhere}/program.py"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", shell], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout.strip())
    assert f"RESULT {name}: {DISKS} disks" in done.stdout
