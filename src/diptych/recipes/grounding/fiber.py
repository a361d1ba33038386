"""FIBER: gated cross-attention inside the upper blocks of both towers; without it, a dual encoder for retrieval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.core.contracts import Dataset, Draw, Draws
from diptych.core.errors import ConfigError
from diptych.core.sample import Sample
from diptych.data.text.question_answering.answer_labels import answer_list, answer_targets
from diptych.data.text.question_answering.questions import Question, questions_of
from diptych.data.text.tokens.masked_words import mask_words
from diptych.models.fiber.fiber_model import FiberModel
from diptych.models.fiber.training import FiberFeatures, FiberTraining
from diptych.models.pairs.matching.matcher import MatcherOutput
from diptych.objectives.gather import all_gather, gather_rows, mean_over_processes, world
from diptych.objectives.language.answer_scores import answer_scores
from diptych.objectives.language.captioning import caption_loss
from diptych.objectives.language.gold import gold_caption_loss, gold_weights
from diptych.objectives.language.masked_words import masked_words
from diptych.objectives.pairs.momentum_targets import momentum_contrast
from diptych.recipes._shared.fiber_towers import SMALL, FiberRecipe
from diptych.recipes._shared.fused_pairs import matching
from diptych.recipes._shared.question_batch import QuestionPairBatch
from diptych.tasks._scoring.answers.answer_match import normalised


@dataclass(frozen=True, kw_only=True)
class FIBER(FiberRecipe[FiberTraining, QuestionPairBatch, FiberFeatures]):
    """Coarse-to-Fine Vision-Language Pre-training with Fusion in the Backbone (Dou et al., 2022, arXiv 2206.07643). Baseline: `fused`.

    A Swin transformer and a RoBERTa, of which the last blocks read each other: what attention gives there, a, becomes a + alpha c, where c
    reads the other side from a and alpha is a learned number that starts at 0. So the towers start as they were, and with the gates left
    out they are a dual encoder still: one set of weights retrieves by vectors, matches and answers with both sides read together, and
    writes captions with the text side reading the picture.

    Pre-training sums three terms of equal weight: contrast of the unfused vectors with a queue (`itc`), matching with wrong partners drawn
    by the contrast's own similarities over batch and queue (`itm`), whose inputs are kept to be read anew, and hidden words (`mlm`). Then
    `caption` trains writing and `questions` a head over a list of answers; a run may train all five at once.

    Released code, where we depart: places of the queue that are not filled yet are left out of the contrast (`unfilled="random"` has them
    as released); the probability of an own partner is taken out after the small number is added, so that it is never drawn as its own
    wrong partner, and samples of its group neither; keys of all processes are in the contrast; what the sides are before the first fused
    block is computed once for the terms of a step. `decay="released"`, as in the presets, decays the gates, the norm before them and the
    temperature, which the released list of names misses.

    `gold` weighs each word of a caption by a frozen copy, renewed every `gold_every` steps. `gold_mean="released"` divides by the number of
    padded places in place of words.

    `fusion="top"` is the baseline: no gates, and `top_layers` layers of co-attention over both towers, as METER (2111.02387).

    Wrong pairs are drawn over the batch of all processes, so batches cannot be cut into chunks.

    wrong            wrong pairs of the matching are "similar" by the contrast, or, where it is trained alone, "random": half of the texts
                     get the picture of another one of the batch (released: of the data)
    itc, itm, mlm, caption, questions   weights of the terms; 0 leaves one out, with the parts that it alone needs
    hidden           share of the words of a text that are hidden; masking: "each" by its own chance, as released, or exactly that "share"
    queue, temperature   features of earlier batches; what similarities are divided by at the start, learned, from 0.001 to 1
    answers_least    questions whose most frequent answer makes an answer one of the list; a question without a listed one is left out
    fusion           "backbone", as published, or "top": the baseline with `top_layers` layers of co-attention over both towers
    gold, gold_every, gold_floor, gold_mean   whether words of a caption are weighed by a frozen copy; steps between copies; the
                     least weight; whether the sum is divided by the "tokens" or, as "released", by the padded places
    top_layers       layers of the baseline's co-attention
    partners         a wrong partner is drawn by its share of the similarities to the "others", or, as released, to "all": once the own pair
                     leads by some 20, similarities divided by the temperature, all others are then equally likely
    unfilled         places of the queue that hold nothing yet are "left_out", or "random" as released
    """

    slug = "fiber"
    cacheable = False
    no_prefixes = "it reads pairs together"
    presets = ("tiny", "paper", "vqa", "retrieval", "retrieval_fused", "captions", "captions_gold")

    itc: float = 1.0
    itm: float = 1.0
    mlm: float = 1.0
    caption: float = 0.0
    questions: float = 0.0
    wrong: Literal["similar", "random"] = "similar"
    fusion: Literal["backbone", "top"] = "backbone"
    top_layers: int = 2
    hidden: float = 0.15
    masking: Literal["each", "share"] = "each"
    queue: int = 4096
    unfilled: Literal["left_out", "random"] = "left_out"
    partners: Literal["others", "all"] = "others"
    temperature: float = 0.07
    answers_least: int = 9
    gold: bool = False
    gold_every: int = 1000
    gold_floor: float = 0.1
    gold_mean: Literal["tokens", "released"] = "tokens"
    same_group: Literal["mask", "positive", "negative"] = "negative"
    batch_size: int = 4096
    steps: int = 100_000
    lr: float = 1e-5
    warmup: float = 0.1
    weight_decay: float = 0.01

    answers: tuple[str, ...] = field(default=(), metadata={"prepared": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        terms = (self.itc, self.itm, self.mlm, self.caption, self.questions)
        if min(terms) < 0 or not any(terms):
            raise ConfigError(f"weights of the terms are {terms} (expected 0 or more, one of them above 0)")
        if self.wrong not in ("similar", "random") or (self.wrong == "random" and self.itc):
            raise ConfigError(f"wrong is {self.wrong!r} with itc {self.itc} (expected similar, or random with itc 0)")
        if self.itm and not self.itc and self.wrong == "similar":
            raise ConfigError(
                "itm is above 0 and itc is not (expected both: wrong partners are drawn by the contrast's similarities; or wrong random)"
            )
        if self.gold and not self.caption:
            raise ConfigError("gold weighs captions, and caption is 0 (expected caption above 0)")
        if self.fusion == "top" and self.caption:
            raise ConfigError("caption needs gates in the text tower (expected fusion backbone, or caption 0)")
        if self.same_group == "positive":
            raise ConfigError("same_group is 'positive' (expected mask | negative)")
        if self.masking not in ("each", "share"):
            raise ConfigError(f"masking is {self.masking!r} (expected each | share)")
        if self.gold_every < 1:
            raise ConfigError(f"gold_every is {self.gold_every} (expected 1 step or more)")

    @property
    def measured_by(self) -> str:
        """Retrieval by vectors, as published for the contrast, or by matching; what was trained instead, where both are left out."""
        if self.itc or self.itm:
            return "retrieval:compare=vectors" if self.itc else "retrieval:compare=pairs"
        return "vqa" if self.questions else "captions"

    @property
    def fused(self) -> int:
        return self.fused_layers if self.fusion == "backbone" else 0

    def sizes_of(self, model: FiberModel) -> dict[str, Any]:
        top = model.model.top
        return {
            **super().sizes_of(model),
            "fusion": "top" if top is not None else "backbone",
            "top_layers": top.layers if top is not None else self.top_layers,
        }

    def listed(self, data: Dataset) -> Self:
        """With the answers that questions are answered from."""
        if not self.questions or self.answers:
            return self
        questions = (question for row in range(len(data)) for question in questions_of(data[row]))
        return replace(self, answers=answer_list(questions, least=self.answers_least, alike=normalised))

    def rows_in(self, sample: Sample) -> int:
        """Questions, where they alone are trained; captions else."""
        if self.questions and not (self.itc or self.itm or self.mlm or self.caption):
            return len(self._questions(sample))
        return len({*super().texts_of(sample)})

    def texts_of(self, sample: Sample) -> Iterable[str]:
        questions = [question.text for question in questions_of(sample)] if self.questions else []
        return [*super().texts_of(sample), *questions]

    # ------------------------------------------------------------ model

    def model(self) -> FiberTraining:
        if self.questions and not self.answers:
            raise ConfigError("questions are answered from a list that the data give: call prepare(data) first")
        fiber = self.fiber(
            matches=self.itm > 0,
            guesses=self.mlm > 0 or self.caption > 0,
            writes=self.caption > 0,
            answers=len(self.answers) if self.questions else 0,
            top=self.top_layers if self.fusion == "top" else 0,
        )
        return FiberTraining(
            fiber,
            queue=self.queue if self.itc else 0,
            text_length=self.text_length,
            temperature=self.temperature,
            compares=self.itc > 0,
            unfilled=self.unfilled,
            partners=self.partners,
            copy_every=self.gold_every if self.gold else 0,
            gather=all_gather,
            gather_rows=gather_rows,
            world=world,
        )

    # ------------------------------------------------------------ batch

    def batch(self, draws: Draws) -> QuestionPairBatch:
        """Text, crop, flip and operations of each draw, then its hidden words, then its question."""
        pairs = self.pair_batch(draws, self.operations)
        made = QuestionPairBatch(**vars(pairs))
        words = self.words()
        if self.mlm:
            masked = mask_words(
                pairs.text_BL,
                pairs.text_mask_BL,
                [draw.rng for draw in draws],
                special=sorted({words.pad_id, *words.prefix, *words.suffix}),
                vocab_size=words.vocab_size,
                share=self.hidden,
                each=self.masking == "each",
            )
            mask_id = words.inner.token_to_id("<mask>")
            ids_BL = masked.ids_BL.masked_fill(masked.hidden_BL, words.vocab_size if mask_id is None else mask_id)
            made = replace(made, masked_BL=ids_BL, place_BM=masked.place_BM, word_BM=masked.word_BM)
        if self.questions:
            questions = [self._drawn_question(draw) for draw in draws]
            encoded = words.encode([question.text if question else "" for question in questions], self.text_length)
            worth_BK, has_question_B = answer_targets(questions, self.answers, alike=normalised)
            made = replace(
                made,
                question_BL=torch.from_numpy(encoded.ids_BL),
                question_mask_BL=torch.from_numpy(encoded.mask_BL),
                worth_BK=worth_BK,
                has_question_B=has_question_B,
                truncated=made.truncated + encoded.truncated,
            )
        return made

    def _questions(self, sample: Sample) -> list[Question]:
        """The questions of a sample that the list has an answer to; one without is not trained on, as released."""
        return [one for one in questions_of(sample) if not self._listed.isdisjoint(map(normalised, one.answers))]

    @cached_property
    def _listed(self) -> frozenset[str]:
        return frozenset(self.answers)

    def _drawn_question(self, draw: Draw) -> Question | None:
        questions = self._questions(draw.sample)
        return questions[int(draw.rng.integers(len(questions)))] if questions else None

    # ------------------------------------------------------------ loss

    def features(self, model: FiberTraining, batch: QuestionPairBatch) -> FiberFeatures:
        outputs: FiberFeatures = model(
            batch.image_BCHW,
            batch.text_BL,
            batch.text_mask_BL,
            batch.group_B,
            masked_BL=batch.masked_BL,
            place_BM=batch.place_BM,
            question_BL=batch.question_BL,
            question_mask_BL=batch.question_mask_BL,
        )
        return outputs

    def losses(self, features: FiberFeatures, batch: QuestionPairBatch) -> dict[str, Tensor]:
        terms = dict[str, Tensor]()
        if features.image_ND is not None and features.text_ND is not None:
            by_image = self._contrast(
                features, features.image_ND, features.text_ND, features.text_queue_KD, group_N=batch.group_B
            )
            by_text = self._contrast(
                features, features.text_ND, features.image_ND, features.image_queue_KD, group_N=batch.group_B
            )
            terms["contrastive"] = self.itc * (by_image + by_text) / 2
            if features.own_N2 is not None:
                terms["matching"] = self.itm * self._matching(features, features.image_ND, features.text_ND)
        if features.fit_N2 is not None and features.fits_N is not None:
            terms["matching"] = self.itm * mean_over_processes(F.cross_entropy(features.fit_N2.float(), features.fits_N.long()))
        if features.word_NMV is not None and batch.word_BM is not None:
            terms["words"] = self.mlm * masked_words(features.word_NMV, batch.word_BM)
        if features.caption_BLV is not None:
            terms["caption"] = self.caption * self._caption(features, batch)
        if features.answer_BA is not None and batch.worth_BK is not None and batch.has_question_B is not None:
            terms["questions"] = self.questions * answer_scores(features.answer_BA, batch.worth_BK, batch.has_question_B)
        return terms

    def _contrast(
        self, features: FiberFeatures, anchor_ND: Tensor, other_ND: Tensor, queue_KD: Tensor, *, group_N: Tensor
    ) -> Tensor:
        """Against one-hot targets; the other side has no gradient here, as it has its own term."""
        return momentum_contrast(
            anchor_ND,
            anchor_ND.detach(),
            other_ND.detach(),
            queue_KD,
            temperature=features.temperature_1,
            alpha=0.0,
            group_N=group_N,
            group_K=features.group_K,
            same="mask" if self.same_group == "mask" else "negative",
        )

    @staticmethod
    def _matching(features: FiberFeatures, image_ND: Tensor, text_ND: Tensor) -> Tensor:
        assert features.own_N2 is not None
        assert features.wrong_text_N2 is not None
        assert features.wrong_image_N2 is not None
        assert features.wrong_N is not None
        answers = features.own_N2, features.wrong_text_N2, features.wrong_image_N2
        return matching(MatcherOutput(image_ND, text_ND, features.temperature_1, *answers, features.wrong_N))

    def _caption(self, features: FiberFeatures, batch: QuestionPairBatch) -> Tensor:
        assert features.caption_BLV is not None
        if features.old_BLV is None:
            return caption_loss(features.caption_BLV, batch.text_BL, batch.text_mask_BL, over="tokens")
        weight_BM = gold_weights(features.old_BLV, batch.text_BL, batch.text_mask_BL, floor=self.gold_floor)
        return gold_caption_loss(features.caption_BLV, weight_BM, batch.text_BL, batch.text_mask_BL, mean=self.gold_mean)

    def metrics(self, features: FiberFeatures, batch: QuestionPairBatch) -> dict[str, Tensor]:
        return {"temperature": features.temperature_1.detach()}

    def after_update(self, model: FiberTraining, features: FiberFeatures, batch: QuestionPairBatch, progress: float) -> None:
        if model.image_queue is not None and features.image_ND is not None and features.text_ND is not None:
            # As integers: not every backend gathers booleans.
            mask_BL = batch.text_mask_BL.to(torch.uint8)
            rows = (features.image_ND, features.text_ND, batch.group_B, batch.image_BCHW, batch.text_BL, mask_BL)
            model.remember_(*(all_gather(row).flatten(0, 1) for row in rows))
        with torch.no_grad():
            model.temperature_1.clamp_(0.001, 1.0)
        model.count_()

    def deploy(self, model: FiberTraining) -> FiberModel:
        return FiberModel(model.fiber, self.deployed_preprocess, self.words(), self.text_length, self.slug, answers=self.answers)

    # ------------------------------------------------------------ presets

    @classmethod
    def tiny(cls) -> Self:
        """Four terms on pairs; `--questions 1` answers the questions of data that have them, from the same weights."""
        return cls(
            **SMALL, caption=1.0, queue=128, answers_least=1, same_group="mask", batch_size=64, steps=400, lr=4e-4, masking="share",
        )  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Pre-training: Swin-B at 384 pixels with RoBERTa-base; CLIP's vocabulary, unless `--tokenizer FOLDER` gives RoBERTa's."""
        return cls()

    @classmethod
    def vqa(cls) -> Self:
        """Fine-tuning on VQA v2 as released: 576 pixels, ten epochs of the questions, the heads at fifty times the rate."""
        return cls(
            itc=0.0, itm=0.0, mlm=0.0, questions=1.0, image_size=576, text_length=50, batch_size=512, steps=0, epochs=10.0, lr=2e-5,
            counted="texts", head_scale=50.0, crop=(0.5, 1.0), flip=True, flip_sides="ignore", augment="rand",
        )  # fmt: skip

    @classmethod
    def retrieval(cls) -> Self:
        """Fine-tuning on retrieval by vectors as released, for COCO and, from there, for Flickr30k."""
        return replace(cls.vqa(), questions=0.0, itc=1.0, batch_size=1024, head_scale=5.0)

    @classmethod
    def retrieval_fused(cls) -> Self:
        """Fine-tuning on retrieval by matching as released."""
        return replace(cls.retrieval(), itc=0.0, itm=1.0, wrong="random", image_size=384)

    @classmethod
    def captions(cls) -> Self:
        """Fine-tuning on COCO captions as released."""
        return replace(cls.vqa(), questions=0.0, caption=1.0, lr=5e-5, head_scale=5.0)

    @classmethod
    def captions_gold(cls) -> Self:
        """The stage behind `captions`, with words weighed by a frozen copy."""
        return replace(cls.captions(), gold=True, lr=1e-5)
