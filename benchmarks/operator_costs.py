"""Processor seconds and memory of curation steps for three pool sizes, extrapolated to 100 million rows.

    python benchmarks/operator_costs.py [--sizes 1000 3000 10000] [--only STEP ...]

Every step runs over every size in a process of its own, forked after all imports, into a folder as `diptych curate` does. Rows have a
text of five to fourteen words (one in twelve of a template) and, for steps over pictures, a JPEG file of 32 x 32 pixels; decoding larger
ones costs more in proportion to their pixels. Steps with a model are measured without it: embeddings are made up, 256 wide, in 200
groups.

Memory is that of the process above what it had with the pool alone, at its highest. Straight lines through the three sizes give the
estimate for 100 million rows, the line through their logarithms the exponent of growth: 1 is linear, and less than 1 says that a fixed
cost is large at these sizes. Of memory nothing is said below a tenth of a GiB at the largest size, where it is mostly buffers.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from curation import entries_of, templated
from growth import continued, memory_from_here, status_gib
from killed_curation import picture_files
from machine_results import Figure, keep, last

SIZES = (1_000, 3_000, 10_000)
WIDTH, GROUPS, TARGETS = 256, 200, 50
LEAST_GIB = 0.1  # of memory at the largest size, below which nothing is said of it


class MadeUpEmbedder:
    """Unit vectors around `GROUPS` centres, drawn by the bytes of a picture."""

    name, fingerprint = "made up", "made-up"

    def __init__(self) -> None:
        self._centre_GD = np.random.default_rng(0).standard_normal((GROUPS, WIDTH))

    def embed_images(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
        rows = []
        for image in images:
            rng = np.random.default_rng(int.from_bytes(image.read()[-24:-8], "little"))
            rows.append(self._centre_GD[rng.integers(GROUPS)] + 0.3 * rng.standard_normal(WIDTH))
        vector_ND = np.asarray(rows, np.float32).reshape(-1, WIDTH)
        return vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)


def steps(folder: Path) -> dict[str, tuple[bool, Callable[[], Any]]]:
    """Whether a step needs pictures, and what makes it, by name."""
    from diptych.curate.duplicates.exact import ExactDuplicates
    from diptych.curate.duplicates.near import NearDuplicates
    from diptych.curate.duplicates.semantic import SemanticDuplicates
    from diptych.curate.duplicates.text import TextDuplicates
    from diptych.curate.filters.image_heads import ImageScores
    from diptych.curate.filters.personal_data import PersonalData
    from diptych.curate.filters.target_clusters import TargetClusters
    from diptych.curate.operators.align import AlignFilters
    from diptych.curate.operators.laion import LAION
    from diptych.curate.operators.metaclip import MetaCLIP
    from diptych.curate.operators.top_fraction import TopFraction

    return {
        "align": (True, lambda: AlignFilters(short_side=0)),
        "exact_duplicates": (True, ExactDuplicates),
        "image_scores": (True, lambda: ImageScores(str(folder / "head"), "made up")),
        "laion": (True, lambda: LAION(min_bytes=0)),
        "metaclip": (False, lambda: MetaCLIP(entries=str(folder / "entries.txt"))),
        "near_duplicates": (True, NearDuplicates),
        "personal_data": (False, PersonalData),
        "semantic_duplicates": (True, lambda: SemanticDuplicates("made up")),
        "target_clusters": (True, lambda: TargetClusters("made up", str(folder / "target.parquet"))),
        "text_duplicates": (False, TextDuplicates),
        "top_fraction": (False, lambda: TopFraction("score")),
    }


def one_size(name: str, rows: int) -> dict[str, Any]:
    """One step over one size; run in a process of its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from diptych.curate.duplicates import semantic
    from diptych.curate.engine.pool import curate
    from diptych.curate.filters import image_heads, target_clusters
    from diptych.curate.operators.filter_heads import train_aesthetic
    from diptych.data.read import read
    from diptych.data.read.links import read_links

    for module in (semantic, target_clusters, image_heads):
        module.open_embedder = lambda address: MadeUpEmbedder()  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(prefix="operators-") as scratch:
        folder = Path(scratch)
        pictures, make = steps(folder)[name]
        texts = templated(rows, 12)
        uids = [f"{row:08d}" for row in range(rows)]
        vector_ND = np.random.default_rng(0).standard_normal((2 * WIDTH, WIDTH)).astype(np.float32)
        train_aesthetic(vector_ND, vector_ND[:, 0], fingerprint=MadeUpEmbedder.fingerprint).save(folder / "head")
        words = sorted({word for text in texts for word in text.split()})
        (folder / "entries.txt").write_text("\n".join(entries_of(texts, words, 100_000)), encoding="utf-8")
        columns = {"uid": uids, "text": texts, "score": np.random.default_rng(0).random(rows)}
        if pictures:
            files = pa.array(picture_files(rows), pa.binary())
            pq.write_table(pa.table({**columns, "image": files}), folder / "pool.parquet")
            pq.write_table(
                pa.table({"uid": uids[:TARGETS], "image": files[:TARGETS], "text": texts[:TARGETS]}), folder / "target.parquet"
            )
            pool = read(folder / "pool.parquet")
        else:
            pq.write_table(pa.table({**columns, "url": uids}), folder / "pool.parquet")
            pool = read_links(folder / "pool.parquet")
        before, start = memory_from_here(), time.process_time()
        done = curate(pool, [make()], folder / "out")
        seconds = time.process_time() - start
        peak = status_gib("VmHWM")
    return {"items": rows, "cpu_seconds": seconds, "gib": max(0.0, peak - before), "kept": len(done.kept)}


def estimate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Core hours and gigabytes at 100 million rows by straight lines, and the exponent of the time."""
    seconds, _, exponent = continued(rows, "cpu_seconds")
    seen = max(row["gib"] for row in rows) >= LEAST_GIB
    memory = continued(rows, "gib")[0] * 2**30 / 1e9 if seen else None
    return {"core_hours": seconds / 3600, "exponent": exponent, "gb": memory}


def write(curves: dict[str, list[dict[str, Any]]]) -> None:
    """Keep the curves of all steps that were measured, with their estimates."""
    curves = dict(sorted(curves.items()))
    cases = [
        Figure(f"{name} over {rows[-1]['items']:,} rows, processor time", "s", rows[-1]["cpu_seconds"])
        for name, rows in curves.items()
    ]
    keep("operator_costs", {"steps": curves, "estimates": {name: estimate(rows) for name, rows in curves.items()}}, cases)


def main() -> None:
    import diptych.curate.engine.pool
    import diptych.data.read.links  # noqa: F401  # before processes are forked

    names = sorted(steps(Path()))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    args = parser.parse_args()
    curves: dict[str, list[dict[str, Any]]] = dict(last("operator_costs").get("steps", {}))
    for name in args.only:
        with get_context("fork").Pool(1, maxtasksperchild=1) as processes:
            curves[name] = [processes.apply(one_size, (name, rows)) for rows in args.sizes]
        print(name, *(f"{row['cpu_seconds']:.2f} s" for row in curves[name]), estimate(curves[name]), flush=True)
        write(curves)


if __name__ == "__main__":
    main()
