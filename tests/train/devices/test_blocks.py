"""Blocks of towers: activations that are computed again, and compiled blocks, give the same training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from diptych.core.registry import RECIPES
from diptych.core.run_folder import RunFolder
from diptych.models.towers.towers import image_tower
from diptych.train.devices.blocks import stacked_blocks, with_block_options
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.resolve import resolve


def run(out: Path, **changes: object) -> RunFolder:
    data = resolve("world:scenes?n=24").split("train")
    recipe = replace(RECIPES.load("clip").tiny(), batch_size=8, steps=3)
    return fit(recipe, data, out, TrainOptions(progress=False, log_every=1, precision="fp32", **changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run(tmp_path_factory.mktemp("plain") / "run")


def losses(folder: RunFolder) -> list[float]:
    return [row["loss"] for row in folder.metrics() if "loss" in row]


@pytest.mark.parametrize("micro_batch", [0, 4])
def test_activations_that_are_computed_again_change_no_byte(micro_batch: int, plain: RunFolder, tmp_path: Path) -> None:
    other = run(tmp_path / "run", checkpoint_layers=1, micro_batch=micro_batch)
    assert losses(other) == pytest.approx(losses(plain), rel=1e-5)
    if not micro_batch:
        assert (other.model / "model.safetensors").read_bytes() == (plain.model / "model.safetensors").read_bytes()


def test_activations_are_not_kept() -> None:
    """What a backward pass has to keep: blocks that run again keep their input alone."""

    def kept(every: int) -> int:
        torch.manual_seed(0)
        tower = image_tower("vit_b32", image_size=32, patch=8, width=32, layers=4, heads=2)
        with_block_options(tower, TrainOptions(checkpoint_layers=every))
        size = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal size
            size += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = tower(torch.randn(4, 3, 32, 32)).pooled_BD.sum()
        output.backward()
        assert all(p.grad is not None for p in tower.parameters() if p.requires_grad)
        return size

    assert kept(1) < kept(2) < kept(0)


def test_blocks_are_taken_once_and_names_stay() -> None:
    tower = image_tower("vit_b32", image_size=32, patch=8, width=32, layers=4, heads=2)
    names = list(tower.state_dict())
    (blocks,) = [blocks for blocks in stacked_blocks(tower) if len(blocks) == 4]
    for _ in range(2):
        with_block_options(tower, TrainOptions(checkpoint_layers=2))
    assert ["forward" in vars(block) for block in blocks] == [False, True, False, True]
    assert list(tower.state_dict()) == names
    inner = vars(blocks[1])["forward"].args[0]
    assert inner.__func__ is type(blocks[1]).forward, "not twice"
    assert not list(stacked_blocks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))), "layers without parts are no blocks"


def test_deterministic_kernels_by_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the processor they are on, unless they are not wanted. On a GPU they are off (tests/devices)."""
    found: list[bool] = []
    real = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *args: object) -> object:
        found.append(torch.are_deterministic_algorithms_enabled())
        return real(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    run(tmp_path / "on")
    run(tmp_path / "off", deterministic="no")
    assert found == [True] * 3 + [False] * 3
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_compiled_blocks_train_alike(plain: RunFolder, tmp_path: Path) -> None:
    assert losses(run(tmp_path / "run", compile=True)) == pytest.approx(losses(plain), rel=1e-4)
