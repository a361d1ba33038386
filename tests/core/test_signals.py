"""First signals ask, later ones insist, also where the main thread never comes back to Python."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from diptych.core.run_folder import RunFolder
from diptych.core.terminal.signals import SignalWatch, Terminated, exit_code

STUCK = """
    import ctypes, sys, threading
    from diptych.core.terminal.signals import SignalWatch, raise_interrupt
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    def said():
        print("before the end", flush=True)
    with SignalWatch({first}, grace={grace}, before_end=said):
        print("here", flush=True)
        libc.pthread_mutex_lock(mutex)
        libc.pthread_mutex_lock(mutex)  # for ever, and no signal brings it back
"""


def stuck(first: str = "None", grace: str = "None") -> subprocess.Popen[str]:
    """A process whose main thread waits inside of a library, as in a collective."""
    code = textwrap.dedent(STUCK).format(first=first, grace=grace)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    time.sleep(0.2)
    return process


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGTERM, signal.SIGTERM], 143),
        ([signal.SIGINT, signal.SIGTERM], 143),
        ([signal.SIGINT, signal.SIGINT, signal.SIGINT], 130),
    ],
)
def test_what_insists_ends_a_process_that_is_stuck(signals: list[signal.Signals], code: int) -> None:
    process = stuck()
    for number in signals[:-1]:
        process.send_signal(number)
        time.sleep(0.2)
        assert process.poll() is None  # it may still finish its step
    begun = time.monotonic()
    process.send_signal(signals[-1])
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out, errors) == (code, "before the end\n", "")
    assert time.monotonic() - begun < 3


def test_where_nothing_is_saved_the_first_one_has_a_limit() -> None:
    process = stuck("raise_interrupt", "0.5")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143


def test_the_first_is_noted_and_the_second_interrupts() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with SignalWatch() as watch:
        assert not watch.stop_requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_watches_nest_and_the_inner_one_counts_for_itself() -> None:
    with SignalWatch() as outer:
        with SignalWatch() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        assert (inner.number, outer.number) == (signal.SIGTERM, None)
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer.number == signal.SIGTERM


def test_a_fork_is_not_its_parent() -> None:
    """A signal for a child counts for the child alone, and ends it as if nobody had taken signals."""
    reading, writing = os.pipe()
    with SignalWatch(lambda number: None) as watch:
        child = os.fork()
        if child == 0:
            os.write(writing, b"x")  # it is itself now
            time.sleep(30)
            os._exit(0)
        os.read(reading, 1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        time.sleep(0.1)
        assert not watch.stop_requested


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_work_that_goes_on_from_run_to_run_ends_with_a_stopped_one(
    tmp_path: Path, number: int, error: type[BaseException]
) -> None:
    run = RunFolder.create(tmp_path / "run", slug="clip", environment={})
    run.write_state(status="stopped", step=3, signal=int(number))
    with pytest.raises(error):
        run.expect_finished()
    assert exit_code(number) in (130, 143)
