"""Device and precision of a run, and conversion of features to full precision."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from diptych.core.machine import processor_flags, usable_cores
from diptych.models.io.device import choose_device
from diptych.train.options import Deterministic, Precision, Uint8Images

Autocast = Callable[[], AbstractContextManager[object]]
"""Opens a fresh region each time: the cast weights of a region that ran without gradient must not serve one that needs it."""


def training_device(name: str) -> torch.device:
    """Device of this process of a run, made the current one: of several CUDA devices "auto" and "cuda" are that of its LOCAL_RANK."""
    device = choose_device(name, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
        torch.cuda.set_device(device)
    return device


def choose_precision(requested: Precision, device: torch.device) -> Precision:
    """Resolve precision "auto" for a device: "bf16" where it is faster than float32 in hardware, else "fp32"."""
    if requested != "auto":
        return requested
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    flags = processor_flags()
    return "bf16" if device.type == "cpu" and ("avx512_bf16" in flags or "amx_bf16" in flags) else "fp32"


def autocast(precision: Precision, device: torch.device) -> Autocast:
    """Regions in which matrix products run in bf16. Double precision models are never cast down."""
    if precision != "bf16":
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)


def loader_workers(requested: int, device: torch.device) -> int:
    """Loader processes of this process: as requested, and for -1 by the device and the cores (`TrainOptions.workers`)."""
    if requested >= 0:
        return requested
    if device.type != "cuda":
        return 0
    share = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(16, share - 1))


def wants_deterministic(requested: Deterministic, device: torch.device) -> bool:
    """Resolve "auto": yes on the processor, no on a GPU."""
    return requested == "yes" or (requested == "auto" and device.type == "cpu")


def wants_uint8_images(requested: Uint8Images, device: torch.device) -> bool:
    """Resolve "auto": no on the processor, yes on any other device."""
    return requested == "yes" or (requested == "auto" and device.type != "cpu")


@contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """Deterministic kernels where PyTorch has them, a warning if it has none; the setting before comes back. wanted: False for kernels
    as they come, such as torchvision's `roi_align` on CUDA, which otherwise gives way to compiled Python."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    memory.fill_uninitialized_memory = False  # costs a pass over every new tensor, finds bugs only
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = fill
