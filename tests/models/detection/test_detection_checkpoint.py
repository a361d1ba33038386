"""Checkpoints as the released `main.py` saves them: read with their options inside, and nothing in them is run."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from diptych.core.errors import DataError
from diptych.models.detection.checkpoint import read_released


def save(path: Path, model: Any, **more: Any) -> Path:
    """Model, optimiser, schedule, epoch and options, as `main.py` writes them after each epoch."""
    trained = nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(trained.parameters(), lr=1.41e-4, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 15)
    trained(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    schedule.step()
    options = argparse.Namespace(lr=1.41e-4, backbone="resnet50", pretrained="", masks=False, frozen_weights=None, device="cuda")
    content = {"optimizer": optimiser.state_dict(), "lr_scheduler": schedule.state_dict(), "epoch": 19, "args": options}
    torch.save({"model": model, **content, **more}, path)
    return path


def test_a_file_of_main_py_opens(tmp_path: Path) -> None:
    expected = {"tgt_embed.weight": torch.randn(4, 2), "bias_obj_a": torch.randn(2)}
    read = read_released(save(tmp_path / "checkpoint.pth", expected))
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "checkpoint.pth", {}, more=Payload())
    with pytest.raises(DataError, match=r"checkpoint\.pth: not read, since it asks for posix\.system"):
        read_released(path)
    assert not Path("ran").exists()
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_other_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.pth: there is no such file"):
        read_released(tmp_path / "gone.pth")
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(DataError, match=r"other\.pth: holds \['epoch', 'state_dict'\] \(expected an entry 'model'"):
        read_released(tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(DataError, match=r"text\.pth: not a PyTorch file of tensors"):
        read_released(tmp_path / "text.pth")
