"""Processor class of this machine, by the matrix instructions that the libraries actually use.

A speed holds for machines of one class: `plain` (AVX2 or less), `avx512`, `amx` (bf16 tiles), `cuda`. Two variables keep the libraries
from instructions that the processor has, and count here too: ONEDNN_MAX_CPU_ISA (matrix products and convolutions of PyTorch) and
ATEN_CPU_CAPABILITY (everything else in PyTorch). ONNX Runtime obeys neither: `benchmarks/as_avx2.c` keeps it to AVX2, too.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Literal

Machine = Literal["plain", "avx512", "amx", "cuda"]
MACHINES: tuple[Machine, ...] = ("plain", "avx512", "amx", "cuda")
"""From the plainest on."""

DEVICE_VARIABLE = "DIPTYCH_DEVICE"
"""Environment variable: what the device "auto" is (`models.io.device`)."""

GROUPS = Path("/sys/fs/cgroup")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16")
LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "OPENBLAS_CORETYPE")

ONEDNN = (
    ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"),
    ("AVX512_CORE", "AVX512_CORE_VNNI"),
    ("AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512"),
)
"""Names that oneDNN takes, by what they leave: no AVX-512; no bf16; no tiles. Other names limit nothing."""


def limits(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that keep libraries from what the processor has, as they are set; of this process where none are given."""
    variables = os.environ if variables is None else variables
    return {name: variables[name] for name in LIMITS if variables.get(name)}


def processor_flags(words: set[str] | None = None, variables: Mapping[str, str] | None = None) -> list[str]:
    """Those of FLAGS that products of PyTorch may use: what the kernel lists, less what is forbidden by `limits`.

    words      of /proc/cpuinfo; read where none are given. Elsewhere than on Linux nothing is known, and the list is empty
    variables  the process's environment
    """
    words = _cpuinfo() if words is None else words
    set_to = limits(variables)
    onednn = set_to.get("ONEDNN_MAX_CPU_ISA", "").upper().removeprefix("ONEDNN_CPU_ISA_")
    level = next((number for number, names in enumerate(ONEDNN) if onednn in names), len(ONEDNN))
    plain = set_to.get("ATEN_CPU_CAPABILITY", "").lower() in ("default", "avx2")
    # PyTorch's own kernels and oneDNN's are limited apart: AVX-512 is gone only where neither may use it.
    allowed = {
        "avx2": True,
        "avx512f": level >= 1 or not plain,
        "avx512_bf16": level >= 2,
        "amx_tile": level >= 3,
        "amx_bf16": level >= 3,
    }
    return [flag for flag in FLAGS if flag in words and allowed[flag]]


def machine_class(flags: list[str] | None = None, *, device: str = "cpu") -> Machine:
    """The class of this machine, or of one with these flags."""
    if device == "cuda":
        return "cuda"
    flags = processor_flags() if flags is None else flags
    return "amx" if "amx_tile" in flags else "avx512" if "avx512f" in flags else "plain"


def usable_cores(groups: Path = GROUPS) -> int:
    """Cores that this process may run on and that its container pays for: those of its affinity, or the quota of its control group,
    rounded up, where that is less. At least one.

    `joblib.cpu_count` knows as much, but takes half a second to import.
    """
    return max(1, math.ceil(min(_quota(groups), _cores())))


def limit_threads_to_quota(variables: MutableMapping[str, str], groups: Path = GROUPS) -> None:
    """Sets OMP_NUM_THREADS, for this process and those it starts, where a container's quota is less than the cores that PyTorch sees:
    with a thread for every core of a large host and the time of two, every parallel loop waits for threads that are not scheduled.
    What is set already stays. Only of use before PyTorch is imported."""
    cores = usable_cores(groups)
    if "OMP_NUM_THREADS" not in variables and cores < _cores():
        variables["OMP_NUM_THREADS"] = str(cores)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota(groups: Path) -> float:
    """Processor seconds a second, by version 2 of control groups or by version 1; infinite where nothing limits them."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((groups / name).read_text(encoding="ascii") for name in files).split()
            return int(quota) / int(period) if quota not in ("max", "-1") else math.inf
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return math.inf


def processor_name() -> str:
    """Model name of the processor from the kernel; the architecture if there is none."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cache_bytes(level: int) -> int:
    """Size in bytes of the processor's data cache of that level, as the kernel lists it for the first processor; 0 if unknown."""
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, at = ((folder / name).read_text(encoding="ascii").strip() for name in ("type", "level"))
            if kind != "Instruction" and int(at) == level:
                size = (folder / "size").read_text(encoding="ascii").strip()
                unit = {"K": 2**10, "M": 2**20, "G": 2**30}.get(size[-1], 1)
                return int(size.rstrip("KMG")) * unit
        except (OSError, ValueError):
            continue
    return 0


def _cpuinfo() -> set[str]:
    info = Path("/proc/cpuinfo")
    return set(info.read_text(encoding="utf-8", errors="replace").split()) if info.exists() else set()
