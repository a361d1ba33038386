"""Means of several models: uniform ones are the mean of the tensors, greedy ones keep what does not hurt on validation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import diptych as dp
from diptych.api import tuning
from diptych.cli import main
from diptych.core.result import Metric, Result

WORLD = "world:scenes?n=16&val=8&test=8&size=32"
SMALL: dict[str, Any] = {
    "batch_size": 4,
    "steps": 2,
    "warmup": 0.0,
    "width": 16,
    "image_size": 32,
    "text_length": 12,
    "pieces": 300,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three models of one architecture: one that was trained, and two whose weights are it times 2 and 6."""
    folder = tmp_path_factory.mktemp("soup")
    dp.train("clip", WORLD, folder / "run", evaluation=False, progress=False, **SMALL)
    addresses = []
    for name, factor in (("a", 1.0), ("b", 2.0), ("c", 6.0)):
        shutil.copytree(folder / "run" / "model", folder / name)
        weights = load_file(folder / name / "model.safetensors")
        save_file({key: factor * tensor if tensor.is_floating_point() else tensor for key, tensor in weights.items()},
                  folder / name / "model.safetensors")  # fmt: skip
        addresses.append(str(folder / name))
    return addresses


def test_a_uniform_mean(models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["blend", *models, "--how", "uniform", "--out", str(tmp_path / "mean"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["used"] == models
    one, mean = load_file(Path(models[0]) / "model.safetensors"), load_file(tmp_path / "mean" / "model.safetensors")
    assert all(torch.allclose(mean[name], 3.0 * one[name], atol=1e-5) for name in one if one[name].is_floating_point())
    assert dp.load(tmp_path / "mean").embed_texts(["a red circle"]).shape == (1, 16)


def test_a_greedy_mean_begins_with_the_best_and_leaves_out_what_hurts(
    models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are set by the factor of the weights: b (2) alone is best, with a it is as good, with c it is worse."""
    first = load_file(Path(models[0]) / "model.safetensors")["log_scale"]
    asked: list[tuple[float, str]] = []

    def evaluate(model: Any, task: str, data: Any, *, split: str) -> Result:
        factor = float(model.model.state_dict()["log_scale"] / first)
        asked.append((round(factor, 2), split))
        value = {1.0: 0.3, 2.0: 0.6, 6.0: 0.5, 4.0: 0.2, 1.5: 0.6}[round(factor, 2)]
        return Result("retrieval", 1, "r@1", {"r@1": Metric(value)}, 8, 8)

    monkeypatch.setattr(tuning, "evaluate", evaluate)
    done = tuning.soup(models, tmp_path / "mean", how="greedy", data=WORLD)
    assert done.used == (models[1], models[0])
    assert done.score == 0.6
    assert [factor for factor, _ in asked] == [1.0, 2.0, 6.0, 2.0, 4.0, 1.5]  # alone; the best; with c; with a
    assert {split for _, split in asked} == {"val"}


def test_what_cannot_be_averaged_is_one_line(models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "x")]
    for words, reason in (
        ([*models, *out], "--share is for two models"),
        ([models[0], "--how", "uniform", *out], "two models or more"),
        ([*models, "--how", "greedy", *out], "say --data"),
        ([models[0], models[0], "--how", "uniform", *out], "is given twice"),
    ):
        assert main(["blend", *words]) == 2
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
