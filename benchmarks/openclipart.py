"""A naturally noisy set, step by step: what each curation step removes from openclipart, and what that does to retrieval elsewhere.

    diptych data fetch clipart --out data/clipart
    python benchmarks/openclipart.py data/clipart [--seeds 0,1,2] [--steps 300] [--work runs/openclipart]

Each step works on what the one before left. After each, CLIP with two blocks of width 64 on either side is trained on what is left:
equal steps, batch, seeds and so equal pairs seen. It is tested across sources, on emoji in styles that no clip art has: text to image
among 1,552. Nothing of the training set is in the test; concepts overlap as they do in the world.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine_results import keep
from PIL import Image, ImageOps

from diptych.claims.cells.learned_pairs.pairs import sized_for
from diptych.core.image import ArrayImage
from diptych.core.sample import Text
from diptych.curate.duplicates.exact import ExactDuplicates
from diptych.curate.duplicates.near import NearDuplicates
from diptych.curate.engine.pool import curate, kind_of
from diptych.curate.operators.align import AlignFilters
from diptych.curate.operators.metaclip import MetaCLIP
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.data.read import read
from diptych.models.io.saved_model import open_model
from diptych.recipes.contrastive.clip import CLIP
from diptych.tasks.pairs.retrieval import Retrieval
from diptych.train.fit import fit
from diptych.train.options import TrainOptions

SIDE = 64
STEPS = {
    "the same file": ExactDuplicates(),
    "looks the same": NearDuplicates(),
    "texts that stand beside many pictures": AlignFilters(
        short_side=0, aspect_ratio=0, texts_of_image=0, min_words=1, max_words=0, vocabulary=0, shared_by=10, language=""
    ),
    "balanced by entries": MetaCLIP(min_count=5, bigrams=200),
}


def thumbnails(pool: Pool, work: Path) -> dict[str, np.ndarray]:
    """Every picture whole, on a white square of 64 pixels; decoded once."""
    file = work / f"thumbnails-{pool.fingerprint}.npz"
    if not file.is_file():
        pixels = np.zeros((len(pool), SIDE, SIDE, 3), np.uint8)
        for row in range(len(pool)):
            picture = Image.fromarray(decode(pool[row].image))
            pixels[row] = np.asarray(ImageOps.pad(picture, (SIDE, SIDE), color=(255, 255, 255)))
        work.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, pixels=pixels, uids=np.array(pool.uids))
    with np.load(file) as stored:
        return dict(zip(stored["uids"].tolist(), stored["pixels"], strict=True))


def small(pool: Pool, pixels: dict[str, np.ndarray], texts: dict[str, list[str]]) -> Pool:
    """The same rows with thumbnails; `texts` says which texts of a row stay, where not all do."""

    def of(sample: Any) -> Any:
        stay = texts.get(sample.uid)
        kept = tuple(t for t in sample.texts if stay is None or t.string in stay)
        return replace(sample, image=ArrayImage(pixels[sample.uid], sample.uid), texts=kept or (Text(""),))

    return Pool.from_samples([of(pool[row]) for row in range(len(pool))], name=pool.name)


def retrieval(rows: Pool, seed: int, steps: int, folder: Path) -> dict[str, float]:
    recipe = replace(sized_for(CLIP.tiny()), batch_size=128, steps=steps, image_size=SIDE, pieces=2000)
    if not (folder / "model").is_dir():
        fit(recipe, rows, folder, TrainOptions(seed=seed, progress=False, save_every=100))
    task, test = Retrieval(draws=1), read("emoji").split("unseen_style").in_language("en")
    result = task.score(task.predict(open_model(folder / "model"), test))
    return {name: metric.value for name, metric in result.metrics.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("clipart", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--work", type=Path, default=Path("runs/openclipart"))
    args = parser.parse_args()
    pool = read(args.clipart)
    pixels = thumbnails(pool, args.work)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    rows, texts, found = pool, {}, []
    for number, (name, step) in enumerate([("as it is", None), *STEPS.items()]):
        removed, seconds = Counter(), 0.0
        if step is not None:
            done = curate(rows, [step], args.work / f"step{number}")
            rows, seconds = done.kept, done.steps[0].seconds
            removed = Counter(kind_of(drop.reason) for drop in done.removed)
            texts |= done.columns.get("kept_texts", {})
            if "balanced_text" in done.columns:
                table = done.columns["balanced_text"].to_pydict()
                texts |= {uid: [text] for uid, text in zip(table["uid"], table["balanced_text"], strict=True)}
        ready = small(rows, pixels, texts)
        scores = [retrieval(ready, seed, args.steps, args.work / f"run{number}-{seed}") for seed in seeds]
        line = {"step": name, "rows": len(rows), "removed": dict(removed), "seconds": round(seconds, 1)}
        for metric in ("t2i_r@1", "t2i_r@5", "t2i_r@10"):
            line[metric] = [round(100 * score[metric], 2) for score in scores]
        found.append(line)
        print(line, flush=True)
    keep("openclipart", {"seeds": seeds, "training_steps": args.steps, "table": found}, [])
    print(markdown(found))


def markdown(found: list[dict[str, Any]]) -> str:
    lines = ["| after this step | rows | removed by it | R@1 | R@5 | R@10 |", "|---|---|---|---|---|---|"]
    for line in found:
        removed = ", ".join(f"{count:,} {kind}" for kind, count in line["removed"].items()) or "-"
        values = [
            f"{statistics.mean(line[m]):.2f} ({min(line[m]):.2f}-{max(line[m]):.2f})" for m in ("t2i_r@1", "t2i_r@5", "t2i_r@10")
        ]
        lines.append(f"| {line['step']} | {line['rows']:,} | {removed} | {' | '.join(values)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
