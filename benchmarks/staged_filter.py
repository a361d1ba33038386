"""Pictures from above out of a mixed pool: precision of the staged filter of `curate rs5m` at 90 % recall, against filters that keep more.

    python benchmarks/staged_filter.py [--above 400] [--other 800] [--seed 0] [--clipart data/clipart]

The pool has rendered views from above, packaged emoji and rendered scenes; with --clipart (`diptych data fetch openclipart --out
data/clipart`) clip art as people uploaded it, with its copies and boilerplate titles, in place of emoji and scenes. Captions are noisy:
most that belong to a view name its kind ("a satellite image of ..."), so do many that do not, as alt texts on the web; a tenth of the views
are there twice. The scorer is a small CLIP that was trained on other rows of the same kinds with clean captions.

A filter that has scores is cut where nine in ten views stay; one without keeps what it keeps. "cut chosen elsewhere" is the staged filter
with a cut that was chosen on other views, as a user has to choose it. Of a view and its copy one counts.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine_results import keep, last

import diptych as dp
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.curate.operators.rs5m import ABOVE, OTHER, RS5M, overhead_share
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.recipes.contrastive.clip import CLIP
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.overhead.world import overhead
from diptych.worlds.scenes.world import scenes

NAMED, BORROWED, COPIED, KEPT, RECALL = 0.95, 0.5, 0.1, 0.96, 0.9
"""Shares: views whose text has a keyword, others whose text borrows one, views that are there twice, views that the scorer
keeps of rows of its own: with the keywords nine in ten, the recall at which filters are compared."""
STEPS, BATCH, SIDE = 150, 64, 64


def views(count: int, seed: int) -> Iterator[Sample]:
    data = overhead(count, seed=seed, size=SIDE, languages=("en",))
    yield from (data[row] for row in range(count))


def others(count: int, seed: int, clipart: str) -> Iterator[Sample]:
    """Emoji and scenes in turn, or clip art. Emoji and clip art of a seed are others than those of another seed."""
    if clipart:
        pool = dp.read(clipart)
        for row in keyed_rng("clip art of the filter").permutation(len(pool))[seed * count :][:count]:
            sample = pool[int(row)]
            yield replace(sample, texts=tuple(replace(text, language="en") for text in sample.texts))
        return
    emoji, drawn = dp.read("emoji"), scenes(count - count // 2, seed=seed, size=SIDE)
    chosen = keyed_rng("emoji of the filter").permutation(len(emoji))[seed * count :][: count // 2]
    yield from (emoji[int(row)] for row in chosen)
    yield from (drawn[row] for row in range(len(drawn)))


def in_memory(sample: Sample, uid: str, text: str, kind: str) -> Sample:
    assert sample.image is not None
    return Sample(uid, ArrayImage(decode(sample.image)), (Text(text, "en"),), extras={"kind": kind})


def first_text(sample: Sample) -> str:
    return next(text.string for text in sample.texts if text.language == "en" and text.origin != "negative")


def pool_of(above: int, other: int, seed: int, clipart: str) -> Pool:
    rng = np.random.default_rng(seed)
    rows = []
    for number, sample in enumerate(views(above, seed)):
        text = first_text(sample)
        rows.append(in_memory(sample, f"view-{number}", f"satellite image of {text}" if rng.random() < NAMED else text, "view"))
        if rng.random() < COPIED:
            rows.append(replace(rows[-1], uid=f"view-{number}-copy", extras={"kind": "copy"}))
    for number, sample in enumerate(others(other, seed, clipart)):
        text = first_text(sample)
        rows.append(in_memory(sample, f"other-{number}", f"aerial view of {text}" if rng.random() < BORROWED else text, "other"))
    return Pool.from_samples(rows, name="mixed")


def clean_rows(above: int, other: int, seed: int, clipart: str) -> Pool:
    """Rows to learn from: captions say truly what a picture is."""
    rng = np.random.default_rng(seed)
    rows = [
        in_memory(sample, f"v{number}", f"{ABOVE[int(rng.integers(len(ABOVE)))]}, {first_text(sample)}", "view")
        for number, sample in enumerate(views(above, seed))
    ]
    rows += [
        in_memory(sample, f"o{number}", f"a drawing, {first_text(sample)}", "other")
        for number, sample in enumerate(others(other, seed, clipart))
    ]
    return Pool.from_samples(rows, name="clean")


def scores(pool: Pool, kept: Iterable[str]) -> tuple[float, float]:
    """Precision and recall of the rows that stayed."""
    kinds = dict(zip(pool.uids, pool.column("kind"), strict=True))
    kept = [*kept]
    uids = {uid.removesuffix("-copy") for uid in kept if kinds[uid] != "other"}
    return len(uids) / max(1, len(kept)), len(uids) / sum(kind == "view" for kind in kinds.values())


def at_recall(pool: Pool, share: dict[str, float]) -> list[str]:
    """Fewest rows, those of the highest share, that hold nine in ten views; all where there are not so many."""
    ranked = sorted(share, key=lambda uid: -share[uid])
    return next((ranked[:count] for count in range(1, len(ranked)) if scores(pool, ranked[:count])[1] >= RECALL), ranked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--above", type=int, default=400)
    parser.add_argument("--other", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clipart", default="", help="folder of `diptych data fetch openclipart`")
    options = parser.parse_args()
    pool = pool_of(options.above, options.other, options.seed, options.clipart)
    with tempfile.TemporaryDirectory() as folder:
        recipe = replace(CLIP.tiny(), batch_size=BATCH, steps=STEPS, tokenizer="data", pieces=600)
        rows = clean_rows(options.above, options.other, options.seed + 1, options.clipart)
        settings = TrainOptions(seed=options.seed, progress=False, precision="fp32", device="cpu")
        fit(recipe.prepare(rows), rows, Path(folder, "run"), settings)
        address = str(Path(folder, "run"))
        model: Any = dp.load(address)
        checked = [sample.image for sample in views(200, options.seed + 2)]
        share_N = overhead_share(model.embed_images(checked), model.embed_texts([*ABOVE]), model.embed_texts([*OTHER]))
        least = float(np.quantile(share_N, 1 - KEPT))
        named, ranked = RS5M()(pool), RS5M(model=address, least=0.0)(pool)
        alone = RS5M(keywords=(), model=address, least=0.0)(pool)
        staged = RS5M(model=address, least=least)(pool)
    without_keyword = {drop.uid for drop in named.dropped if drop.reason.startswith("keyword")}
    filters = {
        "none": pool.uids,
        "keywords": [uid for uid in pool.uids if uid not in without_keyword],
        "keywords, duplicates": named.kept,
        "scores, duplicates": at_recall(pool, alone.columns["overhead"]),
        "all stages": at_recall(pool, ranked.columns["overhead"]),
        "all stages, cut chosen elsewhere": staged.kept,
    }
    table: list[dict[str, Any]] = []
    for name, kept in filters.items():
        precision, recall = scores(pool, kept)
        table.append({"filter": name, "kept": len(kept), "precision": round(precision, 3), "recall": round(recall, 3)})
        print(f"{name:34}{len(kept):>6} rows kept  precision {precision:.3f}  recall {recall:.3f}")
    print(bytes(staged.files["stages.json"]).decode())
    kinds = "clipart" if options.clipart else "emoji and scenes"
    parts = last("staged_filter").get("parts", {})
    parts[kinds] = {"above": options.above, "other": options.other, "seed": options.seed, "least": round(least, 3), "rows": table}
    keep("staged_filter", {"parts": parts}, [])


if __name__ == "__main__":
    main()
