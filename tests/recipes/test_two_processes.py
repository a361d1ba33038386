"""Recipes with a memory or several models, ten steps of the whole training: two processes learn what one does, copied and sharded."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from joined_processes import on_processes
from recipe_worlds import tiny
from safetensors.torch import load_file

from diptych.core.run_folder import RunFolder
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.scenes.descriptions import descriptions

SLUGS = ("protoclip", "tips", "ctp", "m3i", "lexlip", "dcd", "minigpt4", "rlipv2", "fiber")
STEPS = 10


def trained(slug: str, out: Path, shard: Any) -> RunFolder:
    """A run in double precision, where rounding does not grow over the steps."""
    recipe, data = tiny(slug)
    if slug == "minigpt4":  # whose second stage wants detailed captions
        data = descriptions(24, seed=0, detailed=16).remembering()
        recipe = recipe.prepare(data)
    options = TrainOptions(
        progress=False, steps=STEPS, log_every=1, save_every=1000, precision="fp64", seed=3, workers=0, shard=shard
    )
    return fit(recipe, data, out, options)


def on_rank(slug: str, folder: Path, rank: int, world: int) -> list[Any]:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    for shard in ("ddp", "fsdp"):
        trained(slug, folder / shard, shard)
    return []


def losses_of(run: RunFolder) -> list[dict[str, float]]:
    return [
        {name: value for name, value in line.items() if name.startswith("loss")}
        for line in run.metrics()
        if line.get("kind") == "train"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("slug", SLUGS)
def test_two_processes_learn_as_one(slug: str, tmp_path: Path) -> None:
    alone = trained(slug, tmp_path / "one", "none")
    (tmp_path / "meet").mkdir()
    on_processes(partial(on_rank, slug, tmp_path), tmp_path / "meet")
    expected = load_file(alone.model / "model.safetensors")
    assert len(losses_of(alone)) == STEPS
    for shard in ("ddp", "fsdp"):
        run = RunFolder.open(tmp_path / shard)
        for step, (one, two) in enumerate(zip(losses_of(alone), losses_of(run), strict=True)):
            assert two == pytest.approx(one, rel=1e-6, abs=1e-9), (shard, step)
        found = load_file(run.model / "model.safetensors")
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(
                found[name], tensor, rtol=1e-5, atol=1e-7, msg=lambda text, n=name, s=shard: f"{s}, {n}: {text}"
            )
