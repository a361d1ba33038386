"""Sampling and grouping of point clouds in PyTorch: furthest points, nearest neighbours, points in a ball.

Indices carry no gradient; `gather_points` does. Letters: B clouds, P points, G centres, K neighbours, F values per point.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError


@torch.no_grad()
def furthest_points(xyz_BP3: Tensor, count: int, *, start_B: Tensor | None = None, skip: float = 0.0) -> Tensor:
    """Furthest-point sampling: indices int64 [B, count], each of the point furthest from those before it
    (PointNet++, 1706.02413).

    start_B  index of the first point of each cloud; None takes point 0. Only this makes the result depend on the order of points
    skip     points whose squared distance to the origin is at most this are never chosen, except as the start: 1e-3 as in the
    kernel of pointnet2_ops, with which released models were trained; 0 allows all
    Among equally far points the lowest index is chosen. A cloud with fewer points than `count` repeats some.
    """
    _check_cloud(xyz_BP3)
    if count < 1:
        raise ConfigError(f"{count} points are sampled (expected 1 or more)")
    clouds, points, _ = xyz_BP3.shape
    row_B = torch.arange(clouds, device=xyz_BP3.device)
    chosen_B = torch.zeros_like(row_B) if start_B is None else start_B.to(row_B)
    near_BP = xyz_BP3.new_full((clouds, points), torch.inf)
    if skip:
        near_BP.masked_fill_(xyz_BP3.square().sum(-1) <= skip, -1.0)
    index_BG = torch.empty(clouds, count, dtype=torch.int64, device=xyz_BP3.device)
    index_BG[:, 0] = chosen_B
    xyz_B3P = xyz_BP3.transpose(
        1, 2
    ).contiguous()  # the sums over the three coordinates are then vectorised along the points: four times as fast
    for step in range(1, count):
        distance_BP = (xyz_B3P - xyz_B3P[row_B, :, chosen_B][..., None]).square().sum(1)
        near_BP = torch.minimum(near_BP, distance_BP)
        chosen_B = near_BP.argmax(1)
        index_BG[:, step] = chosen_B
    return index_BG


@torch.no_grad()
def nearest_points(centre_BG3: Tensor, xyz_BP3: Tensor, count: int) -> Tensor:
    """Return indices of the `count` nearest points of each centre, int64 [B, G, count], unordered.
    Raises ShapeError if a cloud has fewer.
    """
    _check_cloud(xyz_BP3)
    if count > xyz_BP3.shape[1]:
        raise ShapeError(f"{count} neighbours of {xyz_BP3.shape[1]} points (expected as many points or more)")
    distance_BGP = torch.cdist(centre_BG3, xyz_BP3, compute_mode="donot_use_mm_for_euclid_dist")
    return distance_BGP.topk(count, dim=-1, largest=False, sorted=False).indices


@torch.no_grad()
def ball_query(centre_BG3: Tensor, xyz_BP3: Tensor, radius: float, count: int) -> Tensor:
    """Ball query: the first `count` points by index within `radius` of each centre, int64 [B, G, count] (PointNet++, 1706.02413).

    If there are fewer, the first one is repeated, as in the published kernel; a ball without points gives point 0.
    """
    _check_cloud(xyz_BP3)
    if count > xyz_BP3.shape[1] or radius <= 0:
        raise ShapeError(
            f"{count} of {xyz_BP3.shape[1]} points within {radius:g} (expected as many points, and a radius above 0)"
        )
    points = xyz_BP3.shape[1]
    inside_BGP = torch.cdist(centre_BG3, xyz_BP3, compute_mode="donot_use_mm_for_euclid_dist") < radius
    order_P = torch.arange(points, device=xyz_BP3.device)
    index_BGK = torch.where(inside_BGP, order_P, points).sort(dim=-1).values[..., :count]
    first_BG1 = index_BGK[..., :1].where(index_BGK[..., :1] < points, 0)
    return index_BGK.where(index_BGK < points, first_BG1)


def three_nearest_mean(xyz_BP3: Tensor, known_BG3: Tensor, feature_BGC: Tensor) -> Tensor:
    """Interpolate features at points, [B, P, C], from the three nearest known points (PointNet++, 1706.02413).

    Weights are 1 / (distance + 1e-8); if there are fewer than three known points, all are used. Only the features get
    gradients.
    """
    with torch.no_grad():
        distance_BPG = torch.cdist(xyz_BP3, known_BG3, compute_mode="donot_use_mm_for_euclid_dist")
        near_BPK, index_BPK = distance_BPG.topk(min(3, known_BG3.shape[1]), dim=-1, largest=False)
        weight_BPK = 1 / (near_BPK + 1e-8)
        weight_BPK = weight_BPK / weight_BPK.sum(-1, keepdim=True)
    return (gather_points(feature_BGC, index_BPK) * weight_BPK[..., None]).sum(-2)


def gather_points(point_BPF: Tensor, index: Tensor) -> Tensor:
    """Return values [B, ..., F] of the points at `index` [B, ...]."""
    clouds, width = len(index), point_BPF.shape[-1]
    flat_BNF = index.reshape(clouds, -1, 1).expand(-1, -1, width)
    return point_BPF.gather(1, flat_BNF).reshape(*index.shape, width)


def _check_cloud(xyz_BP3: Tensor) -> None:
    if xyz_BP3.ndim != 3 or xyz_BP3.shape[-1] != 3 or not xyz_BP3.shape[1]:
        raise ShapeError(f"points are {list(xyz_BP3.shape)} (expected [clouds, points, 3])")
