"""A run that starts from another one's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

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
    (tmp_path / "other").mkdir()
    save_file({"x": torch.zeros(2)}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(ConfigError, match=r"next to nothing .*: 0 of \d+ tensors start from .*; not used: x"):
        api.train("clip", WORLD, tmp_path / "c", steps=1, batch_size=4, progress=False, init=tmp_path / "other")
    assert not (tmp_path / "c").exists(), "a refused start left a folder behind"


def test_what_was_taken_and_what_was_not_is_said_before_the_first_step(tmp_path: Path) -> None:
    """Weights alone, without the configuration that a recipe could follow: what has another shape starts afresh, and is named."""
    small = {"batch_size": 4, "steps": 1, "progress": False}
    base = api.train("clip", WORLD, tmp_path / "base", **small)
    tensors = load_file(base.model / "model.safetensors")
    (tmp_path / "bare").mkdir()
    table = next(name for name, tensor in tensors.items() if name.startswith("text_tower") and tensor.ndim == 2)
    tensors[table] = tensors[table][:-1]
    tensors["head.x"] = torch.zeros(2)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "bare" / "model.safetensors")
    lines: list[str] = []
    api.train("clip", WORLD, tmp_path / "run", init=tmp_path / "bare", say=lines.append, **small)
    said = "\n".join(lines)
    assert f"{len(tensors) - 2} of {len(tensors) - 1} tensors start from {tmp_path / 'bare'}" in said
    assert f"(such as {table}: " in said
    assert "not used: head.x" in said


def test_a_start_that_shares_nothing_but_a_scale_is_refused(tmp_path: Path) -> None:
    """Of a model of another size only the temperature fits: 1 of 86 tensors, and it went on without a word."""
    base = api.train("clip", WORLD, tmp_path / "base", steps=1, batch_size=4, width=16, progress=False)
    tensors = load_file(base.model / "model.safetensors")
    (tmp_path / "bare").mkdir()
    other = {name: t if t.numel() == 1 else torch.zeros(*(size + 1 for size in t.shape)) for name, t in tensors.items()}
    save_file(other, tmp_path / "bare" / "model.safetensors")
    with pytest.raises(ConfigError, match=r"1 of \d+ tensors start from .*since their shape is another.* here, .* there\)"):
        api.train("clip", WORLD, tmp_path / "run", steps=1, batch_size=4, width=16, progress=False, init=tmp_path / "bare")
