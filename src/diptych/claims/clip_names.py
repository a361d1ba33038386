"""Names compose: pairs of words never seen together classify, where training is long enough to learn the words at all.

`clip/combinations` asks the same on scenes of 64 nouns, of which 400 steps teach little. Here there are 24 and no clutter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from diptych.claims.claim import Arm, Cell, Claim, Scores
from diptych.claims.noisy_texts import NOUNS, NoisyPairs, for_cell, for_noisy_pairs
from diptych.claims.training import trained
from diptych.data.dataset import Pool
from diptych.models.io.deployed import open_model
from diptych.recipes.contrastive.clip import CLIP
from diptych.tasks.pairs.zero_shot import ZeroShot

SOURCES = (
    "diptych.claims.clip_names",
    "diptych.claims.noisy_texts",
    "diptych.claims.training",
    "diptych.recipes.contrastive.clip",
    "diptych.recipes._shared.pairs",
    "diptych.objectives.pairs.info_nce",
)
HELD_OUT = ("red circle", "green square", "blue triangle", "yellow cross")
"""Of 24 nouns; each of their words is seen in other combinations."""
IMAGES, BATCH, STEPS = 6000, 128, 400
TESTED = 1500


def named(train: bool) -> Callable[[Cell], Scores]:
    """Zero-shot accuracy over all nouns, on images with one that was held out and on images like those of training."""

    def run(cell: Cell) -> Scores:
        small = replace(for_noisy_pairs(CLIP.tiny()), batch_size=BATCH, steps=STEPS)
        recipe, data, _ = for_cell(small, NoisyPairs(IMAGES, avoid=HELD_OUT), cell)
        rows = data.pool("train", cell.seed)
        if train:
            model = open_model(trained(recipe, rows, cell).model)
        else:
            prepared = recipe.prepare(rows)
            torch.manual_seed(cell.seed)
            model = prepared.deploy(prepared.model())
        task = ZeroShot(classes=NOUNS, templates="a {}", draws=1)
        shown = NoisyPairs(64 if cell.smoke else TESTED).pool("test", cell.seed)
        scores: dict[str, float] = {}
        for part, nouns in (("unseen", HELD_OUT), ("seen", tuple(noun for noun in NOUNS if noun not in HELD_OUT))):
            result = task.score(task.predict(model, labelled(shown, nouns)))
            scores[f"{part}/acc@1"] = result.metrics["acc@1"].value
        return scores

    return run


def labelled(shown: Pool, nouns: Sequence[str]) -> Pool:
    """The images that show one of these nouns, labelled by it; of two such, by the one that the text names first."""
    samples = []
    for row in range(len(shown)):
        sample = shown[row]
        here = [noun for noun in nouns if noun in sample.texts[0].string]
        if here:
            first = min(here, key=sample.texts[0].string.index)
            samples.append(replace(sample, extras={"label": first}))
    return Pool.from_samples(samples, name=f"{shown.name}/named")


def claim() -> Claim:
    return Claim(
        slug="clip",
        name="names",
        sentence="Zero-shot, a colour and a shape never seen together are named above chance among 24 combinations",
        source="2103.00020: class names become a classifier; whether they compose is our question",
        refuted="an accuracy no higher than that of the same towers untrained, which is chance (1/24)",
        baseline=Arm("untrained", named(train=False)),
        method=Arm("clip", named(train=True)),
        metric="unseen/acc@1",
        budget=f"{STEPS} steps x {BATCH} pairs",
        data=f"{IMAGES:,} rendered images of two shapes, four of 24 combinations held out",
        sources=SOURCES,
        reported=("seen/acc@1",),
    )
