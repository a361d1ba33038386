"""Sparse convolutions against dense ones and a loop, interpolation against a loop, and the U-Net of points."""

from __future__ import annotations

import json
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.points.sparse_convolution import SparseConv, SparseTransposedConv, VoxelLevel, halved, trilinear, voxel_level
from diptych.models.points.voxel_unet import VoxelUNet, VoxelUNetSettings

SMALL = VoxelUNetSettings(voxel=0.5, voxel_stem=4, voxel_down=(6, 8), voxel_up=(8, 6), voxel_blocks=1, voxel_seeds=5)


def occupied(share: float, side: int = 6) -> VoxelLevel:
    """Voxels of two clouds: all of a cube, or some at random, in no order."""
    torch.manual_seed(0)
    place_P4 = torch.tensor(list(product(range(2), *[range(side)] * 3)))
    return voxel_level(place_P4[torch.randperm(len(place_P4))[: max(1, int(share * len(place_P4)))]])[0]


def dense(level: VoxelLevel, x_NC: Tensor, side: int = 6) -> Tensor:
    """[clouds, C, side, side, side], 0 where no voxel is."""
    grid = x_NC.new_zeros(2, side, side, side, x_NC.shape[1])
    grid[tuple(level.place_N4.T)] = x_NC
    return grid.permute(0, 4, 1, 2, 3)


def at_voxels(level: VoxelLevel, grid: Tensor) -> Tensor:
    return grid.permute(0, 2, 3, 4, 1)[tuple(level.place_N4.T)]


def dense_kernel(weight_KCD: Tensor, side: int) -> Tensor:
    return weight_KCD.view(side, side, side, *weight_KCD.shape[1:]).permute(4, 3, 0, 1, 2)


@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_submanifold_convolution_is_the_dense_one_where_voxels_are(kernel: int, share: float) -> None:
    level = occupied(share)
    conv = SparseConv(kernel**3, 3, 4).double()
    x_NC = torch.randn(len(level.key_N), 3, dtype=torch.float64, requires_grad=True)
    out = conv(x_NC, level.neighbours(kernel))
    whole = F.conv3d(dense(level, x_NC), dense_kernel(conv.weight_KCD, kernel), padding=kernel // 2)
    torch.testing.assert_close(out, at_voxels(level, whole))
    ours, theirs = (torch.autograd.grad(y.square().sum(), (x_NC, conv.weight_KCD)) for y in (out, at_voxels(level, whole)))
    torch.testing.assert_close(ours, theirs)


def test_a_submanifold_convolution_is_a_loop_over_voxels() -> None:
    level, conv = occupied(0.2), SparseConv(27, 2, 3)
    x_NC = torch.randn(len(level.key_N), 2)
    number = {tuple(place): n for n, place in enumerate(level.place_N4.tolist())}
    out = conv(x_NC, level.neighbours(3))
    for (cloud, x, y, z), n in number.items():
        expected = torch.zeros(3)
        for k, (dx, dy, dz) in enumerate(product((-1, 0, 1), repeat=3)):
            if (m := number.get((cloud, x + dx, y + dy, z + dz))) is not None:
                expected = expected + x_NC[m] @ conv.weight_KCD[k]
        torch.testing.assert_close(out[n], expected)


@pytest.mark.parametrize("share", [1.0, 0.2])
def test_halving_and_doubling_are_the_dense_convolutions_of_stride_two(share: float) -> None:
    level = occupied(share)
    coarse, way = halved(level)
    larger = {tuple(place) for place in (level.place_N4 >> torch.tensor([0, 1, 1, 1])).tolist()}
    assert [list(place) for place in sorted(larger)] == coarse.place_N4.tolist()
    down, up = SparseConv(8, 3, 4).double(), SparseTransposedConv(4, 3).double()
    x_NC = torch.randn(len(level.key_N), 3, dtype=torch.float64)
    y_MC = down(x_NC, way.child_M8)
    whole = F.conv3d(dense(level, x_NC), dense_kernel(down.weight_KCD, 2), stride=2)
    torch.testing.assert_close(y_MC, at_voxels(coarse, whole))
    back = F.conv_transpose3d(dense(coarse, y_MC, side=3), dense_kernel(up.weight_KCD, 2).transpose(0, 1), stride=2)
    torch.testing.assert_close(up(y_MC, way), at_voxels(level, back))


def test_points_read_the_voxels_around_them() -> None:
    level = occupied(0.4)
    at_P3, cloud_P = torch.rand(40, 3, dtype=torch.float64) * 6, torch.arange(40) % 2
    x_NC = torch.randn(len(level.key_N), 2, dtype=torch.float64)
    number = {tuple(place): n for n, place in enumerate(level.place_N4.tolist())}
    ours = trilinear(x_NC, level, at_P3, cloud_P)
    read = 0
    for p in range(40):
        total, weight = torch.zeros(2, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for (cloud, *place), n in number.items():
            share = (1 - (at_P3[p] - torch.tensor(place) - 0.5).abs()).clamp(min=0).prod()
            if cloud == cloud_P[p] and share > 0:
                total, weight = total + share * x_NC[n], weight + share
        if weight:
            torch.testing.assert_close(ours[p], total / weight)
            read += 1
    assert read > 30


def cloud(points: int = 60, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return torch.cat([torch.rand(2, points, 3) * 4 - 2, torch.rand(2, points, 3)], 2)


def test_clouds_of_a_batch_do_not_meet_and_their_points_have_no_order() -> None:
    torch.manual_seed(0)
    net, point_BPF = VoxelUNet(SMALL).eval(), cloud()
    whole = net(point_BPF)
    assert whole.shape == (2, 60, SMALL.out_width)
    torch.testing.assert_close(whole[1:], net(point_BPF[1:]))
    order = torch.randperm(60)
    torch.testing.assert_close(net(point_BPF[:, order]), whole[:, order])
    moved = point_BPF.clone()
    moved[..., :3] += torch.tensor([4.0, -8.0, 1.0])  # by whole voxels
    torch.testing.assert_close(net(moved), whole, atol=1e-4, rtol=1e-4)


def test_every_parameter_learns() -> None:
    net = VoxelUNet(SMALL)
    net(cloud()).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_seeds_are_coarsest_voxels_at_points_of_their_own() -> None:
    net, point_BPF = VoxelUNet(SMALL).eval(), cloud()
    pyramid = net.encode(point_BPF)
    coarsest = net.coarsest(pyramid)
    seed = net.seeds(pyramid, coarsest)
    assert seed.feature_BGC is not None
    for b in range(2):
        own = point_BPF[b, :, :3] / SMALL.voxel
        voxel_P3 = (own - own.min(0).values.floor()).floor().long() >> 2
        for g in range(SMALL.voxel_seeds):
            place = voxel_P3[seed.index_BG[b, g]]
            n = pyramid.levels[-1].place_N4.tolist().index([b, *place.tolist()])
            torch.testing.assert_close(seed.feature_BGC[b, g], coarsest[0, n])
            assert seed.index_BG[b, g] == (voxel_P3 == place).all(1).nonzero()[0]
        torch.testing.assert_close(seed.xyz_BG3[b], point_BPF[b, seed.index_BG[b], :3])
        assert len(set(seed.index_BG[b].tolist())) == SMALL.voxel_seeds, "of more voxels different ones"


def test_an_exported_network_reads_clouds_of_other_numbers_of_voxels() -> None:
    torch.manual_seed(0)
    net = VoxelUNet(SMALL).eval()
    exported = torch.export.export(net, (cloud(),)).module()
    other = cloud(seed=1)
    other[..., :3] *= 0.6
    for point_BPF in (cloud(), other):
        torch.testing.assert_close(exported(point_BPF), net(point_BPF))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 levels down, 1 up"):
        VoxelUNetSettings(voxel_down=(8, 8), voxel_up=(8,))
    with pytest.raises(ShapeError, match=r"expected \[clouds, points, 6\]"):
        VoxelUNet(SMALL)(torch.zeros(1, 8, 3))
    far = cloud()
    far[0, 0, 0] = 1e6
    with pytest.raises(ShapeError, match="voxels per side"):
        VoxelUNet(SMALL)(far)
    assert VoxelUNetSettings.from_json(json.loads(json.dumps(SMALL.to_json()))) == SMALL
