"""Device of a model: one rule for training, evaluation, embedding, search, detection, writing, curation and service.

`auto` is the current CUDA device if there is one, else the processor. `cpu`, `cuda`, `cuda:N` and `mps` name one; MPS is used only if
named, since not every operator of every model has a kernel there. DIPTYCH_DEVICE sets the meaning of `auto`, also for child processes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, RunError
from diptych.core.machine import DEVICE_VARIABLE
from diptych.core.terminal.progress import with_bar

EXPECTED = "auto, cpu, cuda, cuda:N or mps"
ON_ACCELERATOR = 4
"""Factor between the batch size on an accelerator and on a processor."""
MANY = 8
"""This many parts take long enough for a bar."""

InferencePrecision = Literal["auto", "fp32", "bf16"]
M = TypeVar("M")
T = TypeVar("T")
R = TypeVar("R")


def choose_device(name: str = "auto", local_rank: int | None = None) -> torch.device:
    """The device of that name. Raises ConfigError, in one line, for an invalid name and for a device that is not available.

    local_rank  which of several CUDA devices "auto" and "cuda" are; None: the current one
    """
    if name == "auto":
        name = os.environ.get(DEVICE_VARIABLE, "") or "auto"
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device is {name!r} (expected {EXPECTED})") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device is {name!r} (expected {EXPECTED})")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"device is {name!r}, but torch {torch.__version__} finds no MPS device (expected cpu)")
    return _cuda_device(device, local_rank) if device.type == "cuda" else device


def _cuda_device(device: torch.device, local_rank: int | None) -> torch.device:
    if not torch.cuda.is_available():
        raise ConfigError(f"device is '{device}', but torch {torch.__version__} finds no CUDA device (expected cpu)")
    index: int | None = device.index
    if index is None:
        index = torch.cuda.current_device() if local_rank is None else local_rank
    if index >= (count := torch.cuda.device_count()):
        there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise ConfigError(f"device is 'cuda:{index}', but torch finds {count} CUDA device{'s'[: count != 1]} (expected {there})")
    return torch.device("cuda", index)


@contextmanager
def device_default(name: str) -> Iterator[None]:
    """Context in which "auto" is this device, in this process and those that it starts; "auto" and "" change nothing.

    Raises ConfigError for a device that is not there.
    """
    if name in ("", "auto"):
        yield
        return
    choose_device(name)
    before = os.environ.get(DEVICE_VARIABLE)
    os.environ[DEVICE_VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[DEVICE_VARIABLE]
        else:
            os.environ[DEVICE_VARIABLE] = before


def place(model: M, device: torch.device, precision: InferencePrecision = "auto") -> M:
    """The same object with every module and tensor that it holds on the device.

    precision  of embedders: "auto" is bf16 where a CUDA device multiplies it in hardware and float32 elsewhere, weights stay float32
    Raises RunError, in one line, where the memory of the device does not hold them.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise ConfigError(f"precision is {precision!r} (expected auto, fp32 or bf16)")
    elsewhere = torch.cuda.is_available() or torch.backends.mps.is_available()
    try:
        if device.type != "cpu" or elsewhere:
            _move(model, device, set())
    except torch.OutOfMemoryError as error:
        name = getattr(model, "name", type(model).__name__)
        raise RunError(f"'{name}' does not fit into the memory of {device}: use another device, such as cpu") from error
    if getattr(model, "autocasts", False):
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        if precision != "auto" or fast:
            model.bf16 = precision == "bf16" or (precision == "auto" and fast)  # type: ignore[attr-defined]
    return model


def _move(value: Any, device: torch.device, visited: set[int]) -> None:
    """Moves the modules of a value and of the package's objects that it holds."""
    if id(value) in visited or isinstance(value, str | bytes | int | float | None):
        return
    visited.add(id(value))
    if isinstance(value, nn.Module):
        tensors = [*value.parameters(), *value.buffers()]
        if any(tensor.device != device and tensor.device.type != "meta" for tensor in tensors):
            value.to(device)
        for module in value.modules():
            _move_tensors(module, device)
    elif callable(own := getattr(value, "to_device", None)):
        own(device)
    elif isinstance(value, list | tuple):
        for item in value:
            _move(item, device, visited)
    elif isinstance(value, dict):
        for item in value.values():
            _move(item, device, visited)
    elif type(value).__module__.partition(".")[0] == "diptych":
        _move_tensors(value, device)
        for item in list(vars(value).values()) if hasattr(value, "__dict__") else []:
            _move(item, device, visited)


def _move_tensors(holder: Any, device: torch.device) -> None:
    """Tensors that are plain attributes, which `nn.Module.to` leaves where they are."""
    for name, item in list(vars(holder).items()) if hasattr(holder, "__dict__") else []:
        if isinstance(item, Tensor) and item.device != device and item.device.type != "meta":
            object.__setattr__(holder, name, item.to(device))


def batch_size_on(device: torch.device, batch_size: int) -> int:
    """Items that go through a model at once: as given for a processor, `ON_ACCELERATOR` times as many elsewhere."""
    return batch_size if device.type == "cpu" else batch_size * ON_ACCELERATOR


def batched(items: Sequence[T], batch_size: int, device: torch.device, work: Callable[[Sequence[T]], R]) -> list[R]:
    """The results of `work` on consecutive parts of the items, the last may be shorter; many parts have a progress bar.

    Where the memory of the device does not hold a part, it and all that follow are halved, and a line on stderr says so.
    Raises RunError if it does not hold a single item.
    """
    size = batch_size_on(device, batch_size)
    results: list[R] = []
    start = 0

    def starts() -> Iterator[int]:
        while start < len(items):
            yield start

    for _ in with_bar(starts(), -(-len(items) // size), f"{len(items):,} through the model", least=MANY):
        part = items[start : start + size]
        result = _or_no_memory(work, part)
        if result is None:
            size = halved(len(part), device)
        else:
            results.append(result[0])
            start += len(part)
    return results


def _or_no_memory(work: Callable[[Sequence[T]], R], part: Sequence[T]) -> tuple[R] | None:
    """The result, or None if memory ran out. The error is dropped before the next attempt: its traceback holds tensors."""
    try:
        return (work(part),)
    except torch.OutOfMemoryError:
        return None


def halved(size: int, device: torch.device, what: str = "items") -> int:
    """Half of a size that memory did not hold; says so on stderr. Raises RunError for a size of one."""
    if size <= 1:
        raise RunError(f"the memory of {device} does not hold one of the {what}: use another device, such as cpu")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    print(f"the memory of {device} does not hold {size} {what} at once: {size // 2} from here on", file=sys.stderr, flush=True)
    return size // 2


def onnx_providers(device: torch.device) -> list[str]:
    """Providers of ONNX Runtime for a device, the processor last. One that the installed package lacks is left out, and a line
    says so."""
    import onnxruntime

    wanted = {"cuda": "CUDAExecutionProvider", "mps": "CoreMLExecutionProvider"}.get(device.type)
    if wanted and wanted not in onnxruntime.get_available_providers():
        print(f"the installed onnxruntime has no {wanted}: it computes on the processor", file=sys.stderr, flush=True)
        wanted = None
    return [*([wanted] if wanted else []), "CPUExecutionProvider"]
