"""What a frozen or dead process of several does to the others, under `torchrun` itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from diptych.core.run_folder import RunFolder

pytestmark = pytest.mark.slow

SILENCE = 4
MARGIN = 20.0  # seconds that a busy machine may add


@dataclass
class Launched:
    launcher: subprocess.Popen[str]
    run: Path
    log: Path

    @property
    def pids(self) -> dict[int, int]:
        """Process ids by rank."""
        found = {}
        for pid in subprocess.run(["pgrep", "-P", str(self.launcher.pid)], capture_output=True, text=True).stdout.split():
            with suppress(OSError):
                if rank := re.search(rb"(?:^|\0)RANK=(\d+)", Path(f"/proc/{pid}/environ").read_bytes()):
                    found[int(rank[1])] = int(pid)
        return found

    @property
    def lines(self) -> list[str]:
        """What the processes said of themselves, without the launcher's story."""
        return [line for line in self.log.read_text().splitlines() if line.startswith(("error:", "interrupted", "ended by"))]


def until(condition: Callable[[], object], seconds: float) -> float:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds
        time.sleep(0.05)
    return time.monotonic() - begun


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def launched(folder: Path, silence: float = SILENCE, processes: int = 2) -> Iterator[Launched]:
    """A training of several processes that has saved a checkpoint."""
    run, log = folder / "run", folder / "log"
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "diptych"]
    words = ["train", "clip", "--data", "world:scenes?n=48", "--out", str(run), "--steps", "100000", "--batch-size", "8"]
    words += ["--shard", "ddp", "--save-every", "3", "--log-every", "1", "--silence", str(silence)]
    with log.open("w") as file:
        launcher = subprocess.Popen([*start, *words], stdout=file, stderr=file, text=True)
    found = Launched(launcher, run, log)
    pids: dict[int, int] = {}
    try:
        until(lambda: launcher.poll() is not None or any((run / "checkpoints").glob("step-*")), 180)
        assert launcher.poll() is None, log.read_text()
        pids = found.pids
        yield found
    finally:
        for pid in pids.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            launcher.wait(10)
        launcher.kill()
        launcher.wait()


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_rank_ends_the_run_in_the_stated_time(frozen: int, tmp_path: Path) -> None:
    with launched(tmp_path) as started:
        pids = started.pids
        os.kill(pids[frozen], signal.SIGSTOP)
        assert until(lambda: not alive(pids[1 - frozen]), SILENCE + MARGIN) > SILENCE / 2
        (line,) = started.lines
        assert re.fullmatch(
            rf"error: rank {frozen} \(.+, process {pids[frozen]}\) gave no sign of life for {SILENCE} seconds; "
            rf"go on with: diptych train --resume {re.escape(str(started.run))}",
            line,
        )
        state = RunFolder.open(started.run).state
        assert state["status"] == "stopped"
        assert (started.run / "checkpoints" / f"step-{state['step']:08d}").is_dir()
        os.kill(pids[frozen], signal.SIGKILL)  # the launcher does so after 30 seconds
        assert started.launcher.wait(30 + MARGIN) != 0


@pytest.mark.parametrize("dead", [0, 1])
def test_a_dead_rank_ends_the_run(dead: int, tmp_path: Path) -> None:
    with launched(tmp_path) as started:
        pids = started.pids
        os.kill(pids[dead], signal.SIGKILL)
        until(lambda: not alive(pids[1 - dead]), 10 + MARGIN)
        (line,) = started.lines
        assert re.match(rf"error: rank {dead} \(.+, process {pids[dead]}\) is gone; go on with: diptych train --resume", line)
        assert RunFolder.open(started.run).state["status"] == "stopped"
        assert started.launcher.wait(30 + MARGIN) != 0


def test_of_three_survivors_one_speaks(tmp_path: Path) -> None:
    with launched(tmp_path, processes=4) as started:
        os.kill(started.pids[2], signal.SIGKILL)
        assert started.launcher.wait(40 + MARGIN) != 0
        (line,) = started.lines
        assert "rank 2 (" in line
        assert RunFolder.open(started.run).state["status"] == "stopped"


def test_a_second_sigterm_ends_at_once_inside_of_a_collective(tmp_path: Path) -> None:
    with launched(tmp_path, silence=300) as started:
        pids = started.pids
        os.kill(pids[1], signal.SIGSTOP)
        time.sleep(3)  # rank 0 waits for it
        os.kill(pids[0], signal.SIGTERM)
        time.sleep(2)
        assert alive(pids[0])
        os.kill(pids[0], signal.SIGTERM)
        assert until(lambda: not alive(pids[0]), MARGIN) < 5
        assert RunFolder.open(started.run).state["status"] == "stopped"
        until(lambda: "exitcode  : 143" in started.log.read_text(), 60)


def test_sigterm_to_the_launcher_saves_and_stops_all(tmp_path: Path) -> None:
    with launched(tmp_path) as started:
        started.launcher.send_signal(signal.SIGTERM)
        assert started.launcher.wait(30 + MARGIN) != 0
        state = RunFolder.open(started.run).state
        assert (state["status"], state["signal"]) == ("stopped", signal.SIGTERM)
        assert (started.run / "checkpoints" / f"step-{state['step']:08d}").is_dir()
        assert not started.lines


@pytest.mark.parametrize(("shard", "rank"), [("fsdp", 0), ("fsdp", 1), ("ddp", 0)])
def test_a_rank_that_loses_its_disk_ends_the_run(shard: str, rank: int, tmp_path: Path) -> None:
    """The second checkpoint finds the disk of one of two processes full: one line, both end, and the run goes on from the first."""
    run = tmp_path / "run"
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    start += [str(Path(__file__).with_name("full_disk.py")), str(rank), "6"]
    words = ["train", "clip", "--data", "world:scenes?n=48", "--out", str(run), "--steps", "40", "--batch-size", "8"]
    words += ["--shard", shard, "--save-every", "3", "--silence", "60", "--no-evaluation"]
    done = subprocess.run([*start, *words], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "step-00000006 could not be written ([Errno 28] No space left on device); the checkpoints before it are whole" in line
    state = RunFolder.open(run).state
    assert (state["status"], state["step"]) == ("failed", 3)
    assert [path.name for path in (run / "checkpoints").glob("step-*")] == ["step-00000003"]
    again = subprocess.run(
        [sys.executable, "-m", "diptych", "train", "--resume", str(run)], capture_output=True, text=True, timeout=500, check=False
    )
    assert again.returncode == 0, again.stderr
    assert RunFolder.open(run).state["status"] == "finished"
    assert "went on with 1 processes after 2" in (run / "metrics.jsonl").read_text()
