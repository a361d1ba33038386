"""A cluster that cannot be joined is one line that names its address; without an address a cluster starts."""

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


def test_without_an_address_a_cluster_of_its_own_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    given: dict[str, object] = {}
    monkeypatch.setattr(ray, "init", lambda **options: given.update(options))
    join_cluster("a test", cpus=3)
    assert (given["address"], given["num_cpus"]) == ("local", 3)  # Ray itself would join one that somebody left running
