"""Sparse convolutions over occupied voxels in plain PyTorch: neighbours are looked up by a coordinate key, gathered,
and multiplied at once.

Letters: B clouds, P points, N M voxels of a finer and a coarser level, K positions of a kernel, C D channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from diptych.core.errors import ShapeError

BITS = 16
"""Bits per coordinate in a key; the higher bits hold the index of the cloud."""
MOST = 2**BITS - 8
"""Voxels per side. Some values stay unused, so that a neighbour beyond an edge has a key that no voxel has."""
OCTANTS = tuple(product((0, 1), repeat=3))


@dataclass(frozen=True, slots=True)
class VoxelLevel:
    """Occupied voxels of one size, sorted by key.

    key_N      int64: index of the cloud, x, y and z
    place_N4   the same as separate values
    """

    key_N: Tensor
    place_N4: Tensor

    def neighbours(self, kernel: int) -> Tensor:
        """Return the voxel index at each position of a cubic kernel around each voxel, [N, kernel cubed], x slowest;
        N if it is empty.
        """
        reach = range(-(kernel // 2), kernel // 2 + 1)
        return self.find(self.key_N[:, None] + _steps(product(reach, repeat=3), self.key_N))

    def find(self, key: Tensor) -> Tensor:
        """Return the indices of the voxels with these keys, in the keys' shape; N if there is no such voxel."""
        count = self.key_N.shape[0]
        index = torch.searchsorted(self.key_N, key.contiguous())
        there = self.key_N[index.clamp(max=count - 1)] == key
        return torch.where(there, index, count)


@dataclass(frozen=True, slots=True)
class VoxelHalving:
    """Mapping from a level to that of voxels twice as large: parent_N of each fine voxel, child_M8 of each coarse one.

    Children are in the order of octants, N for an empty one.
    """

    parent_N: Tensor
    octant_N: Tensor
    child_M8: Tensor


def voxel_level(place_P4: Tensor) -> tuple[VoxelLevel, Tensor]:
    """Return the voxel level of points given by integer cloud and voxel coordinates, and the voxel index of each point [P].

    Raises ShapeError for a cloud of too many voxels per side, on the CPU only, since the check would wait for a GPU.
    """
    if place_P4.device.type == "cpu" and not torch.compiler.is_exporting() and int(place_P4[:, 1:].max()) > MOST:
        raise ShapeError(f"{int(place_P4[:, 1:].max())} voxels per side (expected {MOST} at most: larger voxels)")
    key_N, index_P = torch.unique(_key(place_P4), return_inverse=True)
    torch._check(key_N.shape[0] > 0)  # unknown to `torch.export`
    shifts_4 = torch.arange(3, -1, -1, device=key_N.device) * BITS
    place_N4 = (key_N[:, None] >> shifts_4) & torch.where(shifts_4 == 3 * BITS, -1, 2**BITS - 1)
    return VoxelLevel(key_N, place_N4), index_P


def halved(level: VoxelLevel) -> tuple[VoxelLevel, VoxelHalving]:
    """Return the level of voxels twice as large, and the mapping between the two."""
    cloud_N1, xyz_N3 = level.place_N4[:, :1], level.place_N4[:, 1:]
    coarse, parent_N = voxel_level(torch.cat([cloud_N1, xyz_N3 >> 1], 1))
    octant_N = ((xyz_N3 & 1) * xyz_N3.new_tensor([4, 2, 1])).sum(1)
    count = level.key_N.shape[0]
    child_M8 = torch.full((coarse.key_N.shape[0], 8), count, device=parent_N.device)
    child_M8 = child_M8.index_put((parent_N, octant_N), torch.arange(count, device=parent_N.device))
    return coarse, VoxelHalving(parent_N, octant_N, child_M8)


class SparseConv(nn.Module):
    """Sparse convolution whose inputs are given by an index table [M, K]; an index beyond the last voxel stands for an empty one.

    With `VoxelLevel.neighbours` it is a submanifold convolution of stride 1 (Graham et al., 2018, 1711.10275), which keeps the
    set of occupied voxels; with `VoxelHalving.child_M8` a convolution of kernel and stride 2. weight_KCD is by kernel position, x
    slowest.

    kernel_size  positions of the kernel
    """

    def __init__(self, kernel_size: int, channels: int, out: int) -> None:
        super().__init__()
        self.weight_KCD = nn.Parameter(torch.randn(kernel_size, channels, out) * (2 / (kernel_size * out)) ** 0.5)

    def forward(self, x_NC: Tensor, table_MK: Tensor) -> Tensor:
        """[M, D]."""
        padded_NC = torch.cat([x_NC, x_NC.new_zeros(1, x_NC.shape[1])])
        gathered_MF = padded_NC.index_select(0, table_MK.flatten()).view(-1, table_MK.shape[1] * x_NC.shape[1])
        return gathered_MF @ self.weight_KCD.flatten(0, 1)


class SparseTransposedConv(nn.Module):
    """Transposed convolution of kernel and stride 2 onto the voxels that were halved."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.weight_KCD = nn.Parameter(torch.randn(8, channels, out) * (2 / (8 * out)) ** 0.5)

    def forward(self, x_MC: Tensor, way: VoxelHalving) -> Tensor:
        """[N, D]."""
        each_FD = (x_MC @ self.weight_KCD.permute(1, 0, 2).flatten(1)).view(-1, self.weight_KCD.shape[2])
        return each_FD.index_select(0, way.parent_N * 8 + way.octant_N)


def trilinear(x_NC: Tensor, level: VoxelLevel, at_P3: Tensor, cloud_P: Tensor) -> Tensor:
    """Trilinear interpolation: features [P, C] at points from the occupied ones among the eight voxels around each.

    at_P3  in voxels: the voxel with coordinate 2 has its centre at 2.5
    """
    with torch.no_grad():
        low_P3 = (at_P3 - 0.5).floor()
        share_P3 = at_P3 - 0.5 - low_P3
        base_P = _key(torch.cat([cloud_P[:, None], low_P3.to(torch.int64)], 1))
        index_P8 = level.find(base_P[:, None] + _steps(OCTANTS, base_P))
        upper_83 = torch.tensor(OCTANTS, device=at_P3.device, dtype=torch.bool)
        weight_P8 = torch.where(upper_83, share_P3[:, None], 1 - share_P3[:, None]).prod(2)
        weight_P8 = weight_P8 * (index_P8 < level.key_N.shape[0])
        weight_P8 = weight_P8 / weight_P8.sum(1, keepdim=True)
    padded_NC = torch.cat([x_NC, x_NC.new_zeros(1, x_NC.shape[1])])
    gathered_P8C = padded_NC.index_select(0, index_P8.flatten()).view(-1, 8, x_NC.shape[1])
    return (gathered_P8C * weight_P8[..., None].to(x_NC)).sum(1)


def _key(place_P4: Tensor) -> Tensor:
    """Return one integer key for cloud, x, y and z. A coordinate below 0 borrows from the one before it,
    and equals no voxel's key.
    """
    cloud_P, x_P, y_P, z_P = place_P4.unbind(1)
    key_P: Tensor = ((cloud_P * 2**BITS + x_P) * 2**BITS + y_P) * 2**BITS + z_P
    return key_P


def _steps(offsets: Iterable[tuple[int, ...]], like: Tensor) -> Tensor:
    """Return key differences [K] for offsets in x, y and z."""
    return torch.tensor([(x * 2**BITS + y) * 2**BITS + z for x, y, z in offsets], device=like.device)
