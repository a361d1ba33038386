"""Sampling and grouping of points against loops over all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from diptych.core.errors import ShapeError
from diptych.data.media.cloud_views import furthest_rows
from diptych.models.points.point_bert import PointBERT, PointBERTSettings
from diptych.models.points.sampling import ball_query, furthest_points, gather_points, nearest_points


def furthest_by_hand(xyz_P3: Tensor, count: int, start: int, skip: float) -> list[int]:
    chosen = [start]
    while len(chosen) < count:
        best, distance = 0, -1.0
        for point in range(len(xyz_P3)):
            if skip and float(xyz_P3[point].square().sum()) <= skip:
                continue
            near = min(float((xyz_P3[point] - xyz_P3[one]).square().sum()) for one in chosen)
            if near > distance:
                best, distance = point, near
        chosen.append(best)
    return chosen


@pytest.mark.parametrize("skip", [0.0, 0.5])
def test_furthest_points_are_those_of_a_loop(skip: float) -> None:
    xyz_BP3 = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 30, 3)))
    start_B = torch.tensor([0, 7, 29])
    index_BG = furthest_points(xyz_BP3, 9, start_B=start_B, skip=skip)
    for cloud in range(3):
        assert index_BG[cloud].tolist() == furthest_by_hand(xyz_BP3[cloud], 9, int(start_B[cloud]), skip)
    if not skip:
        assert furthest_rows(xyz_BP3[1].numpy(), 9, 7).tolist() == index_BG[1].tolist()


def test_neighbours_and_balls_are_those_of_a_loop() -> None:
    xyz_BP3 = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 25, 3)))
    centre_BG3 = gather_points(xyz_BP3, torch.tensor([[0, 5, 9], [3, 4, 24]]))
    near_BGK, ball_BGK = nearest_points(centre_BG3, xyz_BP3, 4), ball_query(centre_BG3, xyz_BP3, 1.1, 5)
    for cloud in range(2):
        for group in range(3):
            distance_P = (xyz_BP3[cloud] - centre_BG3[cloud, group]).norm(dim=1)
            assert sorted(near_BGK[cloud, group].tolist()) == sorted(distance_P.argsort()[:4].tolist())
            inside = [point for point in range(25) if distance_P[point] < 1.1][:5]
            assert ball_BGK[cloud, group].tolist() == inside + [inside[0]] * (5 - len(inside))
    with pytest.raises(ShapeError, match="26 neighbours of 25 points"):
        nearest_points(centre_BG3, xyz_BP3, 26)


def test_order_of_points_matters_through_the_start_alone() -> None:
    torch.manual_seed(0)
    tower = PointBERT(PointBERTSettings(groups=6, group_size=5, encoder=16, token_width=24, layers=2, heads=2)).double().eval()
    point_1P3 = torch.randn(1, 40, 3, dtype=torch.float64)
    order_P = torch.randperm(40)
    start = int((order_P == 0).nonzero())
    given, turned = tower(point_1P3), point_1P3[:, order_P]
    torch.testing.assert_close(tower(turned, torch.tensor([start])), given, atol=1e-10, rtol=0)
    assert start
    assert float((tower(turned) - given).abs().max().detach()) > 1e-3
