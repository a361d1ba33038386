"""Cells of bridges on pictures of two shapes: captions written, questions answered, and what was forgotten of texts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.bridges import hosted
from diptych.claims.training import opened, untrained
from diptych.core.image import ArrayImage
from diptych.core.prompt import ImagePart, TextPart
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.recipes._shared.language.bridges import BridgeRecipe
from diptych.tasks.generation.captions import Captions
from diptych.tasks.generation.vqa import VQA
from diptych.worlds.asked_pairs import asked_pairs
from diptych.worlds.clips import PARTNER, clips

PAIRS, CLIPS, TESTED, SMOKE_ROWS = 4000, 1000, 200, 8
SMOKE_STEPS = 10
"""As many as three stages can be given shares of."""
WORLD = "small:world:asked_pairs?n=4000&seed=1"
"""Texts and questions of a seed that no verdict draws, for the language model and for the image encoder."""
CLIP_QUESTION = "what happens ?"
CLIP_WORLD = "small:world:clips?n=1000&seed=1&length=8"


@dataclass(frozen=True)
class CaptionedPairs:
    """Learns from pictures of the cell's seed and writes captions of others; how much likelier or less likely texts without pictures
    became (`drift`, nats a token). learns=False writes before the first step."""

    recipe: BridgeRecipe
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = asked_pairs(SMOKE_ROWS if cell.smoke else PAIRS, seed=cell.seed).remembering()
        test = asked_pairs(SMOKE_ROWS if cell.smoke else TESTED, seed=cell.seed, split="test")
        recipe = hosted(self.recipe, cell, address=WORLD)
        model = (opened if self.learns else untrained)(recipe, rows, cell)
        task = Captions(max_tokens=24, draws=1, blind=False)
        scores = {name: metric.value for name, metric in task.score(task.predict(model, test)).metrics.items()}
        texts = [test[row].texts[0].string for row in range(len(test))]
        return {**scores, "text_nll": _nll(model, texts)}


@dataclass(frozen=True)
class AnsweredPairs:
    """Learns from pictures of the cell's seed with captions and questions, and answers questions about others."""

    recipe: BridgeRecipe
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = asked_pairs(SMOKE_ROWS if cell.smoke else PAIRS, seed=cell.seed).remembering()
        test = asked_pairs(SMOKE_ROWS if cell.smoke else TESTED, seed=cell.seed, split="test")
        recipe = hosted(self.recipe, cell, address=WORLD)
        model = opened(recipe, rows, cell, smoke_steps=SMOKE_STEPS) if self.learns else untrained(recipe, rows, cell)
        task = VQA(draws=1, blind=False)
        return {name: metric.value for name, metric in task.score(task.predict(model, test)).metrics.items()}


@dataclass(frozen=True)
class AnsweredClips:
    """Learns what happens in clips of the cell's seed and answers for others: share of right answers, and of right pairs of opposites,
    whose frames as a set are alike."""

    recipe: BridgeRecipe
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        count, tested = (SMOKE_ROWS, SMOKE_ROWS) if cell.smoke else (CLIPS, TESTED)
        train = clips(count, seed=cell.seed, split="train", length=8)
        test = clips(tested, seed=cell.seed, split="test", length=8)
        rows = Pool.from_samples([asked_clip(train[row]) for row in range(len(train))], name="asked clips")
        model = (opened if self.learns else untrained)(hosted(self.recipe, cell, address=CLIP_WORLD), rows, cell)
        samples = [test[row] for row in range(len(test))]
        frames: Any = [list(sample.media["clip"].decode()) for sample in samples]
        labels = sorted({str(sample.extras["label"]) for sample in samples})
        right, paired = [], []
        for sample, (first, *more) in zip(samples, frames, strict=True):
            shown = [ArrayImage(frame_HWC, sample.uid) for frame_HWC in (first, *more)]
            prompt = (ImagePart(), *(ImagePart(source=one) for one in shown[1:]), TextPart(CLIP_QUESTION))
            scores = model.answer_nll([shown[0]], [prompt], [labels])[0]
            chosen, label = labels[int(np.argmin(scores[:, 0]))], str(sample.extras["label"])
            right.append(chosen == label)
            pair = str(sample.extras["pair"])
            paired.append(min(chosen, PARTNER[chosen]) == pair)
        return {"accuracy": float(np.mean(right)), "pair": float(np.mean(paired))}


def asked_clip(sample: Sample) -> Sample:
    """A clip with the question what happens, and its class as the answer."""
    return replace(
        sample, extras={**sample.extras, "questions": [{"question": CLIP_QUESTION, "answer": str(sample.extras["label"])}]}
    )


def _nll(model: Any, texts: list[str]) -> float:
    nats = model.text_nll(texts)
    return float(nats[:, 0].sum() / nats[:, 1].sum())
