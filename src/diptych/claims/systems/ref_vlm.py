"""REF-VLM on rendered scenes: triplets against flat reference tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.bridges import PAIRS, hosted
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.claims.training import trained, untrained
from diptych.core.box_iou import box_iou
from diptych.data.text.prompts.referring_turns import AnswerForm
from diptych.models.io.saved_model import open_model
from diptych.models.referring.referring_model import ReferringModel
from diptych.recipes.grounding.ref_vlm import RefVLM, TargetWeights
from diptych.worlds.rendered import RenderedDataset
from diptych.worlds.scenes.world import Split, scenes

TRAINED, TESTED, SMOKE_ROWS, THINGS, STEPS = 2000, 100, 16, 4, 120


@dataclass(frozen=True)
class DetectedScenes:
    """Learns to locate the things of all names in a scene, and is asked for those of others.

    count  share of names with as many references as there are things; f1: of boxes with an IoU of .5 or more, over names
    whole  share of answers of which nothing is missing
    learns  False asks the model as it is before its first step
    """

    recipe: RefVLM
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        recipe = hosted(self.recipe, cell)
        recipe = recipe if cell.rate is None else replace(recipe, instruct_lr=cell.rate)
        train = drawn(SMOKE_ROWS if cell.smoke else TRAINED, cell.seed, "train")
        test = drawn(SMOKE_ROWS if cell.smoke else TESTED, cell.seed, "test")
        model = open_model(trained(recipe, train, cell).model) if self.learns else untrained(recipe, train, cell)
        return detection_scores(model, test, batch_size=4 if cell.smoke else 50)


def drawn(count: int, seed: int, split: Split) -> RenderedDataset:
    """Scenes of two to four shapes."""
    return scenes(count, seed=seed, split=split, max_objects=THINGS, negatives=False).remembering()


def detection_scores(model: ReferringModel, data: RenderedDataset, *, batch_size: int) -> Scores:
    """Counts, boxes and wholeness of answers to one request a scene for all its names."""
    samples = [data[row] for row in range(len(data))]
    names = [list(dict.fromkeys(region.label for region in sample.regions)) for sample in samples]
    requests = [model.form.detection(asked, "box") for asked in names]
    answers = model.refer([sample.image for sample in samples if sample.image is not None], requests, batch_size=batch_size)
    counted, hits, predicted, true = [], 0, 0, 0
    for sample, asked, answer in zip(samples, names, answers, strict=True):
        named = answer.named(asked)
        predicted += len(named)
        for name in asked:
            boxes = np.array([answer.box_R4[number] for phrase, number in named if phrase == name], np.float64).reshape(-1, 4)
            targets = [region.box for region in sample.regions if region.label == name]
            counted.append(len(boxes) == len(targets))
            true += len(targets)
            iou_NM = box_iou(boxes, targets)
            hits += int((iou_NM[linear_sum_assignment(-iou_NM)] >= 0.5).sum()) if len(boxes) else 0
    return {
        "count": float(np.mean(counted)),
        "f1": 2 * hits / max(1, predicted + true),
        "whole": float(np.mean([not answer.read.problems for answer in answers])),
    }


def claims() -> tuple[Claim, ...]:
    made = replace(
        RefVLM.tiny(),
        image_weights=PAIRS,
        tasks=("detection",),
        units=("box",),
        answers=AnswerForm(reasoning=False, commanded=False),
        projector_share=0.0,
        instruct_batch_size=16,
        steps=STEPS,
    )
    flat = replace(made, answers=replace(made.answers, form="flat"), weights=TargetWeights(matching="row"))
    rates = around(made.instruct_lr)
    return (
        declare(
            slug="ref_vlm",
            sentence="After equally many steps answers in triplets have the right number of targets for a name more often than answers "
            "with flat reference tokens",
            source="2503.07413: triplets of concept, unit and targets against reference tokens without them",
            baseline=Arm("flat references", DetectedScenes(flat), rates),
            method=Arm("triplets", DetectedScenes(made), rates),
            controls=(Arm("untrained", DetectedScenes(made, learns=False)),),
            metric="count",
            margins=0.03,
            data=f"{TRAINED:,} rendered scenes of two to {THINGS} shapes, {TESTED} others of the same seed to test",
            reported=("f1", "whole"),
            seeds=4,
            tuning_seeds=(0,),
        ),
    )
