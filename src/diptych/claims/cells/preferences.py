"""Cells of answers that are judged, on pictures of two shapes with statements that hold or not.

The models are made once, on pictures of a seed that no verdict draws: one writes descriptions, another, trained in another order, judges
them. Seeds vary the pictures that are described and what is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from diptych.claims.cell import Cell, Scores, Spending
from diptych.claims.cells.bridges import hosted
from diptych.claims.training import opened, trained
from diptych.core.config import to_plain
from diptych.core.contracts import Dataset
from diptych.core.errors import RunError
from diptych.core.grouped_fields import out_of_groups
from diptych.core.randomness import keyed_rng, keyed_seed
from diptych.core.sample import Sample
from diptych.curate.preferences.mining import answer_score, scored_pairs
from diptych.curate.preferences.statements import split_answer, yes_no_question
from diptych.curate.preferences.yes_no import FirstTokenScorer, YesNoLabeler
from diptych.data.dataset import Pool
from diptych.models.io.saved_model import open_model
from diptych.recipes._shared.cached_models import cached_model
from diptych.recipes.alignment.stic import STIC
from diptych.recipes.bridges.llava import LLaVA
from diptych.worlds.claimed_pairs import claimed_pairs

PAIRS, TESTED, SMOKE_ROWS = 4000, 150, 12
CANDIDATES, TOKENS = 6, 24
FORMAT, ELSEWHERE = 1, 1
REQUEST = "what is there ?"
WORLD = "small:world:claimed_pairs?n=4000&seed=1"
Judging = Literal["statements", "whole", "random", "shortest"]


def described(data: Dataset) -> Pool:
    """Two samples of each: the request for a description with the text as its answer, and the yes/no questions alone."""
    samples = list[Sample]()
    for row in range(len(data)):
        sample = data[row]
        asked = [{"question": REQUEST, "answer": sample.texts[0].string}]
        samples.append(replace(sample, extras={"questions": asked}))
        samples.append(replace(sample, uid=f"{sample.uid}-asked", texts=(), extras={"questions": sample.extras["questions"]}))
    return Pool.from_samples(samples, name=data.name)


def shared_folder(recipe: LLaVA, cell: Cell, *, seed: int) -> Path:
    """Folder of a model that describes and answers by yes or no, trained under that seed on pictures of `ELSEWHERE`, once."""
    rows = described(claimed_pairs(SMOKE_ROWS if cell.smoke else PAIRS, seed=ELSEWHERE))
    recipe = hosted(recipe, cell, address=WORLD)
    alone = replace(cell, folder=cell.folder / f"made-{seed}", seed=seed, rate=None, share=1.0, spending=Spending())
    key = [FORMAT, rows.fingerprint, seed, to_plain(out_of_groups(recipe)), cell.size]
    return cached_model("described", key, lambda: opened(recipe, rows, alone).save, seed=seed)


@dataclass(frozen=True)
class JudgedCandidates:
    """Agreement of a ranking with the truth: how often two answers to one picture of the cell's seed, with different numbers of false
    statements, stand in the right order (`agreement`); a tie counts half.

    judging  ranks by the number of statements that are judged false; by the share of yes to one question about the whole answer; by
             chance; by length, the shortest first
    """

    recipe: LLaVA
    judging: Judging = "statements"

    def __call__(self, cell: Cell) -> Scores:
        if cell.instead is not None:
            raise RunError("candidates are drawn from a language model: a raw-input control writes one answer")
        writer, other = (open_model(shared_folder(self.recipe, cell, seed=ELSEWHERE + number)) for number in range(2))
        assert isinstance(other, FirstTokenScorer)
        test = claimed_pairs(SMOKE_ROWS // 2 if cell.smoke else TESTED, seed=cell.seed, split="test")
        samples = [test[row] for row in range(len(test)) for _ in range(CANDIDATES)]
        images = [sample.image for sample in samples]
        sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0}
        torch.manual_seed(keyed_seed("candidates", cell.seed))  # `generate` draws from torch's own state
        answers = writer.generate(images, [REQUEST] * len(images), max_tokens=TOKENS, **sampling)
        statements = [split_answer(answer) for answer in answers]
        judged = self._judged(YesNoLabeler(other, "{question} ?"), images, answers, statements, cell.seed)
        wrong = [
            sum(one.removeprefix("there is a ") not in sample.extras["things"] for one in own)
            for sample, own in zip(samples, statements, strict=True)
        ]
        right = list[float]()
        for start in range(0, len(samples), CANDIDATES):
            true, marks = [-one for one in wrong[start : start + CANDIDATES]], judged[start : start + CANDIDATES]
            right += [
                float(marks[better] > marks[worse]) + 0.5 * (marks[better] == marks[worse])
                for better, worse in scored_pairs(true)
            ]
        share = sum(wrong) / max(1, sum(map(len, statements)))
        return {"agreement": float(np.mean(right)) if right else 0.5, "pairs": float(len(right)), "false_share": share}

    def _judged(
        self, labeler: YesNoLabeler, images: Any, answers: list[str], statements: list[list[str]], seed: int
    ) -> list[float]:
        if self.judging == "random":
            return [float(value) for value in keyed_rng("judged", seed).random(len(answers))]
        if self.judging == "shortest":
            return [-float(len(answer.split())) for answer in answers]
        whole = self.judging == "whole"
        asked = [
            [f"is there {answer}"] if whole else [yes_no_question(one) for one in own]
            for answer, own in zip(answers, statements, strict=True)
        ]
        flat = [(image, question) for image, own in zip(images, asked, strict=True) for question in own]
        yes_no_N2 = labeler([image for image, _ in flat], [question for _, question in flat])
        parts = np.split(yes_no_N2, np.cumsum([len(own) for own in asked])[:-1])
        return [answer_score(part.tolist(), soft=whole) for part in parts]


@dataclass(frozen=True)
class SelfTrained:
    """A shared model goes on with STIC's first stage on images of the cell's seed, and describes others: share of statements that are false
    (`false_share`), of things that are named (`recall`), words of a description.

    learns  False: the shared model as it is
    """

    recipe: STIC
    start: LLaVA
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        if cell.instead is not None:
            raise RunError("the arms go on from a model that writes: a raw-input control has nothing to go on from")
        folder = shared_folder(self.start, cell, seed=ELSEWHERE)
        test = claimed_pairs(SMOKE_ROWS if cell.smoke else TESTED, seed=cell.seed, split="test")
        if self.learns:
            rows = claimed_pairs(SMOKE_ROWS if cell.smoke else self.recipe.images, seed=cell.seed)
            recipe = hosted(replace(self.recipe, pair_lr=cell.rate or self.recipe.pair_lr), cell, address=WORLD)
            alone = replace(cell, rate=None)
            model = open_model(trained(recipe, rows, alone, init=str(folder / "model.safetensors")).model)
        else:
            model = open_model(folder)
        samples = [test[row] for row in range(len(test))]
        texts = model.generate([sample.image for sample in samples], [REQUEST] * len(samples), max_tokens=TOKENS)
        stated = [[one.removeprefix("there is a ") for one in split_answer(text)] for text in texts]
        things = [sample.extras["things"] for sample in samples]
        count = max(1, sum(map(len, stated)))
        false = sum(one not in true for own, true in zip(stated, things, strict=True) for one in own)
        named = sum(one in own for own, true in zip(stated, things, strict=True) for one in true)
        words = float(np.mean([len(text.split()) for text in texts]))
        return {"false_share": false / count, "recall": named / sum(map(len, things)), "words": words}
