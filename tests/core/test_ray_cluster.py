"""A cluster that cannot be joined is one line, which names its address."""

import pytest

from diptych.core.errors import RunError
from diptych.core.ray_cluster import join_cluster


def test_a_cluster_that_cannot_be_joined_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    with pytest.raises(RunError, match="RAY_ADDRESS=nowhere cannot be joined: Invalid address format"):
        join_cluster("a test")

    def refused(**options: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 192.0.2.1:6379") from RuntimeError("timed out")

    monkeypatch.setattr(ray, "init", refused)
    with pytest.raises(RunError, match=r"timed out \(expected one that runs, or no RAY_ADDRESS\)"):
        join_cluster("a test")
