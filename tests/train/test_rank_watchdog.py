"""Signs of life, with a store in this process and two ranks that are threads. Real processes under `torchrun`: tests/attacks."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist

from diptych.core.errors import ConfigError
from diptych.train import rank_watchdog
from diptych.train.options import TrainOptions
from diptych.train.parallel import DistributedContext
from diptych.train.rank_watchdog import RankLost, RankWatchdog, StopReason, is_collective_error

BROKEN = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"


class Ended(Exception):
    """Stands for the end of the process: it ends the thread that asked for it."""


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two ranks on one store; `ended` gets (rank, verdict) of processes that were ended from outside."""
    store = dist.HashStore()
    monkeypatch.setattr(dist, "TCPStore", lambda *args, **options: store)
    monkeypatch.setattr(rank_watchdog, "barrier", lambda world: None)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr("threading.excepthook", lambda args: None)
    made: list[RankWatchdog] = []

    def leave(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", leave)

    def start(silence: float = 1.0, asked: bool = False) -> tuple[list[RankWatchdog], list[tuple[int, StopReason]]]:
        ended: list[tuple[int, StopReason]] = []
        for rank in (0, 1):
            peer = RankWatchdog(
                DistributedContext(rank, 2, torch.device("cpu")),
                silence,
                stop_requested=lambda: asked,
                ended=lambda verdict, rank=rank: ended.append((rank, verdict)),  # type: ignore[misc]
                hint="go on",
            )
            monkeypatch.setattr(rank_watchdog, "_entered", 0)
            made.append(peer.__enter__())
        return made, ended

    yield start
    for peer in made:
        peer._over.set()


def until(condition: Any, seconds: float = 10) -> float:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds
        time.sleep(0.01)
    return time.monotonic() - begun


def test_a_rank_that_stands_still_ends_the_other_with_one_line(both: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (_, frozen), ended = both()
    frozen._over.set()  # its thread ends and it never says that it left
    assert until(lambda: ended) > 0.5
    ((rank, verdict),) = ended
    assert (rank, verdict.status) == (0, "stopped")
    assert capsys.readouterr().err == f"error: {verdict.reason}\n"
    assert f"rank 1 ({os.uname().nodename}, process {os.getpid()}) gave no sign of life for 1 seconds; go on" == verdict.reason


def test_silence_is_short_once_a_stop_was_asked(both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_watchdog, "STOP_TIMEOUT", 0.5)
    (_, frozen), ended = both(silence=5.0, asked=True)
    frozen._over.set()
    assert until(lambda: ended) < 3


def test_who_left_at_the_end_is_not_missed(both: Any) -> None:
    (one, other), ended = both()
    other.__exit__(None, None, None)
    time.sleep(1.5)
    one.__exit__(None, None, None)
    assert not ended


def test_a_broken_collective_names_who_is_gone(both: Any) -> None:
    (one, other), ended = both()
    other._over.set()
    with pytest.raises(RankLost, match=r"^rank 1 .* is gone; go on$") as caught:
        one.__exit__(RuntimeError, RuntimeError(BROKEN), None)
    assert (caught.value.status, caught.value.speaks) == ("stopped", True)
    assert not ended


def test_a_broken_collective_among_the_living_stays_the_error_it_is(both: Any) -> None:
    (one, _), _ = both()
    one.__exit__(RuntimeError, RuntimeError(BROKEN), None)  # returns, so that the error goes on


def test_an_error_of_one_is_the_reason_of_all_and_said_once(both: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (one, other), ended = both()
    other.__exit__(ConfigError, ConfigError("a bad value"), None)
    until(lambda: ended)
    ((rank, verdict),) = ended
    assert (rank, verdict.by, verdict.status) == (0, 1, "failed")
    assert "ConfigError: a bad value" in verdict.reason
    with pytest.raises(RankLost, match="a bad value") as caught:
        one.__exit__(RuntimeError, RuntimeError(BROKEN), None)
    assert (caught.value.status, caught.value.speaks) == ("failed", False)
    assert capsys.readouterr().err == ""


def test_what_a_broken_collective_is() -> None:
    assert is_collective_error(RuntimeError(BROKEN))
    assert is_collective_error(dist.DistBackendError("NCCL error"))
    assert not is_collective_error(RuntimeError("shapes do not fit"))
    assert not is_collective_error(ConfigError("gloo"))


def test_one_process_has_no_peers() -> None:
    with RankWatchdog(
        DistributedContext(0, 1, torch.device("cpu")), 1.0, stop_requested=lambda: False, ended=lambda verdict: None
    ) as alone:
        assert alone._thread is None
    with pytest.raises(ConfigError, match=r"silence is 0\.5"):
        TrainOptions(silence=0.5)
