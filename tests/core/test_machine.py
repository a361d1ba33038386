"""The class of a machine: flags of the kernel less what the environment forbids to PyTorch's libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diptych.core.machine import limit_threads_to_quota, machine_class, processor_flags, usable_cores

XEON = {"avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16"}
EPYC = {"avx2", "avx512f", "avx512_bf16"}
PLAIN = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


@pytest.mark.parametrize(
    ("words", "variables", "expected"),
    [
        (XEON, {}, "amx"),
        (EPYC, {}, "avx512"),
        ({"avx2", "sse4_2"}, {}, "plain"),
        (set(), {}, "plain"),
        (XEON, PLAIN, "plain"),
        (XEON, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "avx512"),  # the other kernels still use it
        (XEON, {"ATEN_CPU_CAPABILITY": "avx2"}, "amx"),  # products do not obey that one
        (XEON, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, "avx512"),
        (XEON, {"ONEDNN_MAX_CPU_ISA": "avx512_core_amx"}, "amx"),
        (XEON, {"ONEDNN_MAX_CPU_ISA": "ALL"}, "amx"),
    ],
)
def test_the_class_follows_flags_and_limits(words: set[str], variables: dict[str, str], expected: str) -> None:
    assert machine_class(processor_flags(words, variables)) == expected


@pytest.mark.parametrize(
    ("limit", "bf16"), [("AVX2", False), ("AVX512_CORE", False), ("AVX512_CORE_VNNI", False), ("AVX512_CORE_BF16", True)]
)
def test_bf16_counts_only_where_products_may_use_it(limit: str, bf16: bool) -> None:
    assert ("avx512_bf16" in processor_flags(XEON, {"ONEDNN_MAX_CPU_ISA": limit})) is bf16


def test_pytorch_obeys_the_variables_that_make_a_machine_plain() -> None:
    """Where it uses AVX-512 at all: with both variables set its capability is AVX2, and so is the class that we give."""
    code = "import torch; from diptych.core.machine import machine_class; print(torch.backends.cpu.get_cpu_capability(), machine_class())"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **PLAIN}, capture_output=True, text=True, check=True)
    capability, machine = done.stdout.split()[-2:]
    assert capability in ("AVX2", "DEFAULT", "NO")  # the last two: other processors
    assert machine == "plain"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "max 100000"}, 16),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "5000 100000"}, 1),
        ({"cpu.max": "6400000 100000"}, 16),  # more than there are
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu.max": "what"}, 16),
        ({}, 16),
    ],
)
def test_a_container_uses_the_cores_it_pays_for(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n", encoding="ascii")
    assert usable_cores(tmp_path) == cores
    variables: dict[str, str] = {}
    limit_threads_to_quota(variables, tmp_path)
    assert variables == ({"OMP_NUM_THREADS": str(cores)} if cores < 16 else {})
    variables = {"OMP_NUM_THREADS": "7"}
    limit_threads_to_quota(variables, tmp_path)
    assert variables == {"OMP_NUM_THREADS": "7"}
