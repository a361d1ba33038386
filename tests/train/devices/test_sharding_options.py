"""Groups of shards with copies (HSDP), parameters sent in bf16, loader processes and kernels chosen by the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from toy_processes import trained

from diptych.core.errors import ConfigError
from diptych.train import checkpoint, precision
from diptych.train.options import TrainOptions
from diptych.train.parallel import DistributedContext, wrap
from diptych.train.precision import deterministic, loader_workers, wants_deterministic

RECIPE = {"steps": 4, "clip_norm": 0.5, "average": True}
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def train(processes: int, out: Path, **options: Any) -> dict[str, torch.Tensor]:
    return trained(processes, out, recipe=RECIPE, options={"save_every": 2, **options})


def test_loader_processes_by_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "usable_cores", lambda: 32)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert (loader_workers(-1, CPU), loader_workers(3, CPU), loader_workers(0, CUDA)) == (0, 3, 0)
    assert loader_workers(-1, CUDA) == 7
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert loader_workers(-1, CUDA) == 16
    monkeypatch.setattr(precision, "usable_cores", lambda: 1)
    assert loader_workers(-1, CUDA) == 1
    with pytest.raises(ConfigError, match="workers is -2"):
        TrainOptions(workers=-2)


def test_kernels_of_a_gpu_are_left_as_they_come() -> None:
    """torchvision's `roi_align` looks at this flag, and with it leaves its CUDA kernel for compiled Python."""
    assert [wants_deterministic(word, CUDA) for word in ("auto", "yes", "no")] == [False, True, False]
    assert [wants_deterministic(word, CPU) for word in ("auto", "yes", "no")] == [True, True, False]
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with deterministic(wants_deterministic("auto", CUDA)):
            assert not torch.are_deterministic_algorithms_enabled()
        assert torch.are_deterministic_algorithms_enabled(), "what was set before comes back"
    finally:
        torch.use_deterministic_algorithms(False)


def test_groups_that_do_not_fill_the_processes_are_refused() -> None:
    with pytest.raises(ConfigError, match="shard_size is 3, of 4 processes"):
        wrap(nn.Linear(2, 2), DistributedContext(0, 4, CPU), TrainOptions(shard="fsdp", shard_size=3))


@pytest.mark.slow
def test_two_copies_of_two_shards_equal_one_process(tmp_path: Path) -> None:
    alone = train(1, tmp_path / "alone")
    groups = train(4, tmp_path / "groups", shard="fsdp", shard_size=2)
    for name, tensor in alone.items():
        if name != "seen":  # counts the rows of a process
            torch.testing.assert_close(groups[name], tensor, rtol=1e-9, atol=1e-9, msg=name)
    folder = tmp_path / "groups/checkpoints/step-00000004"
    written = [len(load_file(file)) for file in sorted(folder.glob("model.0*"))]
    assert min(written[:2]) > 0
    assert written[2:] == [0, 0], "one copy is written"
    for name, tensor in checkpoint.load(folder).model.items():
        if name != "seen":
            torch.testing.assert_close(tensor, checkpoint.load(tmp_path / "alone/checkpoints/step-00000004").model[name])


@pytest.mark.slow
def test_parameters_in_bf16_are_near_and_weights_stay_float32(tmp_path: Path) -> None:
    exact = train(2, tmp_path / "exact", shard="fsdp", precision="bf16")
    half = train(2, tmp_path / "half", shard="fsdp", precision="bf16", shard_bf16=True)
    assert all(tensor.dtype == exact[name].dtype for name, tensor in half.items())
    moved = [(half[name] - exact[name]).abs().max() for name in exact if exact[name].is_floating_point()]
    assert 0 < max(map(float, moved)) < 0.05
