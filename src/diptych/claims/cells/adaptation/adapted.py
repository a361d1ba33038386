"""Arms that adapt a small CLIP to pictures of another look from a few labelled ones: prompts by hand, a linear probe, learned context."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diptych.claims.cell import Cell, Scores, Spending
from diptych.claims.cells.learned_pairs.pairs import sized_for
from diptych.claims.training import opened, untrained
from diptych.core.config import config_hash, to_plain
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.core.sources.closure import closure_hash
from diptych.data.dataset import Pool
from diptych.data.shots import Shots, base_and_new, draw_shots
from diptych.models.io.saved_model import open_model
from diptych.models.pairs.embedder import PairEmbedder
from diptych.recipes._shared.cached_models import cached_model
from diptych.recipes.adaptation.coop import CoOp
from diptych.recipes.contrastive.clip import CLIP
from diptych.tasks.pairs.few_shot_methods import linear_probe, zero_shot
from diptych.worlds.long_tail import KINDS, long_tail

PAIRS, STEPS, SMOKE_ROWS = 6000, 400, 240
POOL, TESTED = 2400, 600
COLOURS = ("red", "green", "blue", "yellow")
CLASSES = tuple(sorted(kind for kind in KINDS if kind.split()[0] in COLOURS))
PROMPTS = ("{}", "a picture of a {}", "photo of a {}", "here is a {} in the middle", "a photo of a {}.")
"""Five that a person would write who knows the texts of training, and the usual one."""
BASE = replace(sized_for(CLIP.tiny(), batch_size=128, steps=STEPS), text_length=32)


@dataclass(frozen=True)
class Adapted:
    """A small CLIP learns from captioned pictures of the cell's seed; then `how` names 24 kinds in darker, noisier, tinted ones.

    how     "prompts": the best on the shots of five hand-made sentences; "probe": a linear probe; "context": `recipe`
    shots   labelled pictures a class, for all three
    part    "all" classes; "new": trained on the first half of the classes, tested on the other half
    taught  False leaves the CLIP as it is before its first step
    """

    how: Literal["prompts", "probe", "context"]
    shots: int
    recipe: CoOp | None = None
    part: Literal["all", "new"] = "all"
    taught: bool = True

    def __call__(self, cell: Cell) -> Scores:
        model, folder = base_model(cell, taught=self.taught)
        rows, test = shifted(cell, "train"), shifted(cell, "test")
        shots = draw_shots(rows, self.shots, 1, label="kind")
        base, new = base_and_new(shots.classes)
        learned, asked = (shots.classes, shots.classes) if self.part == "all" else (base, new)
        cell.spending.count(labelled=sum(len(shots.train[name]) for name in learned))
        test = test.where("kind", list(asked))
        vector_ND = model.embed_images([sample.image for sample in test if sample.image is not None])
        if self.how == "context":
            assert self.recipe is not None
            made = replace(
                self.recipe, weights=str(folder), label="kind", shots=self.shots, part="base" if self.part == "new" else "all"
            )
            adapted: Any = opened(made, rows, replace(cell, folder=cell.folder / "context"))
            score_NK = adapted.scores_of_vectors(vector_ND, asked)
        elif self.how == "probe":
            score_NK = linear_probe(model, rows, shots, learned, seed=cell.seed)(vector_ND)
        else:
            score_NK = zero_shot(model, asked, best_prompt(model, rows, shots, learned))(vector_ND)
        right = [asked[int(k)] == kind for k, kind in zip(score_NK.argmax(1), test.column("kind"), strict=True)]
        return {"acc": float(np.mean(right))}


def base_model(cell: Cell, *, taught: bool) -> tuple[PairEmbedder, Path]:
    """The small CLIP and its folder. All arms of a seed adapt the same one, which is trained once, in full also while rates are swept, is
    kept in the cache as long as the code of its recipe says the same, and counts in no arm's budget."""
    rows = long_tail(SMOKE_ROWS if cell.smoke else PAIRS, seed=cell.seed, exponent=0.0)
    part = replace(cell.part("base"), share=1.0, spending=Spending())
    if taught:
        code = closure_hash(CLIP.__module__, long_tail.__module__)
        key = {
            "recipe": config_hash(to_plain(BASE)),
            "code": code,
            "rows": rows.fingerprint,
            "seed": cell.seed,
            "size": part.size,
        }
        folder = cached_model("adapted", key, lambda: opened(BASE, rows, part).save, seed=cell.seed)
    else:
        folder = part.folder / "model"
        untrained(BASE, rows, part).save(folder)
    model: PairEmbedder = open_model(folder)
    return model, folder


def best_prompt(model: PairEmbedder, rows: Pool, shots: Shots, classes: tuple[str, ...]) -> str:
    """The hand-made sentence that names the shots best; of equal ones the first."""
    row_of = {uid: row for row, uid in enumerate(rows.uids)}
    uids = shots.uids(classes)
    vector_ND = model.embed_images([image for uid in uids if (image := rows[row_of[uid]].image) is not None])
    kinds = [rows[row_of[uid]].extras["kind"] for uid in uids]

    def accuracy(prompt: str) -> float:
        best_N = zero_shot(model, classes, prompt)(vector_ND).argmax(1)
        return float(np.mean([classes[int(k)] == kind for k, kind in zip(best_N, kinds, strict=True)]))

    return max(PROMPTS, key=accuracy)


def shifted(cell: Cell, split: Literal["train", "test"]) -> Pool:
    """Pictures of the 24 kinds at four fifths of the light, with a green tint and more noise, none of which the base has seen."""
    count = {"train": POOL, "test": TESTED}[split] * len(KINDS) // len(CLASSES)
    rows = long_tail(SMOKE_ROWS if cell.smoke else count, seed=cell.seed + 1_000_003, split=split, exponent=0.0)
    samples = (rows[row] for row in range(len(rows)))
    return Pool.from_samples((dimmed(sample) for sample in samples if sample.extras["kind"] in CLASSES), name=f"shifted/{split}")


def dimmed(sample: Sample) -> Sample:
    assert isinstance(sample.image, ArrayImage)
    noise = np.random.default_rng(int.from_bytes(sample.uid.encode()[-8:], "little")).normal(0, 10, sample.image.pixels_HWC.shape)
    pixels_HWC = np.clip(0.8 * sample.image.pixels_HWC + np.array([0, 20, 10]) + noise, 0, 255).astype(np.uint8)
    return replace(sample, image=ArrayImage(pixels_HWC, sample.uid), texts=())
