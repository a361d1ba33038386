"""Copies to main memory wait for the device once, whatever else is there already."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diptych.models.host_copy import on_host


def on_device(kind: str, blocking: list[bool]) -> Any:
    def to(place: str, non_blocking: bool) -> str:
        blocking.append(not non_blocking)
        return place

    tensor = SimpleNamespace(device=torch.device(kind), to=to)
    tensor.detach = lambda: tensor
    return tensor


@pytest.mark.parametrize("kinds", [["cuda", "cuda", "cuda"], ["cuda", "cuda", "cpu"], ["cpu", "cuda"]])
def test_the_last_copy_from_the_device_is_waited_for(kinds: list[str]) -> None:
    blocking: list[bool] = []
    assert on_host([on_device(kind, blocking) for kind in kinds]) == ["cpu"] * len(kinds)
    waits = [waited for kind, waited in zip(kinds, blocking, strict=True) if kind == "cuda"]
    assert waits == [False] * (len(waits) - 1) + [True]


def test_tensors_in_main_memory_are_not_copied() -> None:
    one, two = torch.arange(3), torch.ones(2, 2)
    assert [a.data_ptr() == b.data_ptr() for a, b in zip(on_host([one, two]), [one, two], strict=True)] == [True, True]
    assert on_host([]) == []
