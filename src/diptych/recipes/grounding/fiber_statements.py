"""FIBER fine-tuned to judge statements about two pictures (NLVR2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.contracts import Draw, Draws
from diptych.core.errors import DataError
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import TensorBatch, view
from diptych.data.text.question_answering.questions import Question, questions_of
from diptych.models.fiber.fiber import Fiber
from diptych.models.fiber.statements import TRUTHS, FiberStatementClassifier
from diptych.recipes._shared.fiber_towers import SMALL, FiberRecipe

UNUSED_IN_FUSION = r"^(image|text)_(projection|head)\.|^image_tower\.net\.norm\."
"""What the fused reading does not use, beside the last norm of the text."""
PICTURES = "images"
"""The medium of a sample with several pictures."""


@dataclass(frozen=True, kw_only=True)
class StatementBatch(TensorBatch):
    """Statements, each about two pictures [B, 2, C, H, W]; truth_B is 1 where it holds; truncated: statements that were cut."""

    image_B2CHW: Rows[Tensor]
    text_BL: Rows[Tensor]
    text_mask_BL: Rows[Tensor]
    truth_B: Rows[Tensor]
    truncated: int = 0


@dataclass(frozen=True, slots=True)
class StatementLogits:
    """logit_B2  of false and true."""

    logit_B2: Rows[Tensor]


class StatementTraining(nn.Module):
    """A `Fiber` that judges."""

    def __init__(self, fiber: Fiber) -> None:
        super().__init__()
        self.fiber = fiber

    def forward(self, image_B2CHW: Tensor, text_BL: Tensor, mask_BL: Tensor) -> StatementLogits:
        fiber = self.fiber
        one_BHWC, two_BHWC = fiber.image_features(image_B2CHW.flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)
        return StatementLogits(fiber.judge(one_BHWC, two_BHWC, fiber.text_features(text_BL, mask_BL), mask_BL))


@dataclass(frozen=True, kw_only=True)
class FIBERStatements(FiberRecipe[StatementTraining, StatementBatch, StatementLogits]):
    """FIBER (Dou et al., 2022, arXiv 2206.07643) on NLVR2 (1811.00491): is a statement true of two pictures?

    Each picture is read together with the statement; what both readings give, text and picture side by side, goes into two layers and two
    logits, trained by cross-entropy. `--init` takes a run of `fiber` or the released weights. A sample has two pictures
    (`media["images"]`) and a question that is answered by "True" or "False"; of several questions a step draws one.

    Each picture has a crop and operations of its own, as released; mirroring does not look at the words (`flip`), as released, so that
    "left" may become wrong.
    """

    slug = "fiber_statements"
    no_prefixes = "it reads pairs together"
    needs = (PICTURES, "questions")
    presets = ("tiny", "paper")

    image_size: int = 384
    text_length: int = 50
    batch_size: int = 256
    epochs: float = 5.0
    lr: float = 2e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    head_scale: float = 50.0
    crop: tuple[float, float] = (0.5, 1.0)
    flip: bool = True
    augment: Literal["none", "rand"] = "rand"

    @property
    def measured_by(self) -> str:
        return "multiple_choice:how=sum"

    def texts_of(self, sample: Sample) -> Iterable[str]:
        return [question.text for question in questions_of(sample)]

    def rows_in(self, sample: Sample) -> int:
        """Statements, also where two read alike, as released."""
        return len(questions_of(sample))

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        """Both pictures. Raises DataError for a sample with another number of them."""
        several = sample.media[PICTURES]
        if len(several.parts) != 2:
            raise DataError(f"sample '{sample.uid}' has {len(several.parts)} pictures", field=PICTURES, expected="two")
        first, second = several.decode(min_side=self.decode_size)
        return {"image": first, PICTURES: (second,)}

    def model(self) -> StatementTraining:
        unused = rf"{UNUSED_IN_FUSION}|^text\.blocks\.{self.text_layers - 1}\.norm_2\."
        return StatementTraining(self.fiber_without(unused, matches=False, guesses=False, statements=True))

    def batch(self, draws: Draws) -> StatementBatch:
        """Of each draw its question, then crop, flip and operations of the first picture and of the second."""
        questions, pictures = [], []
        for draw in draws:
            questions.append(self._drawn_question(draw))
            for picture in (draw.image_HWC, *draw.media[PICTURES]):
                shown_HWC = view(replace(draw, image_HWC=picture), self.image_size, self.crop, self.flip)
                pictures.append(shown_HWC if self.operations is None else self.operations(shown_HWC, draw.rng))
        encoded = self.words().encode([question.text for question in questions], self.text_length)
        return StatementBatch(
            image_B2CHW=self.preprocess(pictures).unflatten(0, (-1, 2)),
            text_BL=torch.from_numpy(encoded.ids_BL),
            text_mask_BL=torch.from_numpy(encoded.mask_BL),
            truth_B=torch.tensor([TRUTHS.index(question.answer) for question in questions]),
            truncated=encoded.truncated,
        )

    @staticmethod
    def _drawn_question(draw: Draw) -> Question:
        questions = questions_of(draw.sample)
        question = questions[int(draw.rng.integers(len(questions)))]
        if question.answer not in TRUTHS:
            raise DataError(
                f"sample '{draw.sample.uid}' answers {question.answer[:60]!r}", field="questions", expected="True or False"
            )
        return question

    def features(self, model: StatementTraining, batch: StatementBatch) -> StatementLogits:
        outputs: StatementLogits = model(batch.image_B2CHW, batch.text_BL, batch.text_mask_BL)
        return outputs

    def losses(self, features: StatementLogits, batch: StatementBatch) -> dict[str, Tensor]:
        return {"statements": F.cross_entropy(features.logit_B2.float(), batch.truth_B)}

    def metrics(self, features: StatementLogits, batch: StatementBatch) -> dict[str, Tensor]:
        return {"accuracy": (features.logit_B2.argmax(1) == batch.truth_B).float().mean()}

    def deploy(self, model: StatementTraining) -> FiberStatementClassifier:
        return FiberStatementClassifier(model.fiber, self.deployed_preprocess, self.words(), self.text_length, self.slug)

    # ------------------------------------------------------------ presets

    @classmethod
    def tiny(cls) -> Self:
        return cls(**SMALL, batch_size=32, steps=300, lr=4e-4, crop=(1.0, 1.0), flip=False, augment="none")

    @classmethod
    def paper(cls) -> Self:
        """As released: 384 pixels, five epochs of the statements, the head at fifty times the rate."""
        return cls(counted="texts")
