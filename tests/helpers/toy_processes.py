"""Toy runs on one process, on forks that are joined, and on processes that `torchrun` starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from joined_processes import begin_on_processes, on_processes
from safetensors.torch import load_file

TRAIN = Path(__file__).parents[1] / "train"


def decided(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan with "resume" as the folder stands now: a slow process would find what a quick one of the same run has begun."""
    return {**plan, "resume": plan.get("resume", False) and (Path(plan["out"]) / "config.yaml").exists()}


def torchrun(processes: int, plan: dict[str, Any], *, program: str = "toy") -> subprocess.CompletedProcess[str]:
    """The program started as users start one. Each process imports everything anew, which takes five seconds."""
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *start, str(TRAIN / f"{program}.py"), json.dumps(decided(plan))]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def run(processes: int, plan: dict[str, Any], *, program: str = "toy") -> None:
    """`program.run(plan)` in this process, or on as many forks with the environment that torchrun gives."""
    if processes == 1:
        import_module(program).run(decided(plan))
        return
    with tempfile.TemporaryDirectory() as meeting:
        on_processes(partial(_run_on_rank, program, decided(plan)), Path(meeting), world=processes)


def begin(processes: int, plan: dict[str, Any], meeting: Path) -> mp.ProcessContext:
    """The same on forks that are not waited for; they meet in an empty folder."""
    return begin_on_processes(partial(_run_on_rank, "toy", decided(plan)), meeting, world=processes)


def trained(processes: int, out: Path, *, program: str = "toy", **plan: Any) -> dict[str, torch.Tensor]:
    """Weights after a run into `out`."""
    run(processes, {"out": str(out), **plan}, program=program)
    return load_file(out / "model" / "model.safetensors")


def _run_on_rank(program: str, plan: dict[str, Any], rank: int, world: int) -> list[Any]:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    import_module(program).run(plan)
    return []
