"""RUIG on rendered pages: reinforcement of whole boxes against more cross-entropy, from the same kind of start and for as many updates."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from diptych.claims.cell import Cell, Scores
from diptych.claims.claim import Arm, Claim, declare
from diptych.claims.training import trained
from diptych.core.config import to_plain
from diptych.core.disk.files import write_json
from diptych.core.grounding import PhraseQuery
from diptych.data.text.captions.phrases import sentences_of
from diptych.models.io.saved_model import open_model
from diptych.models.screens.screen_grounder import ScreenGrounder
from diptych.objectives.policy.box_rewards import bin_ceiling, clicks, overlap
from diptych.recipes._shared.cached_models import cached_model
from diptych.recipes.grounding.ruig import RUIG, ScreenLikelihood
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.rendered import RenderedDataset
from diptych.worlds.screens.world import screens

PAGES, TESTED, STARTED, SMOKE_ROWS, SIZE, ELEMENTS, NOISE = 1000, 300, 3000, 16, 48, 3, 0.15
START_STEPS, FURTHER_STEPS = 1000, 100
RATES = (1e-4, 3e-4, 1e-3)


@dataclass(frozen=True)
class Located:
    """Goes on from a model that cross-entropy alone has trained, once for all seeds, on pages of the cell's seed whose boxes are a little
    off, and locates the elements of others whose boxes are exact.

    iou      mean of the box for each instruction; accuracy, share of at least .5; click, share whose middle lies in the element
    ceiling  mean IoU of the true boxes with their own bins
    further  False takes the model as it started
    """

    recipe: RUIG
    further: bool = True

    def __call__(self, cell: Cell) -> Scores:
        train, test = (
            pages(SMOKE_ROWS if cell.smoke else n, cell.seed, split) for split, n in (("train", PAGES), ("test", TESTED))
        )
        start = started(smoke=cell.smoke)
        recipe = replace(self.recipe, vocabulary=json.loads((start / "recipe.json").read_text(encoding="utf-8"))["vocabulary"])
        model = open_model(start)
        if self.further:
            model = open_model(trained(recipe, train.remembering(), cell, init=str(start / "model.safetensors")).model)
        samples = [test[row] for row in range(len(test))]
        queries = [PhraseQuery.of([sentences_of(sample)[0].text], behind="") for sample in samples]
        boxes = model.ground([sample.image for sample in samples if sample.image is not None], queries)
        box_N4 = torch.from_numpy(np.stack([row[0].box_N4[0] for row in boxes]) / SIZE)
        true_N4 = torch.tensor([sample.regions[sentences_of(sample)[0].phrases[0].regions[0]].box for sample in samples]) / SIZE
        iou_N = overlap(box_N4, true_N4)
        return {
            "iou": float(iou_N.mean()),
            "accuracy": float((iou_N >= 0.5).double().mean()),
            "click": float(clicks(box_N4, true_N4).mean()),
            "ceiling": float(bin_ceiling(true_N4, self.recipe.bins).mean()),
        }


def pages(count: int, seed: int, split: str) -> RenderedDataset:
    """Pages of three elements in four cells."""
    return screens(count, seed=seed, split=split, size=SIZE, elements=ELEMENTS, rows=2, noise=NOISE)  # type: ignore[arg-type]


def started(*, smoke: bool) -> Path:
    """The folder of a model that cross-entropy trained on pages of no verdict's seed, and its vocabulary."""
    data = pages(SMOKE_ROWS if smoke else STARTED, 1, "train").remembering()
    recipe = replace(ScreenLikelihood.tiny(), steps=2 if smoke else START_STEPS, lr=1e-3, warmup=50.0).prepare(data)

    def make() -> Callable[[Path], object]:
        with tempfile.TemporaryDirectory() as scratch:
            options = TrainOptions(seed=1, precision="fp32", device="cpu")
            model = ScreenGrounder.load(fit(recipe, data, Path(scratch) / "run", options).model)

        def write(folder: Path) -> None:
            model.save(folder / "start")
            write_json(folder / "start" / "recipe.json", {"vocabulary": recipe.vocabulary})

        return write

    return cached_model("screens", [data.fingerprint, to_plain(recipe)], make, seed=1) / "start"


def claims() -> tuple[Claim, ...]:
    reinforced = replace(RUIG.tiny(), start=0.0, steps=FURTHER_STEPS, warmup=0.0)
    return (
        declare(
            slug="ruig",
            sentence="After a start by cross-entropy, boxes lie better with reinforcement than with as many updates without it",
            source="2310.04716: sequence training by visual metrics; sizes of the effect are not published for a start that has converged",
            baseline=Arm("likelihood", Located(replace(reinforced, reinforced=0.0)), RATES),
            method=Arm("reinforced", Located(reinforced), RATES),
            controls=(Arm("start", Located(reinforced, further=False)),),
            metric="iou",
            margins=0.02,
            equal_budget=("samples",),
            data=f"{PAGES:,} pages of {ELEMENTS} elements, boxes off by {NOISE:.0%} of a side, {TESTED} with exact ones; one start for all",
            reported=("accuracy", "click", "ceiling"),
            seeds=4,
            tuning_seeds=(0,),
        ),
    )
