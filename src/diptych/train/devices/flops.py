"""Model FLOPs of a training step, and what share of the device's peak they are (MFU).

Counted are the floating-point operations of matrix products, convolutions and attention, forward and backward, a multiplication and an
addition as two, as a step is taken. What a step computes a second time to save memory is left out (chunks of `micro_batch`,
`checkpoint_layers`): model FLOPs utilisation as PaLM has it (Chowdhery et al., 2022, 2204.02311).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

R = TypeVar("R")
aten = torch.ops.aten

PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H200 NVL": 835.0,
    "GH200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "A40": 150.0,
    "A10G": 70.0,
    "A10": 125.0,
    "A6000": 155.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
"""Words of a device's name -> TFLOP/s of dense bf16 products with float32 sums, from NVIDIA's data sheets; the longest that fit."""

_uncounted = 0


class StepFlops(TorchDispatchMode):
    """Counts the model FLOPs of what runs within, as `total`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        given = dict(kwargs or {})
        out = func(*args, **given)
        count = _FORMULAS.get(func._overloadpacket)
        if count is not None and not _uncounted and not _recomputing():
            self.total += int(count(*args, **given, out_val=out))
        return out


@contextmanager
def uncounted() -> Iterator[None]:
    """Leaves what runs within out of the count: it is computed once more than the model needs."""
    global _uncounted
    _uncounted += 1
    try:
        yield
    finally:
        _uncounted -= 1


def with_flops(flops: int | None, work: Callable[[], R]) -> tuple[R, int]:
    """The result of `work` and its model FLOPs, which are counted where they are not known yet."""
    if flops is not None:
        return work(), flops
    with StepFlops() as count:
        result = work()
    return result, count.total


def peak_flops(device: torch.device) -> float | None:
    """FLOP/s of dense bf16 products that the device is sold with; None for one that is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    fitting = [part for part in PEAK_TFLOPS if re.search(rf"\b{part}\b", name)]  # an L40 is no L4, an A4000 no A40
    return PEAK_TFLOPS[max(fitting, key=len)] * 1e12 if fitting else None


def speed(flops: float, precision: str, device: torch.device) -> dict[str, float]:
    """Log values of this many model FLOPs a second: `tflops`, and `mfu` where the peak of the device in that precision is known."""
    peak = peak_flops(device) if precision == "bf16" else None
    return {"tflops": flops / 1e12} | ({"mfu": flops / peak} if peak else {})


def _recomputing() -> bool:
    """True for a forward pass within a backward pass, as `torch.utils.checkpoint` makes it."""
    return torch.is_grad_enabled() and torch._C._current_graph_task_id() != -1


def _cpu_attention(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _cpu_attention_backward(grad: Any, query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))


_FORMULAS: dict[Any, Any] = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward,
}
