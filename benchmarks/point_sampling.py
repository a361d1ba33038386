"""Furthest-point sampling and grouping of point clouds, ours against a plain loop in PyTorch and, where it is installed, torch-cluster.

    python benchmarks/point_sampling.py [--points 8192] [--centres 512] [--neighbours 32] [--clouds 4] [--rounds 3]

All sample the same centres from point 0 and find the same neighbours, which is checked first. A round runs each in turn; the median of the
seconds for all clouds is reported. Clouds a second in training are those of a step of ULIP's tower with its gradient.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
from machine_results import Figure, Peer, keep
from torch import Tensor

from diptych.models.points.point_bert import PointBERT, PointBERTSettings
from diptych.models.points.sampling import furthest_points, nearest_points


def plain_furthest(xyz_BP3: Tensor, count: int) -> Tensor:
    """The loop that one writes by hand, cloud by cloud."""
    rows = []
    for xyz_P3 in xyz_BP3:
        near_P, chosen = torch.full((len(xyz_P3),), torch.inf), [0]
        for _ in range(count - 1):
            near_P = torch.minimum(near_P, ((xyz_P3 - xyz_P3[chosen[-1]]) ** 2).sum(-1))
            chosen.append(int(near_P.argmax()))
        rows.append(torch.tensor(chosen))
    return torch.stack(rows)


def plain_nearest(centre_BG3: Tensor, xyz_BP3: Tensor, count: int) -> Tensor:
    """All distances by broadcasting, then a sort."""
    distance_BGP = ((centre_BG3[:, :, None] - xyz_BP3[:, None]) ** 2).sum(-1)
    return distance_BGP.argsort(-1)[..., :count]


def cluster_furthest(xyz_BP3: Tensor, count: int) -> Tensor:
    """torch-cluster, from the first point."""
    from torch_cluster import fps

    clouds, points, _ = xyz_BP3.shape
    batch_N = torch.arange(clouds).repeat_interleave(points)
    index_N = fps(xyz_BP3.flatten(0, 1), batch_N, ratio=count / points, random_start=False)
    return index_N.view(clouds, -1) - torch.arange(clouds)[:, None] * points


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("points", 8192), ("centres", 512), ("neighbours", 32), ("clouds", 4), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.manual_seed(0)
    xyz_BP3 = torch.randn(args.clouds, args.points, 3)
    centre_BG = furthest_points(xyz_BP3, args.centres)
    assert torch.equal(centre_BG, plain_furthest(xyz_BP3, args.centres))
    centre_BG3 = xyz_BP3.gather(1, centre_BG[..., None].expand(-1, -1, 3))
    near = [find(centre_BG3, xyz_BP3, args.neighbours).sort(-1).values for find in (nearest_points, plain_nearest)]
    assert (near[0] == near[1]).float().mean() > 0.999  # of equal distances either
    runs: dict[str, Callable[[], object]] = {
        "sampling, ours": lambda: furthest_points(xyz_BP3, args.centres),
        "sampling, plain loop": lambda: plain_furthest(xyz_BP3, args.centres),
        "grouping, ours": lambda: nearest_points(centre_BG3, xyz_BP3, args.neighbours),
        "grouping, plain loop": lambda: plain_nearest(centre_BG3, xyz_BP3, args.neighbours),
    }
    if find_spec("torch_cluster"):
        runs["sampling, torch-cluster"] = lambda: cluster_furthest(xyz_BP3, args.centres)
    tower = PointBERT(PointBERTSettings(groups=args.centres, group_size=args.neighbours))
    runs["step, ours"] = lambda: tower(xyz_BP3).square().sum().backward()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, work in runs.items():
            times[name].append(seconds(work))
    median = {name: statistics.median(values) for name, values in times.items()}
    figures = []
    for part in ("sampling", "grouping"):
        peers = [
            Peer(name.partition(", ")[2], value) for name, value in median.items() if name.startswith(part) and "ours" not in name
        ]
        best = min(peers, key=lambda peer: peer.value)
        marked = tuple(Peer(peer.name, peer.value, best=peer is best) for peer in peers)
        figures.append(
            Figure(f"{part} of {args.clouds} clouds of {args.points:,} points", "seconds", median[f"{part}, ours"], marked)
        )
    rate = args.clouds / median["step, ours"]
    for name, value in median.items():
        print(f"{name:26} {value:8.3f} s")
    print(f"{rate:.2f} clouds a second in training")
    keep("point_sampling", {**vars(args), "rows": median, "clouds_a_second_in_training": rate}, figures)


if __name__ == "__main__":
    main()
