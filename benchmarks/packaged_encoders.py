"""What tuning the packaged encoders gives over heads on frozen ones, on real pictures: emoji and icons.

    diptych data fetch icons --out data/icons
    python benchmarks/packaged_encoders.py [--icons data/icons] [--steps 20] [--batch-size 32] [--lr 1e-4] [--seeds 0]

`locked` trains heads on frozen EfficientNet-Lite0 and MiniLM with its own settings; the other ways train `clip --init packaged` for
`--steps` steps: adapters, or all layers with smaller rates for lower ones. The last goes on from the model of `locked`, at `--lr` and with
the statistics of batch norms as they are. Each is scored by text to image recall at 1, names as queries, on the held-out splits. Beside
them are the words of the nearest training picture by pixels, and BM25 over the other English texts of each picture, which the others do
not see.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import diptych as dp
from diptych.data.dataset import Pool
from diptych.models.closed_form.model import raw_input_model

NAMES = ("label",)
"""Origins of the texts that are queries."""
WAYS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "locked": ("locked", {}),
    "LoRA of rank 16": ("clip", {"lora": "16", "lr": 1e-3}),
    "all layers, layer-wise rates": ("clip", {"layer_decay": 0.75, "lr": 3e-4}),
    "locked, then all layers": ("clip", {"layer_decay": 0.75, "freeze": ["bn"]}),
}
AFTER_LOCKED = "locked, then all layers"
"""The way that starts from a model of `locked`."""


def scores_of(model: Any, data: Pool) -> dict[str, float]:
    """Held-out split -> text to image recall at 1."""
    results = dp.evaluate_splits(model, "retrieval", data, origins=NAMES, draws=1)
    return {name.rpartition("/")[2]: result.metrics["t2i_r@1"].value for name, result in results.items()}


def trained_scores(way: str, data: Pool, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train one way under one seed: its scores, and the processor seconds of the training as "seconds"."""
    recipe, settings = WAYS[way]
    if recipe == "clip":
        steps = {"steps": options.steps, "batch_size": options.batch_size, "warmup": options.steps / 10}
        settings = {"init": "packaged", **steps, **settings}
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        if way == AFTER_LOCKED:
            heads = dp.train("locked", data, Path(folder, "heads"), seed=seed, evaluation=False, progress=False)
            settings = settings | {"init": f"unlocked:{heads.path}", "lr": options.lr}
            settings = settings | ({"freeze": ()} if options.train_batch_norm else {})
        run = dp.train(recipe, data, Path(folder, "run"), seed=seed, evaluation=False, progress=False, **settings)
        seconds = time.process_time() - begin
        return {**scores_of(str(run.path), data), "seconds": seconds}


def word_scores(data: Pool) -> dict[str, float]:
    """Share of the names of each held-out split whose picture comes first by BM25 over its other English texts; splits without any are
    left out."""
    scores = {}
    for name in (name for name in data.split_names if name != "train"):
        samples = list(data.split(name).in_language("en"))
        others = [replace(one, texts=tuple(text for text in one.texts if text.origin not in NAMES)) for one in samples]
        if not any(one.texts for one in others):
            continue
        rows = Pool.from_samples([one for one in others if one.texts])
        with tempfile.TemporaryDirectory() as folder, dp.index("words", rows, Path(folder, "index"), kind="lexical") as index:
            right = [
                any(hit.payload.get("group", hit.uid) == sample.group for hit in index.search_text(text.string, 1))
                for sample in samples
                for text in sample.texts
                if text.origin in NAMES
            ]
        scores[name] = mean(right)
    return scores


def table(data: Pool, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Way -> mean scores over the seeds."""
    rows = {
        "nearest training picture": scores_of(raw_input_model(data.split("train"), "nearest picture"), data),
        "BM25 over the other texts": word_scores(data),
    }
    for way in options.ways:
        by_seed = [trained_scores(way, data, seed, options) for seed in options.seeds]
        rows[way] = {name: mean(scores[name] for scores in by_seed) for name in by_seed[0]}
        print(f"{data.name}, {way}: {by_seed}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--icons", default="", help="folder of `diptych data fetch icons`")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-4, help="of the way that goes on from locked")
    parser.add_argument("--train-batch-norm", action="store_true", help="in the way that goes on from locked")
    parser.add_argument("--ways", nargs="+", default=[*WAYS], choices=[*WAYS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    for address in filter(None, ("emoji", options.icons)):
        data = dp.read(address)
        rows = table(data, options)
        columns = [*rows[options.ways[0]]]
        print(f"| {data.name} | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
        for way, scores in rows.items():
            print(f"| {way} | {' | '.join(f'{scores[name]:.3f}' if name in scores else '' for name in columns)} |", flush=True)


if __name__ == "__main__":
    main()
