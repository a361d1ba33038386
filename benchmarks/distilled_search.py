"""Search time with a fusion model (teacher), which is run on every picture with the query, and with a dual encoder distilled from it.

    python benchmarks/distilled_search.py [--pictures 1000] [--queries 20] [--steps 800] [--teacher RUN] [--student RUN]

Without runs of your own, recipe `fused` is trained on rendered pairs, and `dcd` follows it, for `--steps` steps each. Everything is
timed from the words of a query to the sorted pictures, one query at a time, median over queries:

    student            the query's vector against all vectors (numpy, exact)
    student, index     the same over an index of kind dense, as `diptych search` does it
    teacher            every picture read with the query; what can be kept of pictures is computed before
    teacher, shortlist the teacher's own vectors choose 128 pictures, which are read with the query
    teacher, nothing kept  pictures are embedded again for each query, as a model that fuses from the first layer must (few queries)

Recall at 1 of each stands beside its time. What is computed before the queries (vectors, an index) is timed once and shown apart.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine_results import Figure, Peer, keep

from diptych import api
from diptych.claims.cells.learned_pairs.pairs import sized_for
from diptych.data.dataset import Pool
from diptych.models.io.foreign.matchers import open_matcher
from diptych.recipes.contrastive.dcd import DCD
from diptych.recipes.contrastive.fused import FusedMatcher
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.small_pairs import SmallPairs

SHORTLIST = 128
BATCH = 32
"""Of training: a matcher learns to tell pairs by the number of its steps, more than by their size."""
Search = Callable[[str], np.ndarray[Any, Any]]


def trained(folder: Path, steps: int) -> tuple[str, str]:
    """(teacher, student): a matcher, and a student of one layer that learns from it for as many steps."""
    rows, options = SmallPairs(6000).pool("train", 0), TrainOptions(seed=0, progress=False)
    fused = sized_for(replace(FusedMatcher.tiny(), fusion_heads=4), batch_size=BATCH, steps=steps)
    teacher = fit(fused, rows, folder / "fused", options).path
    dcd = sized_for(replace(DCD.tiny(), teacher=str(teacher), layers=1, candidates=8), batch_size=BATCH, steps=steps)
    return str(teacher), str(fit(dcd, rows, folder / "dcd", options).path)


def timed(search: Search, queries: Sequence[str], truth: Sequence[int]) -> dict[str, Any]:
    search(queries[0])
    seconds, hits = [], []
    for query, answer in zip(queries, truth, strict=True):
        start = time.perf_counter()
        order = search(query)
        seconds.append(time.perf_counter() - start)
        hits.append(int(order[0]) == answer)
    return {"seconds": statistics.median(seconds), "recall@1": float(np.mean(hits)), "queries": len(queries)}


def searches(teacher: Any, student: Any, test: Pool, folder: Path) -> tuple[dict[str, tuple[Search, int]], dict[str, float]]:
    """Name -> (search, how many queries it is asked, 0 for all), and the seconds of what comes before the queries."""
    images = [test[row].image for row in range(len(test))]
    before = {}

    def once(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        made = work()
        before[name] = time.perf_counter() - start
        return made

    vector_ND = once("student's vectors", lambda: student.embed_images(images))
    kept = once("what the teacher keeps", lambda: teacher.readings.images(images))
    index = once("student's index", lambda: api.index(student, test, folder / "index", progress=False))
    place = {uid: row for row, uid in enumerate(test.uids)}

    def by_vectors(query: str) -> np.ndarray[Any, Any]:
        return np.argsort(-(vector_ND @ student.embed_texts([query])[0]), kind="stable")

    def by_index(query: str) -> np.ndarray[Any, Any]:
        return np.array([place[hit.uid] for hit in index.search(query, k=10)])

    def by_reading(query: str) -> np.ndarray[Any, Any]:
        return np.argsort(-teacher.readings.match(kept, teacher.readings.texts([query]))[:, 0], kind="stable")

    def by_shortlist(query: str) -> np.ndarray[Any, Any]:
        text = teacher.readings.texts([query])
        first = (kept.vector_ND @ text.vector_ND[0]).topk(min(SHORTLIST, len(images))).indices
        score_N = teacher.readings.match(kept.rows(first), text)[:, 0]
        return first.numpy()[np.argsort(-score_N, kind="stable")]

    def by_reading_anew(query: str) -> np.ndarray[Any, Any]:
        return np.argsort(-teacher.score_pairs(images, [query], query="text")[:, 0], kind="stable")

    made: dict[str, tuple[Search, int]] = {
        "student": (by_vectors, 0),
        "student, index": (by_index, 0),
        "teacher": (by_reading, 0),
        "teacher, shortlist": (by_shortlist, 0),
        "teacher, nothing kept": (by_reading_anew, 3),
    }
    return made, before


def figures(rows: Sequence[dict[str, Any]]) -> list[Figure]:
    """A query of every way against the teacher, which reads every picture with it."""
    teacher = next(row for row in rows if row["search"] == "teacher")
    peer = Peer(f"the teacher, recall {teacher['recall@1']:.2f}", 1000 * teacher["seconds"])
    return [
        Figure(
            f"{row['search']}, {row['pictures']:,} pictures (recall@1 {row['recall@1']:.2f})",
            "ms",
            1000 * row["seconds"],
            (peer,),
        )
        for row in rows
        if row is not teacher
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--steps", type=int, default=800, help="of the teacher, and of the student")
    parser.add_argument("--teacher", default="", help="a run of recipe fused, or hf:FOLDER of a BLIP for retrieval")
    parser.add_argument("--student", default="", help="a run of recipe dcd")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        runs = (args.teacher, args.student) if args.teacher and args.student else trained(Path(work), args.steps)
        teacher, student = open_matcher(runs[0]), api.load(runs[1])
        test = SmallPairs(args.pictures).pool("test", 0)
        queries = [test[row].texts[0].string for row in range(args.queries)]
        made, before = searches(teacher, student, test, Path(work))
        rows = []
        print(f"{'':<24}{'ms a query':>12}{'pictures/s':>14}{'times':>9}{'recall@1':>10}")
        for name, (search, few) in made.items():
            asked = queries[: few or len(queries)]
            row = {"search": name, "pictures": len(test), **timed(search, asked, range(len(asked)))}
            row["pictures_per_second"] = len(test) / row["seconds"]
            rows.append(row)
        slowest = next(row["seconds"] for row in rows if row["search"] == "teacher")
        for row in rows:
            row["times_the_teacher"] = slowest / row["seconds"]
            numbers = f"{1000 * row['seconds']:>12.2f}{row['pictures_per_second']:>14,.0f}{row['times_the_teacher']:>9.1f}"
            print(f"{row['search']:<24}{numbers}{row['recall@1']:>10.2f}")
        for name, seconds in before.items():
            print(f"before: {name}, {seconds:.2f} s")
    keep("distilled_search", {"rows": rows, "before": before}, figures(rows))


if __name__ == "__main__":
    main()
