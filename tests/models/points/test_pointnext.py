"""PointNeXt-S against the released code on equal weights, and the released checkpoint's layout on the meta device."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.points.point_encoder import PointEncoder
from diptych.models.points.pointnext import PointNeXt, PointNeXtSettings
from diptych.models.points.released import from_released, released_settings
from diptych.models.points.towers import point_tower, tower_settings
from diptych.models.towers.towers import image_tower, text_tower

RELEASED = json.loads((Path(__file__).parent / "pointnext_released.json").read_text())
"""Of salesforce/ULIP: sizes of its PointNeXt, and vectors and gradients of a narrow one whose weights `filled` gives."""
SMALL = PointNeXtSettings(width=4, neighbours=4, head=(12, 10), dropout=0.0)


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    """Values that the name decides, here and in the released code."""
    value = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * 0.1
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        value = np.abs(value) + 1
    return torch.from_numpy(np.asarray(value))


def ours(name: str) -> str:
    """Our name of a tensor of the released tower."""
    return next(iter(from_released({f"point_encoder.{name}": torch.zeros(1)}))).removeprefix("tower.")


def test_the_tower_is_the_released_one(parity: Any) -> None:
    tower = PointNeXt(SMALL).double()
    own = tower.state_dict()
    assert {ours(name) for name in RELEASED["shapes"]} == set(own)
    for name in RELEASED["shapes"]:
        if not name.endswith("num_batches_tracked"):
            own[ours(name)].copy_(filled(f"point_encoder.{name}", tuple(own[ours(name)].shape)))
    point_BP3 = filled("next", (3, 64, 3)) * 4
    pairs = [(tower.eval()(point_BP3), torch.tensor(RELEASED["eval"], dtype=torch.float64))]
    trained = tower.train()(point_BP3)
    pairs.append((trained, torch.tensor(RELEASED["train"], dtype=torch.float64)))
    trained.square().sum().backward()
    gradients = {name: value.grad for name, value in tower.named_parameters()}
    for name, theirs in RELEASED["grads"].items():
        gradient = gradients[ours(name)]
        assert gradient is not None
        pairs.append((gradient.flatten()[:12], torch.tensor(theirs, dtype=torch.float64)))
    parity("ulip", "vectors of PointNeXt, and gradients", "released code, salesforce/ULIP", pairs, tolerance=1e-9)


def test_the_released_layout_leaves_nothing_over() -> None:
    with torch.device("meta"):
        tensors = {f"point_encoder.{name}": torch.empty(shape) for name, shape in RELEASED["shapes"].items()}
        tensors |= {"pc_projection": torch.empty(256, 512), "logit_scale": torch.empty(())}
        settings = released_settings(tensors)
        assert settings == PointNeXtSettings()
        small = DualEncoder(image_tower("vit_micro", image_size=32), text_tower("text_micro", vocab_size=99, length=8), width=512)
        model = PointEncoder(small, settings)
    shapes = {name: tuple(tensor.shape) for name, tensor in from_released(tensors).items()}
    assert shapes == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if not name.startswith("anchors.")}
    assert sum(value.numel() for value in model.tower.parameters()) == RELEASED["parameters"]


def test_settings_make_the_same_tower_again() -> None:
    again = tower_settings(json.loads(json.dumps(SMALL.to_json())))
    assert again == SMALL
    assert isinstance(point_tower(again), PointNeXt)


def test_few_points_and_odd_sizes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\[1, 63, 3\] \(expected \[clouds, 64 points or more, 3\]"):
        PointNeXt(SMALL)(torch.zeros(1, 63, 3))
    with pytest.raises(ConfigError, match="radius above 0"):
        PointNeXtSettings(radius=0.0)
