"""Norms by part of a model: gradients before clipping, updates as the optimiser made them, on the steps that are logged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from toy import Toy, toy_pool

from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.train.part_norms import PartNorms, parts_of


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.text, self.still = nn.Linear(3, 2), nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(()))


def test_norms_are_those_of_each_part_and_of_the_update() -> None:
    torch.manual_seed(0)
    model = Two()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    (model.image(torch.ones(1, 3)).sum() * model.scale + 3 * model.text(torch.ones(1, 2)).sum()).backward()
    norms = PartNorms(True, 2)
    with norms.measured(model, 2, 9):
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        scaled = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        optimiser.step()
    assert set(norms.values) == {f"{kind}/{part}" for kind in ("grad_norm", "update_norm") for part in ("own", "image", "text")}
    assert norms.values["grad_norm/text"] == pytest.approx((6 * 9) ** 0.5)  # before clipping: six derivatives of 3
    clipped = torch.cat([scaled["text.weight"].flatten(), scaled["text.bias"]]).norm()
    assert norms.values["update_norm/text"] == pytest.approx(0.5 * float(clipped), rel=1e-3)
    with norms.measured(model, 3, 9):
        pass
    assert not norms.values  # no line is due


def test_a_single_child_is_looked_into() -> None:
    assert set(parts_of(nn.Sequential(Two()))) == {"own", "image", "text"}


def test_lines_of_the_log_hold_them_and_training_is_the_same(tmp_path: Path) -> None:
    runs = {}
    for name, wanted in (("with", True), ("without", False)):
        options = TrainOptions(steps=4, log_every=3, progress=False, part_norms=wanted)
        runs[name] = fit(Toy(), toy_pool(), tmp_path / name, options)
    lines = [json.loads(line) for line in runs["with"].metrics_file.read_text().splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "train" and line["update_norm/image"] > 0]
    assert steps == [3, 4]
    whole = lines[-1]["grad_norm"] ** 2
    assert sum(value**2 for name, value in lines[-1].items() if name.startswith("grad_norm/")) == pytest.approx(whole, rel=1e-4)
    assert "grad_norm/image" not in runs["without"].metrics_file.read_text()
    weights = [(run.checkpoints / "step-00000004" / "model.safetensors").read_bytes() for run in runs.values()]
    assert weights[0] == weights[1]
