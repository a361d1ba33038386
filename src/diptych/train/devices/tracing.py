"""A trace of a few training steps, for chrome://tracing and Perfetto (`--profile`)."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

SKIPPED = 3
"""Steps before the traced ones: caches fill and blocks are compiled there."""


class StepTrace:
    """Traces `steps` steps of a run after the first few, and writes `file` when they are over; 0 traces none.

    The trace holds operators of the host and, on a GPU, its kernels and copies, with the names of the parts of a step.
    """

    def __init__(self, steps: int, file: Path, device: torch.device) -> None:
        self._file = file
        self._profile: Any = None
        if steps:
            kinds = [torch.profiler.ProfilerActivity.CPU]
            if device.type == "cuda":
                kinds.append(torch.profiler.ProfilerActivity.CUDA)
            plan = torch.profiler.schedule(wait=SKIPPED - 1, warmup=1, active=steps, repeat=1)
            self._profile = torch.profiler.profile(activities=kinds, schedule=plan, on_trace_ready=self._write)

    def _write(self, profile: Any) -> None:
        profile.export_chrome_trace(str(self._file))

    def step(self) -> None:
        """Says that a training step is over."""
        if self._profile is not None:
            self._profile.step()

    def __enter__(self) -> Self:
        if self._profile is not None:
            self._profile.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._profile is not None:
            self._profile.__exit__(kind, error, traceback)
