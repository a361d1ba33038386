"""Checkpoints that two processes write together: read by torch's own reader, by one process, after a kill, after a fault."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from toy_processes import begin, run

from diptych.core.errors import RunError
from diptych.train import checkpoint
from diptych.train.checkpoint import Checkpoint, write_shards
from diptych.train.devices import shared_save
from diptych.train.devices.shard_files import ShardedTensors, TensorPart, local_part, write_parts

RECIPE = {"steps": 6, "clip_norm": 0.5, "average": True}


def plan(processes: int, out: Path) -> dict[str, Any]:
    options = {"save_every": 1, "keep": 6, **({"shard": "fsdp"} if processes > 1 else {})}
    return {"out": str(out), "recipe": RECIPE, "options": options, "resume": True}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    run(1, plan(1, out))
    return out


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("together") / "run"
    run(2, plan(2, out))
    return out


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        if name != "seen":  # counts the rows of a process
            torch.testing.assert_close(one[name], other[name], rtol=1e-9, atol=1e-9, msg=name)


def test_every_process_writes_its_part(alone: Path, together: Path) -> None:
    folder = together / "checkpoints/step-00000004"
    names = sorted(path.name for path in folder.iterdir())
    parts = [f"{stem}.0000{n}-of-00002.safetensors" for stem in ("model", "optimiser") for n in (1, 2)]
    assert names == sorted([*parts, "hooks.json", "hooks.safetensors", "optimiser.json", "state.json"])
    sizes = [(folder / name).stat().st_size for name in parts[2:]]
    assert max(sizes) < 1.5 * min(sizes), "no process writes for the other"
    one, two = checkpoint.load(alone / "checkpoints/step-00000004"), checkpoint.load(folder)
    same(dict(one.model), dict(two.model))
    assert dict(one.optimiser).keys() == dict(two.optimiser).keys()
    for name, values in one.optimiser.items():
        assert values.keys() == two.optimiser[name].keys()
        for key, value in values.items():
            torch.testing.assert_close(value, two.optimiser[name][key], rtol=1e-9, atol=1e-9)


def test_torch_reads_the_files(together: Path) -> None:
    folder = together / "checkpoints/step-00000004"
    own = dict(checkpoint.load(folder).model)
    read = {name: torch.zeros_like(tensor) for name, tensor in own.items()}
    dcp.load(read, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    assert all(torch.equal(read[name], tensor) for name, tensor in own.items())
    assert any(tensor.abs().sum() for tensor in read.values())


def test_a_kill_while_two_processes_write(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    begun = begin(2, plan(2, out), meeting)
    until = time.monotonic() + 200
    while not any((out / "checkpoints").glob(".step-0000000[3-6].writing/*")):
        assert all(process.is_alive() for process in begun.processes)
        assert time.monotonic() < until, "no checkpoint is written"
    for process in begun.processes:
        os.kill(process.pid, signal.SIGKILL)
    for process in begun.processes:
        process.join()
    steps = checkpoint.steps_of(out / "checkpoints")
    assert steps, "those before are there"
    for step in steps:
        dict(checkpoint.load(checkpoint.folder_of(out / "checkpoints", step)).model)
    run(1, plan(1, out))
    assert not list((out / "checkpoints").glob(".*")), "what the kill left is gone"
    same(load_file(alone / "model/model.safetensors"), load_file(out / "model/model.safetensors"))


def test_a_part_that_never_comes_costs_one_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_save, "PATIENCE", 0.2)
    model = {"weight": torch.arange(6.0)}
    write_shards(tmp_path, Checkpoint(1, {}, model), rank=0, size=1, keep=2).wait()
    saving = write_shards(tmp_path, Checkpoint(2, {}, model), rank=0, size=2, keep=2)
    with pytest.raises(RunError, match=r"step-00000002 could not be written \(process 1 did not write its part within"):
        saving.wait()
    begin, notes = checkpoint.newest(tmp_path)
    assert begin is not None
    assert (begin.step, notes) == (1, [])
    checkpoint.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_disk_that_fails_and_a_changed_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"weight": torch.arange(6.0)}
    for step in (1, 2):
        write_shards(tmp_path, Checkpoint(step, {}, model), rank=0, size=1, keep=2).wait()
    file = tmp_path / "step-00000002/model.00001-of-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    begin, notes = checkpoint.newest(tmp_path)
    assert begin is not None
    assert begin.step == 1
    assert notes[0].endswith("is damaged: its bytes are not those that were written")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shared_save, "write_parts", fail)
    with pytest.raises(RunError, match=r"No space left on device.*the checkpoints before it are whole"):
        write_shards(tmp_path, Checkpoint(3, {}, model), rank=0, size=1, keep=2).wait()


def test_a_missing_part_of_a_tensor_is_refused(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(6, 2)
    for number, rows in enumerate((slice(0, 2), slice(2, 5), slice(5, 6))):
        write_parts(tmp_path / f"{number}.safetensors", {"w": TensorPart(whole[rows].clone(), (rows.start, 0))})
    files = sorted(tmp_path.iterdir())
    assert torch.equal(ShardedTensors(files)["w"], whole)
    with pytest.raises(RunError, match="'w' is not whole"):
        ShardedTensors([files[0], files[2]])["w"]


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_processes_of_a_mesh_write_every_row_once(rows: int, tmp_path: Path) -> None:
    """Two copies of two shards: only the first copy is written, and a shard without a row is not."""
    whole = torch.arange(2.0 * rows).view(rows, 2)
    first = (rows + 1) // 2
    sizes = []
    for rank in range(4):
        dist.init_process_group("fake", rank=rank, world_size=4, store=FakeStore())
        try:
            mesh = init_device_mesh("cpu", (2, 2))
            local = whole[:first] if rank % 2 == 0 else whole[first:]
            placements = [Replicate(), Shard(0)]
            tensor = DTensor.from_local(local, mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride())
            part = local_part(tensor, main=rank == 0)
            alone = local_part(whole, main=rank == 0)
        finally:
            dist.destroy_process_group()
        assert (alone is not None) == (rank == 0)
        sizes.append(0 if part is None else len(part.tensor))
        if part is not None:
            write_parts(tmp_path / f"{rank}.safetensors", {"w": part})
    assert sizes == [first, rows - first, 0, 0]
    assert len(list(tmp_path.iterdir())) == min(rows, 2)
    assert torch.equal(ShardedTensors(sorted(tmp_path.iterdir()))["w"], whole)
