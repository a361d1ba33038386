"""Sampling and grouping of point clouds, and clouds per second in training, compared with plain loops and, if installed, torch-cluster.

    python benchmarks/point_sampling.py [--points 8192] [--centres 512] [--neighbours 32] [--clouds 4] [--rounds 3]

All sample the same centres from point 0 and find the same neighbours, which is checked first. A round runs each in turn; the median of the
seconds for all clouds is reported. Reading samples a cloud down to `points` from a quarter more, in NumPy, as a loader does. A step of
training is reading and the published tower of ULIP with its gradient, in one process; its peer has the sampling that we had before it was
profiled, which is also in the other rows: all clouds at once, a point in a row, with a new array for every step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from machine_results import Figure, Peer, keep
from torch import Tensor

from diptych.data.media.cloud_views import furthest_rows
from diptych.models.points import point_bert
from diptych.models.points.point_bert import PointBERT, PointBERTSettings
from diptych.models.points.sampling import furthest_points, nearest_points


def plain_rows(xyz_P3: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Reading before it was profiled: points in rows, new arrays for every step."""
    near_P, index_N = np.full(len(xyz_P3), np.inf), np.zeros(count, np.int64)
    for step in range(1, count):
        near_P = np.minimum(near_P, ((xyz_P3 - xyz_P3[index_N[step - 1]]) ** 2).sum(1))
        index_N[step] = near_P.argmax()
    return index_N


def former_furthest(xyz_BP3: Tensor, count: int, **options: Any) -> Tensor:
    """Sampling before it was profiled: all clouds at once, points in rows."""
    row_B = torch.arange(len(xyz_BP3))
    chosen_B, near_BP = torch.zeros_like(row_B), torch.full(xyz_BP3.shape[:2], torch.inf)
    index_BG = torch.zeros(len(xyz_BP3), count, dtype=torch.int64)
    for step in range(1, count):
        near_BP = torch.minimum(near_BP, (xyz_BP3 - xyz_BP3[row_B, chosen_B][:, None]).square().sum(-1))
        chosen_B = near_BP.argmax(1)
        index_BG[:, step] = chosen_B
    return index_BG


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


def step_before(tower: PointBERT, read: Callable[[], object], xyz_BP3: Tensor) -> None:
    """A step of training with the sampling that we had before."""
    ours = point_bert.furthest_points
    point_bert.furthest_points = former_furthest
    try:
        read()
        tower(xyz_BP3).square().sum().backward()
    finally:
        point_bert.furthest_points = ours


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def works(args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """What is timed, by "part, whose". Raises AssertionError where two do not agree."""
    xyz_BP3 = torch.randn(args.clouds, args.points, 3)
    whole = np.random.default_rng(0).standard_normal((args.points * 5 // 4, 3)).astype(np.float32)
    assert np.array_equal(furthest_rows(whole, args.centres), plain_rows(whole, args.centres))
    centre_BG = furthest_points(xyz_BP3, args.centres)
    for other in (plain_furthest, former_furthest):
        assert torch.equal(centre_BG, other(xyz_BP3, args.centres))
    centre_BG3 = xyz_BP3.gather(1, centre_BG[..., None].expand(-1, -1, 3))
    near = [find(centre_BG3, xyz_BP3, args.neighbours).sort(-1).values for find in (nearest_points, plain_nearest)]
    assert (near[0] == near[1]).float().mean() > 0.999  # of equal distances either
    tower = PointBERT(PointBERTSettings(groups=args.centres, group_size=args.neighbours))

    def reading(rows: Callable[..., object]) -> None:
        for _ in range(args.clouds):
            rows(whole, args.points)

    def step() -> None:
        reading(furthest_rows)
        tower(xyz_BP3).square().sum().backward()

    runs: dict[str, Callable[[], object]] = {
        "reading, ours": lambda: reading(furthest_rows),
        "reading, before": lambda: reading(plain_rows),
        "sampling, ours": lambda: furthest_points(xyz_BP3, args.centres),
        "sampling, before": lambda: former_furthest(xyz_BP3, args.centres),
        "sampling, plain loop": lambda: plain_furthest(xyz_BP3, args.centres),
        "grouping, ours": lambda: nearest_points(centre_BG3, xyz_BP3, args.neighbours),
        "grouping, plain loop": lambda: plain_nearest(centre_BG3, xyz_BP3, args.neighbours),
        "step, ours": step,
        "step, before": lambda: step_before(tower, lambda: reading(plain_rows), xyz_BP3),
    }
    if find_spec("torch_cluster"):
        runs["sampling, torch-cluster"] = lambda: cluster_furthest(xyz_BP3, args.centres)
    return runs


def figures_of(median: Mapping[str, float], args: argparse.Namespace) -> list[Figure]:
    cases = {
        "reading": f"{args.points:,} points of {args.points * 5 // 4:,}, {args.clouds} clouds",
        "sampling": f"{args.centres} centres of {args.points:,} points, {args.clouds} clouds",
        "grouping": f"{args.neighbours} neighbours of {args.centres} centres, {args.clouds} clouds",
    }
    figures = []
    for part, case in cases.items():
        peers = [
            Peer(whose, value)
            for name, value in median.items()
            for at, whose in [name.split(", ")]
            if at == part and whose != "ours"
        ]
        best = min(peers, key=lambda peer: peer.value)
        marked = tuple(Peer(peer.name, peer.value, best=peer is best and len(peers) > 1) for peer in peers)
        figures.append(Figure(f"{part}: {case}", "s", median[f"{part}, ours"], marked))
    before = Peer("before", args.clouds / median["step, before"])
    return [*figures, Figure("training of ULIP's tower", "clouds/s", args.clouds / median["step, ours"], (before,), less=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("points", 8192), ("centres", 512), ("neighbours", 32), ("clouds", 4), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.manual_seed(0)
    runs = works(args)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, work in runs.items():
            times[name].append(seconds(work))
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, value in median.items():
        print(f"{name:26} {value:8.3f} s")
    keep("point_sampling", {**vars(args), "rows": median}, figures_of(median, args))


if __name__ == "__main__":
    main()
