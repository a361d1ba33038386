"""Scoring by the relation protocols: time compared with a direct Python loop over images, in one run on the same predictions.

    python benchmarks/relation_scoring.py [--images 10000] [--only hico_det,v_coco]

Ours starts from the Arrow records and ends with the result; the loop starts from Python lists, which it gets for free. Ours runs
before the loop and after it, and the median counts; the loop, which takes up to minutes, runs once; both must come to the same
number. Seconds are of the processor, all threads added up, so that other work on the machine does not decide. Intervals are off (the
published procedures have none); their cost is a column of its own.

`hico_det_triplets` is the step before: from a detector's logits (64 queries, 117 verbs, 80 objects) to the triplets of an image by the
published rule, which is what `hico_det` asks for by default. Its number is the sum of their scores.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import relation_loops.procedures as released
import torch
from machine_results import Figure, Peer, keep, last
from relation_loops.human_objects import hico_det_loop, hico_det_triplets_loop, v_coco_loop
from relation_loops.scene_graphs import predicates_loop, triplets_loop, vg150_loop

from diptych.data.graphs.label_lists import LabelLists
from diptych.data.vocabularies import vocabulary
from diptych.models.rlipv2.relation_detector import PairSet
from diptych.models.rlipv2.ruled_triplets import graph_in_pixels, selection_options
from diptych.models.rlipv2.triplet_selection import best_triplets
from diptych.tasks.relations.hico_det import HicoDet
from diptych.tasks.relations.open_images_relations import OpenImagesPredicates
from diptych.tasks.relations.open_images_triplets import OpenImagesTriplets
from diptych.tasks.relations.v_coco import VCoco
from diptych.tasks.relations.vg150 import VG150

PREDICTIONS = 100  # triplets an image, each with a person box and an object box of its own as from paired queries
BOXES = 2 * PREDICTIONS
DRAWS = 500


@dataclass
class Bench:
    """What is timed: `ours` and `loop` return the main number, `intervals` is ours with 500 bootstrap draws. Where `loop` follows the
    released scorer step by step, `lean` is the leanest loop that we could write for the same number."""

    ours: Callable[[], float]
    loop: Callable[[], float]
    intervals: Callable[[], float] | None = None
    lean: Callable[[], float] | None = None


# ---------------------------------------------------------------- planted predictions


def lists(values: Any, count: int, kind: pa.DataType) -> pa.ListArray:
    """A list column with `count` values a row."""
    offsets = pa.array(np.arange(0, len(values) + 1, count), pa.int32())
    return pa.ListArray.from_arrays(offsets, values if isinstance(values, pa.Array) else pa.array(values, kind))


def boxes(box_B4: np.ndarray, count: int) -> pa.ListArray:
    flat = pa.FixedSizeListArray.from_arrays(pa.array(box_B4.reshape(-1), pa.float64()), 4)
    return lists(flat, count, flat.type)


def planted(
    images: int, seed: int, objects: tuple[str, ...], pick: Callable[..., np.ndarray], predicates: tuple[str, ...]
) -> pa.Table:
    """Records of people and things: 5 true boxes and 3 true relations an image, and 100 predicted pairs of boxes around them.

    `pick(rng, label_of_object)` draws predicates that go with the objects.
    """
    rng = np.random.default_rng(seed)
    corner, size = rng.integers(0, 400, (images, 5, 2)), rng.integers(20, 200, (images, 5, 2))
    truth_box = np.concatenate([corner, corner + size], axis=2).astype(float)
    truth_label = np.concatenate([np.zeros((images, 2), int), rng.integers(1, len(objects), (images, 3))], axis=1)
    subject, thing = rng.integers(0, 2, (images, 3)), rng.integers(2, 5, (images, 3))
    verb = pick(rng, np.take_along_axis(truth_label, thing, axis=1))
    source = np.concatenate([rng.integers(0, 2, (images, BOXES // 2)), rng.integers(2, 5, (images, BOXES // 2))], axis=1)
    box = np.take_along_axis(truth_box, source[:, :, None], axis=1) + rng.normal(0, 12, (images, BOXES, 4)).round(1)
    box[:, :, 2:] = np.maximum(box[:, :, 2:], box[:, :, :2] + 1)
    label = np.take_along_axis(truth_label, source, axis=1)
    strange = (rng.random(label.shape) < 0.3) & (label > 0)
    label[strange] = rng.integers(1, len(objects), int(strange.sum()))
    s = np.tile(np.arange(PREDICTIONS), (images, 1))
    o = s + PREDICTIONS
    said = pick(rng, label[:, PREDICTIONS:])
    names, words = np.array(objects, object), np.array(predicates, object)
    return pa.table(
        {
            "uid": [f"{n:06d}" for n in range(images)],
            "group": [f"{n:06d}" for n in range(images)],
            "truth_box": boxes(truth_box, 5),
            "truth_label": lists(names[truth_label.reshape(-1)], 5, pa.string()),
            "truth_subject": lists(subject.reshape(-1), 3, pa.int32()),
            "truth_predicate": lists(words[verb.reshape(-1)], 3, pa.string()),
            "truth_object": lists(thing.reshape(-1), 3, pa.int32()),
            "box": boxes(box, BOXES),
            "label": lists(names[label.reshape(-1)], BOXES, pa.string()),
            "score": lists(rng.random(images * BOXES), BOXES, pa.float64()),
            "subject": lists(s.reshape(-1), PREDICTIONS, pa.int32()),
            "predicate": lists(words[said.reshape(-1)], PREDICTIONS, pa.string()),
            "object": lists(o.reshape(-1), PREDICTIONS, pa.int32()),
            "confidence": lists(rng.random(images * PREDICTIONS), PREDICTIONS, pa.float64()),
        }
    )


# ---------------------------------------------------------------- HICO-DET


def hico_det(images: int) -> Bench:
    known = vocabulary("hico-det")
    of_object = {
        n: [known.predicates.index(v) for _, v, thing in known.triplets if thing == name] for n, name in enumerate(known.objects)
    }
    count = np.array([len(of_object[n]) for n in range(80)])
    table = np.array([np.resize(of_object[n], count.max()) for n in range(80)])

    def pick(rng: np.random.Generator, label: np.ndarray) -> np.ndarray:
        return table[label, rng.integers(0, count[label])]

    records = planted(images, 0, known.objects, pick, known.predicates)
    rows = records.to_pylist()
    task = HicoDet(draws=0, ties="index")

    def ours(draws: int = 0) -> float:
        scored = replace(task, draws=draws).score(records).metrics
        return (scored["full"].value + scored["ko_full"].value) / 2

    return Bench(ours, lambda: hico_det_loop(rows), lambda: ours(DRAWS))


def hico_det_triplets(images: int) -> Bench:
    """The same hundred images over and over."""
    known, generator = vocabulary("hico-det"), torch.Generator().manual_seed(0)
    count, queries, relations = 100, 64, len(known.predicates)
    said = PairSet(
        *(torch.rand(count, 1, queries, 4, generator=generator) for _ in range(2)),
        *(torch.randn(count, 1, queries, size, generator=generator) * 3 for size in (81, 81, relations)),
        torch.zeros(relations, 1),
    )
    lists, rule = LabelLists(known.objects, known.predicates), HicoDet().rule(known.triplets)
    passes = max(images // count, 1)

    def ours() -> float:
        total = 0.0
        for _ in range(passes):
            graphs = [
                graph_in_pixels(row, (480, 640), lists, rule) for row in best_triplets(said, **selection_options(rule, lists))
            ]
            total = math.fsum(edge.confidence for graph in graphs for edge in graph.relations)
        return total

    def loop() -> float:
        possible_RC, total = known.allowed(), 0.0
        for _ in range(passes):
            object_NQ, name_NQ = said.object_logit_BSQC[:, -1].softmax(-1)[..., :-1].max(-1)
            parts = (said.relation_logit_BSQR[:, -1].sigmoid().numpy(), object_NQ.numpy(), name_NQ.numpy())
            total = math.fsum(t[0] for image in zip(*parts, strict=True) for t in hico_det_triplets_loop(*image, possible_RC))
        return total

    return Bench(ours, loop)


# ---------------------------------------------------------------- V-COCO


def v_coco(images: int) -> Bench:
    known = vocabulary("v-coco")
    with_role = np.array([n for n, name in enumerate(known.predicates) if name not in known.roles])

    def pick(rng: np.random.Generator, label: np.ndarray) -> np.ndarray:
        return with_role[rng.integers(0, len(with_role), label.shape)]

    records = planted(images, 1, known.objects, pick, known.predicates)
    rows = records.to_pylist()
    task = VCoco(draws=0, ties="index")
    return Bench(
        lambda: task.score(records).value,
        lambda: v_coco_loop(rows),
        lambda: replace(task, draws=DRAWS).score(records).value,
    )


# ---------------------------------------------------------------- scene graphs


def scene_graphs(images: int, seed: int) -> pa.Table:
    """Planted records with the names of VG150, any predicate between any two objects."""
    known = vocabulary("vg150")
    return planted(images, seed, known.objects, lambda rng, label: rng.integers(0, 50, label.shape), known.predicates)


def vg150(images: int) -> Bench:
    records = scene_graphs(images, 2)
    rows = records.to_pylist()
    task = VG150(draws=0, ties="index")
    return Bench(
        lambda: task.score(records).metrics["mr@100"].value,
        lambda: released.vg150(rows, task.ks),
        lambda: replace(task, draws=DRAWS).score(records).value,
        lambda: vg150_loop(rows, task.ks),
    )


Loop = Callable[[list[dict[str, Any]]], float]


def open_images(kind: type[OpenImagesPredicates], loop: Loop, lean: Loop) -> Callable[[int], Bench]:
    def bench(images: int) -> Bench:
        records = scene_graphs(images, 3)
        rows = records.to_pylist()
        return Bench(
            lambda: kind(draws=0).score(records).value,
            lambda: loop(rows),
            lambda: kind(draws=DRAWS).score(records).value,
            lambda: lean(rows),
        )

    return bench


# ---------------------------------------------------------------- the table

PROTOCOLS: dict[str, Callable[[int], Bench]] = {
    "hico_det": hico_det,
    "hico_det_triplets": hico_det_triplets,
    "v_coco": v_coco,
    "vg150": vg150,
    "open_images_predicates": open_images(OpenImagesPredicates, released.open_images_predicates, predicates_loop),
    "open_images_triplets": open_images(OpenImagesTriplets, released.open_images_triplets, triplets_loop),
}


def seconds(call: Callable[[], float]) -> tuple[float, float]:
    gc.collect()
    start = time.process_time()
    value = call()
    return time.process_time() - start, value


def measure(name: str, images: int, repeats: int) -> dict[str, Any]:
    bench = PROTOCOLS[name](images)
    bench.ours()  # imports and caches
    ours = [seconds(bench.ours) for _ in range(repeats)]
    loop, expected = seconds(bench.loop)
    ours += [seconds(bench.ours) for _ in range(repeats)]
    value = ours[0][1]
    if abs(value - expected) > 1e-9:
        raise SystemExit(f"{name}: ours says {value}, the loop {expected}")
    row = {"protocol": name, "images": images, "predictions": images * PREDICTIONS, "value": value}
    row |= {"seconds": statistics.median(took for took, _ in ours), "loop_seconds": loop}
    row["ratio"] = row["loop_seconds"] / row["seconds"]
    if bench.intervals is not None:
        row["seconds_with_intervals"], row["draws"] = seconds(bench.intervals)[0], DRAWS
    if bench.lean is not None:
        row["lean_loop_seconds"], lean = seconds(bench.lean)
        if abs(value - lean) > 1e-9:
            raise SystemExit(f"{name}: ours says {value}, the lean loop {lean}")
    return row


def figures(rows: list[dict[str, Any]]) -> list[Figure]:
    found = []
    for row in rows:
        peers = [Peer("the published procedure", row["loop_seconds"])]
        if "lean_loop_seconds" in row:
            peers.append(Peer("the leanest loop", row["lean_loop_seconds"], best=True))
        found.append(Figure(f"{row['protocol']}, {row['images']:,} images", "s", row["seconds"], tuple(peers)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=3, help="of ours, before the loop and again after it")
    parser.add_argument("--only", default=",".join(PROTOCOLS), help="protocols, with commas")
    args = parser.parse_args()
    rows = [measure(name, args.images, args.repeats) for name in args.only.split(",")]
    print(f"{'protocol':24} {'images':>7} {'seconds':>8} {'loop':>8} {'ratio':>6} {'with intervals':>14} {'lean loop':>9}")
    for row in rows:
        line = f"{row['protocol']:24} {row['images']:>7} {row['seconds']:>8.3f} {row['loop_seconds']:>8.2f} {row['ratio']:>6.1f} "
        line += f"{row['seconds_with_intervals']:>14.2f} " if "draws" in row else " " * 15
        print(line + (f"{row['lean_loop_seconds']:>9.2f}" if "lean_loop_seconds" in row else ""))
    new = {row["protocol"] for row in rows}
    rows = [row for row in last("relation_scoring").get("rows", []) if row["protocol"] not in new] + rows
    keep("relation_scoring", {"rows": rows}, figures(rows))


if __name__ == "__main__":
    main()
