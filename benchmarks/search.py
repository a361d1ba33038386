"""Dense search: our index (Qdrant Edge) against comparing with everything, in numpy and in torch, at 100,000 x 128.

    python benchmarks/search.py [--items 100000] [--dim 128]

Two kinds of vectors: clustered ones, as encoders of real images make them, and uniformly random ones, the hardest case for any
graph. One query at a time, as a service gets them; the ways take turns within each round; shown are medians of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.environment import environment
from diptych.core.files import write_json
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.index.dense import DenseIndex
from diptych.index.exact import nearest

QUERIES, ROUNDS, K = 100, 5, 10


class Rows:
    """An embedder that looks its vectors up."""

    name, fingerprint = "rows", "0"

    def __init__(self, vectors_ND: np.ndarray) -> None:
        self.vectors_ND = vectors_ND

    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> np.ndarray:
        return self.vectors_ND[[int(image.name) for image in images]]

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
        raise TypeError("stored rows stand for images; this benchmark has no texts")


def vectors(kind: str, count: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "random":
        rows = rng.standard_normal((count, dim))
    else:  # 2,000 themes of unequal size, spread around a common direction
        centres = rng.standard_normal((2000, dim)) + 0.5 * rng.standard_normal(dim)
        rows = centres[(2000 * rng.random(count) ** 1.5).astype(int)] + 0.7 * rng.standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def numpy_search(gallery: np.ndarray, query: np.ndarray) -> np.ndarray:
    score = gallery @ query
    best = np.argpartition(-score, K)[:K]
    return best[np.argsort(-score[best], kind="stable")]


def measure(kind: str, count: int, dim: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rows = vectors(kind, count + QUERIES, dim, rng)
    rng.shuffle(rows)
    gallery, queries = rows[:count].copy(), rows[count:]
    pixel = np.zeros((1, 1, 3), np.uint8)
    pool = Pool.from_samples((Sample(str(i), ArrayImage(pixel, str(i))) for i in range(count)), name="rows")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with DenseIndex.build(Rows(gallery), pool, Path(folder, "index"), progress=False) as index:
            built = time.perf_counter() - start
            ways: dict[str, Callable[[np.ndarray], list[int]]] = {
                "diptych DenseIndex": lambda q: [int(h.uid) for h in index.search_vectors(q[None], K)[0]],
                "diptych DenseIndex, effort 512": lambda q: [int(h.uid) for h in index.search_vectors(q[None], K, effort=512)[0]],
                "diptych DenseIndex, exact": lambda q: [int(h.uid) for h in index.search_vectors(q[None], K, exact=True)[0]],
                "numpy brute force": lambda q: numpy_search(gallery, q).tolist(),
                "torch brute force (diptych nearest)": lambda q: nearest(gallery, q[None], K)[0][0].tolist(),
            }
            truth = [set(numpy_search(gallery, q).tolist()) for q in queries]
            for way in ways.values():
                way(queries[0])
            took: dict[str, list[float]] = {name: [] for name in ways}
            recall: dict[str, float] = {}
            for _ in range(ROUNDS):
                for name, way in ways.items():
                    start = time.perf_counter()
                    found = [way(q) for q in queries]
                    took[name].append((time.perf_counter() - start) / QUERIES * 1000)
                    recall[name] = float(np.mean([len(t & set(f)) / K for t, f in zip(truth, found, strict=True)]))
    base = statistics.median(took["numpy brute force"])
    return [
        {
            "vectors": kind,
            "way": name,
            "ms_per_query": round(ms := statistics.median(took[name]), 3),
            "recall_at_10": round(recall[name], 4),
            "times_numpy": round(base / ms, 2),
            "build_seconds": round(built, 1) if name.startswith("diptych Dense") else None,
        }
        for name in ways
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    options = parser.parse_args()
    rows = [row for kind in ("clustered", "random") for row in measure(kind, options.items, options.dim)]
    print(f"{options.items:,} x {options.dim}, {QUERIES} queries one at a time, median of {ROUNDS} rounds")
    print(f"{'vectors':10} {'way':38} {'ms/query':>9} {'recall@10':>10} {'x numpy':>8} {'build s':>8}")
    for row in rows:
        built = "" if row["build_seconds"] is None else f"{row['build_seconds']:.1f}"
        print(
            f"{row['vectors']:10} {row['way']:38} {row['ms_per_query']:9.3f} {row['recall_at_10']:10.3f} "
            f"{row['times_numpy']:8.2f} {built:>8}"
        )
    report = {
        "name": "search",
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
        "items": options.items,
        "dim": options.dim,
        "rows": rows,
    }
    write_json(Path(__file__).parent / "results" / "search.json", report)


if __name__ == "__main__":
    main()
