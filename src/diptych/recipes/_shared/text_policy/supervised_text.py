"""Supervised training behind prompts: RL4LMs's baseline, and the stage before its policy gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from diptych.core.contracts import Draws, Optimiser
from diptych.core.rows import Rows
from diptych.data.load.batch import TensorBatch
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.policy.decoding import DecodingConfig
from diptych.models.policy.language_policy import answer_logits
from diptych.models.policy.text_generator import TextGenerator
from diptych.objectives.language.answers import answer_loss
from diptych.recipes._shared.text_policy.prompted_text import PromptedTextRecipe


@dataclass(frozen=True)
class PromptAnswerBatch(TensorBatch):
    """Prompts padded on the left, answers padded on the right; counts_BL is True on their tokens, the end mark among them."""

    prompt_BP: Rows[Tensor]
    there_BP: Rows[Tensor]
    answer_BL: Rows[Tensor]
    counts_BL: Rows[Tensor]


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """Log-probabilities of the tokens of answers."""

    log_BL: Rows[Tensor]


class SupervisedPolicy(nn.Module):
    """The policy alone, under the name that it has beside its value model."""

    def __init__(self, policy: LanguageModel) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, prompt_BP: Tensor, there_BP: Tensor, answer_BL: Tensor) -> AnswerTokens:
        log_BLV = answer_logits(self.policy, prompt_BP, there_BP, answer_BL).log_softmax(-1)
        return AnswerTokens(log_BLV.gather(-1, answer_BL[..., None])[..., 0])


@dataclass(frozen=True, kw_only=True)
class SupervisedText(PromptedTextRecipe[SupervisedPolicy, PromptAnswerBatch, AnswerTokens]):
    """Cross-entropy of a reference behind its prompt: the supervised baseline of RL4LMs (2210.01241), and its warm start. One of the
    references is drawn each time. The mean is over the tokens of a batch."""

    slug = "rl4lms_supervised"

    batch_size: int = 8
    epochs: float = 2.0
    lr: float = 1e-5
    warmup: float = 0.0
    weight_decay: float = 0.01

    @property
    def measured_by(self) -> str:
        return f"generated_text:prompts={self.prompts},max_tokens={self.max_tokens}"

    def model(self) -> SupervisedPolicy:
        return SupervisedPolicy(self.language_policy())

    def batch(self, draws: Draws) -> PromptAnswerBatch:
        self.referred(draws)
        prompts, words = self.prompt_batch(draws), self.words()
        space = "" if words.spaced or words.close_ids else " "
        rows = []
        for draw, references in zip(draws, prompts.references, strict=True):
            reference = references[int(draw.rng.integers(len(references)))]
            rows.append([*words.pieces(space + reference), words.end_id][: self.max_tokens])
        answer_BL = torch.full((len(rows), self.max_tokens), words.pad_id, dtype=torch.int64)
        counts_BL = torch.zeros(answer_BL.shape, dtype=torch.bool)
        for row, ids in enumerate(rows):
            answer_BL[row, : len(ids)], counts_BL[row, : len(ids)] = torch.tensor(ids), True
        return PromptAnswerBatch(prompts.prompt_BP, prompts.there_BP, answer_BL, counts_BL)

    def features(self, model: SupervisedPolicy, batch: PromptAnswerBatch) -> AnswerTokens:
        features: AnswerTokens = model(batch.prompt_BP, batch.there_BP, batch.answer_BL)
        return features

    def losses(self, features: AnswerTokens, batch: PromptAnswerBatch) -> dict[str, Tensor]:
        return {"answer": answer_loss((-features.log_BL * batch.counts_BL).sum(1), batch.counts_BL.sum(1).to(features.log_BL))}

    def optimiser(self) -> Optimiser:
        return Optimiser(
            lr=self.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=self.weight_decay, schedule="cosine", warmup=self.warmup,
            clip_norm=self.clip_norm or 1.0,
        )  # fmt: skip

    def deploy(self, model: SupervisedPolicy) -> TextGenerator:
        return self.generator(model.policy)

    @classmethod
    def tiny(cls) -> Self:
        return cls(steps=100, lr=1e-3, prompt_length=32, max_tokens=24, pieces=512)

    @classmethod
    def paper(cls) -> Self:
        """CommonGen as released: T5-base, 4 epochs."""
        return cls(
            language_model="hf:t5-base", prompts="extra", prefix="generate a sentence with: ", suffix=".", prompt_length=15, max_tokens=20,
            decoding=DecodingConfig(beams=5, decode_min_tokens=4), epochs=4.0,
        )  # fmt: skip
