"""PointNet++: levels and interpolation of the released modules, and gradients that reach features alone."""

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
from diptych.models.points.pointnet2 import PointNet2, PointNet2Settings
from diptych.models.points.sampling import three_nearest_mean

RELEASED = json.loads((Path(__file__).parent / "pointnet2_released.json").read_text())
SMALL = PointNet2Settings(
    centres=(24, 12, 6),
    radii=(0.5, 0.8, 1.2),
    neighbours=(8, 6, 4),
    down=((8, 8, 16), (12, 20), (16, 20)),
    up=((24, 24), (24, 28)),
    skip=1e-3,
)


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    value = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * 0.1
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        value = np.abs(value) + 1
    return torch.from_numpy(np.asarray(value))


def own_name(theirs: str) -> str:
    part, _, layer, *rest = theirs.split(".") if theirs.startswith("sa") else theirs.replace("mlp.", "mlp.", 1).split(".")
    side, number = ("down" if part.startswith("sa") else "up"), int(part[2:]) - 1
    kind = f"convs.{layer[5:]}.{rest[-1]}" if "conv" in rest else f"norms.{layer[5:]}.{rest[-1]}"
    return f"{side}.{number}.mlp.{kind}"


def released() -> PointNet2:
    net = PointNet2(SMALL).double()
    own = net.state_dict()
    assert {own_name(name) for name, _ in RELEASED["names"]} == own.keys()
    for name, shape in RELEASED["names"]:
        if not name.endswith("num_batches_tracked"):
            own[own_name(name)].copy_(filled(name, tuple(shape)))
    return net.eval()


def test_levels_and_interpolation_are_the_released_ones(parity: Any) -> None:
    net, point_BPF = released(), filled("room", (2, 60, 6)) * 6
    levels = net.encode(point_BPF)
    up = net.decode(levels)
    assert levels[1].index_BG.tolist() == RELEASED["index"]
    assert levels[-1].feature_BGC is not None
    assert up.feature_BGC is not None
    pairs = [
        (levels[-1].feature_BGC.transpose(1, 2), torch.tensor(RELEASED["seeds"], dtype=torch.float64)),
        (up.feature_BGC.transpose(1, 2), torch.tensor(RELEASED["up"], dtype=torch.float64)),
    ]
    parity("text4point", "features of PointNet++'s levels", "released code, daveredrum/ScanRefer", pairs, tolerance=1e-7)


def test_places_of_levels_lead_back_to_the_points() -> None:
    point_BPF = torch.randn(2, 60, 6)
    for level in PointNet2(SMALL).eval().encode(point_BPF)[1:]:
        own = torch.stack([points[index, :3] for points, index in zip(point_BPF, level.index_BG, strict=True)])
        assert torch.equal(own, level.xyz_BG3)


def test_means_of_the_three_nearest() -> None:
    xyz_BP3, known_BG3 = torch.randn(1, 5, 3).double(), torch.randn(1, 7, 3).double()
    feature_BGC = torch.randn(1, 7, 2).double().requires_grad_()
    ours = three_nearest_mean(xyz_BP3, known_BG3, feature_BGC)
    for p in range(5):
        distance = [(float((xyz_BP3[0, p] - known_BG3[0, g]).norm()), g) for g in range(7)]
        near = sorted(distance)[:3]
        total = sum(1 / (d + 1e-8) for d, _ in near)
        expected = sum(feature_BGC[0, g] / (d + 1e-8) / total for d, g in near)
        torch.testing.assert_close(ours[0, p], expected)
    assert torch.autograd.gradcheck(lambda f: three_nearest_mean(xyz_BP3, known_BG3, f), feature_BGC)
    torch.testing.assert_close(three_nearest_mean(known_BG3, known_BG3, feature_BGC), feature_BGC, atol=1e-6, rtol=0)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="equal numbers"):
        PointNet2Settings(centres=(8,))
    with pytest.raises(ShapeError, match="24 points or more"):
        PointNet2(SMALL).encode(torch.zeros(1, 8, 6))
    assert PointNet2Settings.from_json(json.loads(json.dumps(SMALL.to_json()))) == SMALL
