"""Eight runs of one bridge that learned more or less, and what can be said of each before anybody reads its captions.

Runs of a seed are trained once for all arms, which only read what was measured: nothing of them is on an arm's account.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.bridges import hosted
from diptych.claims.training import opened, untrained
from diptych.core.contracts import Dataset
from diptych.core.disk.files import write_json
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.graphs.relation_splits import Relabelled
from diptych.models.bridges.splice import norm_ratio
from diptych.models.bridges.writer import BridgeGenerator
from diptych.recipes._shared.cached_models import cached_model
from diptych.recipes.bridges.limber import LiMBeR
from diptych.tasks.generation.captions import Captions
from diptych.tasks.generation.mir import MIR
from diptych.worlds.asked_pairs import asked_pairs
from diptych.worlds.rendered import RenderedDataset
from diptych.worlds.small_pairs import Split

STEPS, RIGHT = (40, 80, 160, 320), (1.0, 0.5)
"""Of the runs: steps, each with pairs of its own, and the share of pairs whose caption is their own."""
BATCH, TIMES = 32, 2
"""Pairs of a step, and how often a pair is seen."""
TESTED, READ, SMOKE_ROWS = 200, 100, 8
FORMAT = 2
FRESH, MATCHED, BLIND = "fresh", "fresh, norms of words", "blind"


WORLD = "small:world:asked_pairs?n=6000&seed=1"
"""Texts of a seed that no verdict draws, for the language model and for the image encoder, which sees a cell of a picture as a patch."""


def bridge(steps: int, *, match: bool = True) -> LiMBeR:
    """LiMBeR's small preset, shorter, on an image encoder that has learned: its captions rise above those of a blind one at once.

    match  a fresh map gives tokens of the norm of words, as in the small preset; else what it gives, as released
    """
    learned: dict[str, Any] = {"image_weights": WORLD, "small_image_steps": 1500, "small_image_size": 48}
    return replace(LiMBeR.tiny(), **learned, batch_size=BATCH, steps=steps, horizon=steps, warmup=steps / 20, match_norms=match)


@dataclass(frozen=True)
class Ranking:
    """Rank agreement of a signal with caption quality over the runs: Spearman's correlation of minus the signal with CIDEr-D.

    signal  "loss" (nats a token of held-out captions), "mir", "mir_as_released", "norm" (how far the norm of a picture's tokens is from
            that of words, in powers of e). One that is the same for all, or not a number, orders nothing: 0
    """

    signal: str
    match: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = measured(cell, self.match)
        runs = [row for name, row in rows.items() if name not in (FRESH, MATCHED, BLIND)]
        signal, score = [-row[self.signal] for row in runs], [row["cider_d"] for row in runs]
        correlation = spearmanr(signal, score).statistic if min(len({*signal}), len({*score})) > 1 else math.nan
        return {
            "spearman": 0.0 if math.isnan(correlation) else float(correlation),
            "best": max(score),
            "worst": min(score),
            "blind": rows[BLIND]["cider_d"],
        }


def named(steps: int, right: float) -> str:
    return f"{steps} steps, {right:g} right"


def measured(cell: Cell, match: bool) -> dict[str, dict[str, float]]:
    """Signals and score of every run of the cell's seed, of two bridges that did not learn, and of one that learned blind."""
    if cell.smoke:
        return _measure(cell, match)
    recipe = hosted(bridge(1, match=match), cell, address=WORLD)
    key = [FORMAT, cell.seed, repr(recipe), STEPS, RIGHT, TIMES, TESTED, READ, repr(MIR())]

    def make() -> Callable[[Path], object]:
        signals = _measure(cell, match)
        return lambda folder: write_json(folder / "runs.json", signals)

    plain: dict[str, dict[str, float]] = json.loads((cached_model("ranked", key, make, seed=cell.seed) / "runs.json").read_text())
    return plain


def _measure(cell: Cell, match: bool) -> dict[str, dict[str, float]]:
    test = _rows("test", SMOKE_ROWS if cell.smoke else TESTED, cell)
    signals = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, matched in ((FRESH, False), (MATCHED, True)):
            at = Cell(name, cell.seed, Path(folder) / name, size=cell.size)
            signals[name] = _signals(untrained(hosted(bridge(1, match=matched), cell, address=WORLD), test, at), test)
        blind = replace(hosted(bridge(STEPS[-1], match=match), cell, address=WORLD), blind=True)
        rows = _rows("train", SMOKE_ROWS if cell.smoke else STEPS[-1] * BATCH // TIMES, cell)
        signals[BLIND] = _signals(opened(blind, rows, Cell(BLIND, cell.seed, Path(folder) / BLIND, size=cell.size)), test)
        for steps in STEPS[-1:] if cell.smoke else STEPS:
            for right in RIGHT[: 1 if cell.smoke else None]:
                rows = _rows("train", SMOKE_ROWS if cell.smoke else steps * BATCH // TIMES, cell)
                name = named(steps, right)
                at = Cell(name, cell.seed, Path(folder) / name, size=cell.size)
                signals[name] = _signals(
                    opened(hosted(bridge(steps, match=match), cell, address=WORLD), _partly_wrong(rows, right, cell.seed), at),
                    test,
                )
    return signals


def _rows(split: Split, count: int, cell: Cell) -> RenderedDataset:
    return asked_pairs(count, seed=cell.seed, split=split).remembering()


def _partly_wrong(rows: Dataset, right: float, seed: int) -> Dataset:
    """The rows, of which a share keep their caption and the others have each other's."""
    rng = keyed_rng("wrong captions", seed)
    wrong = rng.permutation(len(rows))[round(right * len(rows)) :].tolist()
    texts = {rows.uids[row]: rows[other].texts for row, other in zip(wrong, [*wrong[1:], *wrong[:1]], strict=True)}
    return Relabelled(rows, partial(_with_text, texts=texts), ["wrong captions", right, seed]) if texts else rows


def _with_text(sample: Sample, *, texts: Mapping[str, tuple[Text, ...]]) -> Sample:
    return replace(sample, texts=texts.get(sample.uid, sample.texts))


def _signals(model: BridgeGenerator, test: Dataset) -> dict[str, float]:
    samples = [test[row] for row in range(len(test))]
    images = [sample.image for sample in samples if sample.image is not None]
    captions = Captions(max_tokens=24, draws=1, blind=False)
    written = captions.score(captions.predict(model, test))
    mir = MIR(samples=READ, words=0)
    read = mir.score(mir.predict(model, test))
    nll_N = [rows[0] for rows in model.answer_nll(images, [""] * len(images), [[s.positives("en")[0].string] for s in samples])]
    with torch.no_grad():
        picture_BKD, _ = model._pictures([((image,), "") for image in images[:SMOKE_ROWS]])
        assert picture_BKD is not None  # every row has an image
        id_1V = torch.arange(model.bridge.language.vocab_size)[None]
        ratio = norm_ratio(picture_BKD, model.bridge.language.embed(id_1V), torch.ones_like(id_1V, dtype=torch.bool))
    return {
        "cider_d": written.value,
        "mir": read.value,
        "mir_as_released": read.metrics["mir_as_released"].value,
        "loss": float(np.sum([nll for nll, _ in nll_N]) / np.sum([count for _, count in nll_N])),
        "norm": abs(math.log(float(ratio))),
    }
