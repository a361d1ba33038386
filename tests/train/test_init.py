"""A run that starts from another one's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diptych import api
from diptych.core.errors import ConfigError, RunError

WORLD = "world:scenes?n=16"


def test_tensors_of_equal_name_and_shape_are_the_start(tmp_path: Path) -> None:
    small = {"batch_size": 4, "progress": False}
    api.train("clip", WORLD, tmp_path / "a", steps=1, seed=1, **small)
    before = load_file(tmp_path / "a" / "model" / "model.safetensors")
    run = api.train("clip", WORLD, tmp_path / "b", steps=1, seed=2, lr=1e-12, init=tmp_path / "a", **small)
    after = load_file(run.model / "model.safetensors")
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert any("tensors start from" in line.get("text", "") for line in run.metrics())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no model\.safetensors"):
        api.train("clip", WORLD, tmp_path / "b", init=tmp_path / "none")
    from safetensors.torch import save_file

    (tmp_path / "other").mkdir()
    save_file({"x": torch.zeros(2)}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(ConfigError, match="no tensor with a name and shape"):
        api.train("clip", WORLD, tmp_path / "c", steps=1, batch_size=4, progress=False, init=tmp_path / "other")
