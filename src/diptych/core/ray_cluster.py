"""The Ray cluster of this process: an existing one by its address, or a new one on this machine."""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import Any

from diptych.core.errors import MissingExtra, RunError
from diptych.core.machine import usable_cores


def join_cluster(needed_for: str, *, cpus: int | None = None) -> Any:
    """Ray, connected to the cluster that RAY_ADDRESS names, else to one that is started here with `cpus` cores; None: all that
    this process may use. Raises MissingExtra if Ray is not installed, RunError where the cluster cannot be joined."""
    try:
        import ray
    except ImportError:
        raise MissingExtra("ray", "scale", needed_for=needed_for) from None
    if not ray.is_initialized():
        here: dict[str, Any] = {}
        if not os.environ.get("RAY_ADDRESS"):
            here = {
                "address": "local",
                "num_cpus": cpus or usable_cores(),
                "include_dashboard": False,
            }  # not one that runs unasked
        try:
            ray.init(log_to_driver=False, logging_level="ERROR", **here)
        except (ConnectionError, RuntimeError, ValueError) as error:
            cluster = f"the Ray cluster at RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}" if not here else "a Ray of this machine"
            why = str(error.__cause__ or error).strip().splitlines()[-1]
            raise RunError(f"{cluster} cannot be joined: {why} (expected one that runs, or no RAY_ADDRESS)") from error
    return ray


class RayExecutor:
    """Calls as tasks of a Ray cluster, one core each, submitted as to an executor of `concurrent.futures`."""

    def __init__(self, needed_for: str) -> None:
        self._ray = join_cluster(needed_for)
        self._remote: dict[Any, Any] = {}

    def submit(self, function: Any, /, *args: Any) -> Future[Any]:
        """Future of `function(*args)`, which runs in a process of the cluster that has this package."""
        if function not in self._remote:
            self._remote[function] = self._ray.remote(function)
        future: Future[Any] = self._remote[function].remote(*args).future()
        return future
