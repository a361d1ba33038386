"""Processor seconds and memory of curation steps for three pool sizes, extrapolated to 100 million rows.

    python benchmarks/operator_costs.py [--sizes 1000 3000 10000] [--only STEP ...]
    python benchmarks/operator_costs.py --only cocu "cocu --max-cluster-size 500"

Every step runs over every size in a process of its own, forked after all imports, into a folder as `diptych curate` does. Rows have a
text of five to fourteen words (one in twelve of a template) and, for steps over pictures, a JPEG file of 32 x 32 pixels; decoding larger
ones costs more in proportion to their pixels. For `realsyn` half of the rows are texts alone. Steps with a model are measured without it:
embeddings are made up, 256 wide, in 200 groups, and so are codes, captions and detections.

Memory is that of the process above what it had with the pool alone, at its highest. Straight lines through the three sizes give the
estimate for 100 million rows, the line through their logarithms the exponent of growth: 1 is linear, and less than 1 says that a fixed
cost is large at these sizes. Of memory nothing is said below a tenth of a GiB at the largest size, where it is mostly buffers.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from curation import entries_of, templated
from growth import continued, memory_from_here, status_gib
from killed_curation import picture_files
from machine_results import Figure, keep, last

SIZES = (1_000, 3_000, 10_000)
MOST = 500
LINEAR = f"--max-cluster-size {MOST}"
"""Option of the steps that take more than linear time without it."""
WIDTH, GROUPS, TARGETS = 256, 200, 50
LEAST_GIB = 0.1  # of memory at the largest size, below which nothing is said of it


def drawn(content: bytes) -> np.random.Generator:
    """Generator that depends on the content of a file or text."""
    return np.random.default_rng(zlib.crc32(content))


class MadeUpEmbedder:
    """Unit vectors around `GROUPS` centres, drawn by the bytes of a picture or text."""

    name, fingerprint = "made up", "made-up"

    def __init__(self) -> None:
        self._centre_GD = np.random.default_rng(0).standard_normal((GROUPS, WIDTH))

    def embed_images(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
        rows = []
        for image in images:
            rng = np.random.default_rng(int.from_bytes(image.read()[-24:-8], "little"))
            rows.append(self._centre_GD[rng.integers(GROUPS)] + 0.3 * rng.standard_normal(WIDTH))
        return self._unit(rows)

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
        rows = []
        for text in texts:
            rng = drawn(text.encode())
            rows.append(self._centre_GD[rng.integers(GROUPS)] + 0.3 * rng.standard_normal(WIDTH))
        return self._unit(rows)

    def _unit(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        vector_ND = np.asarray(rows, np.float32).reshape(-1, WIDTH)
        return vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)


class MadeUpCaptioner:
    """Sixteen codes out of 256 for a picture, and a caption of four words."""

    name, fingerprint = "made up", "made-up"

    def __init__(self) -> None:
        import torch

        code_KD = np.random.default_rng(0).standard_normal((256, 16)).astype(np.float32)
        self.model = SimpleNamespace(codebook=SimpleNamespace(code_KD=torch.from_numpy(code_KD)))

    def codes(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
        return np.array([drawn(image.read()).integers(0, 256, 16) for image in images])

    def generate(self, images: Any, prompts: Sequence[str], **options: Any) -> list[str]:
        return [" ".join(map(str, drawn(image.read()).integers(0, 1_000, 4).tolist())) for image in images]


class MadeUpDetector:
    """Up to three findings in a picture."""

    def __init__(self, *names: Any) -> None:
        pass

    def __call__(self, image: Any) -> list[Any]:
        from diptych.curate.experts.findings import Finding

        rng = drawn(image.read())
        labels = rng.choice(["dog", "bus", "tree", "sign"], size=rng.integers(0, 4)).tolist()
        return [Finding(label, ("red",), score=float(rng.random()), box=(0.0, 0.0, 9.0, 9.0), by="made up") for label in labels]


def steps(folder: Path) -> dict[str, tuple[float, Callable[[], Any]]]:
    """The share of rows that have a picture, and what makes a step, by name."""
    from diptych.curate.duplicates.exact import ExactDuplicates
    from diptych.curate.duplicates.near import NearDuplicates
    from diptych.curate.duplicates.semantic import SemanticDuplicates
    from diptych.curate.duplicates.text import TextDuplicates
    from diptych.curate.filters.image_heads import ImageScores
    from diptych.curate.filters.personal_data import PersonalData
    from diptych.curate.filters.target_clusters import TargetClusters
    from diptych.curate.operators.align import AlignFilters
    from diptych.curate.operators.cocu import CoCu
    from diptych.curate.operators.fusecap import FuseCap
    from diptych.curate.operators.laion import LAION
    from diptych.curate.operators.metaclip import MetaCLIP
    from diptych.curate.operators.realsyn import RealSyn
    from diptych.curate.operators.tldr import TLDR
    from diptych.curate.operators.top_fraction import TopFraction

    return {
        "align": (1, lambda: AlignFilters(short_side=0)),
        "cocu": (1, lambda: CoCu(model="made up", gallery=str(folder / "gallery.txt"), language="")),
        f"cocu {LINEAR}": (
            1,
            lambda: CoCu(model="made up", gallery=str(folder / "gallery.txt"), language="", max_cluster_size=MOST),
        ),
        "exact_duplicates": (1, ExactDuplicates),
        "fusecap": (1, lambda: FuseCap(detector="made up", objects=("dog",), language="")),
        "image_scores": (1, lambda: ImageScores(str(folder / "head"), "made up")),
        "laion": (1, lambda: LAION(min_bytes=0)),
        "metaclip": (0, lambda: MetaCLIP(entries=str(folder / "entries.txt"))),
        "near_duplicates": (1, NearDuplicates),
        "personal_data": (0, PersonalData),
        "realsyn": (0.5, lambda: RealSyn(model="made up", short_side=0)),
        f"realsyn {LINEAR}": (0.5, lambda: RealSyn(model="made up", short_side=0, max_cluster_size=MOST)),
        f"semantic_duplicates {LINEAR}": (1, lambda: SemanticDuplicates("made up", max_cluster_size=MOST)),
        "semantic_duplicates": (1, lambda: SemanticDuplicates("made up")),
        "target_clusters": (1, lambda: TargetClusters("made up", str(folder / "target.parquet"))),
        "text_duplicates": (0, TextDuplicates),
        "tldr": (1, lambda: TLDR(captioner="made up", match="made up", clusters=100)),
        "top_fraction": (0, lambda: TopFraction("score")),
    }


def one_size(name: str, rows: int) -> dict[str, Any]:
    """One step over one size; run in a process of its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from diptych.curate.duplicates import semantic
    from diptych.curate.engine.pool import curate
    from diptych.curate.filters import image_heads, target_clusters
    from diptych.curate.operators import cocu, fusecap, realsyn, tldr
    from diptych.curate.operators.filter_heads import train_aesthetic
    from diptych.data.join import concatenate
    from diptych.data.read import read
    from diptych.data.read.links import read_links

    for module in (semantic, target_clusters, image_heads, cocu, realsyn, tldr):
        module.open_embedder = lambda address: MadeUpEmbedder()  # type: ignore[attr-defined]
    tldr.open_address = lambda address: MadeUpCaptioner()
    fusecap.ObjectExpert = MadeUpDetector
    with tempfile.TemporaryDirectory(prefix="operators-") as scratch:
        folder = Path(scratch)
        pictures, make = steps(folder)[name]
        texts = templated(rows, 12)
        uids = [f"{row:08d}" for row in range(rows)]
        vector_ND = np.random.default_rng(0).standard_normal((2 * WIDTH, WIDTH)).astype(np.float32)
        train_aesthetic(vector_ND, vector_ND[:, 0], fingerprint=MadeUpEmbedder.fingerprint).save(folder / "head")
        words = sorted({word for text in texts for word in text.split()})
        (folder / "entries.txt").write_text("\n".join(entries_of(texts, words, 100_000)), encoding="utf-8")
        (folder / "gallery.txt").write_text("\n".join(words[:: max(1, len(words) // 200)]), encoding="utf-8")
        columns = {"uid": uids, "text": texts, "score": np.random.default_rng(0).random(rows)}
        count = round(pictures * rows)
        files = pa.array(picture_files(count), pa.binary())
        pools = []
        if count:
            table = pa.table({**{name: column[:count] for name, column in columns.items()}, "image": files})
            pq.write_table(table, folder / "pool.parquet")
            pq.write_table(table.slice(0, TARGETS).drop_columns(["score"]), folder / "target.parquet")
            pools.append(read(folder / "pool.parquet"))
        if count < rows:
            table = pa.table({**columns, "url": uids}).slice(count)
            pq.write_table(table, folder / "links.parquet")
            pools.append(read_links(folder / "links.parquet"))
        pool = pools[0] if len(pools) == 1 else concatenate(pools)
        del files
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
        costs = (f"{row['items']:,}: {row['cpu_seconds']:.2f} s, {row['gib'] * 1024:.0f} MiB;" for row in curves[name])
        print(name, *costs, estimate(curves[name]), flush=True)
        if max(args.sizes) >= max(SIZES):  # a quick look does not replace the table
            write(curves)


if __name__ == "__main__":
    main()
