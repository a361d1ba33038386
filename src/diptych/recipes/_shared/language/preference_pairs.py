"""Shared by recipes in the form of LLaVA that learn from pairs of answers: rows of a pair, its loss, adapters that are trained alone.

Letters: B rows, two a pair, the chosen answer first; P pairs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from diptych.core.contracts import Dataset, Draw, Draws, Optimiser, Rule, Stage, Trainer
from diptych.core.errors import ConfigError, DataError
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import choose_text
from diptych.data.text.prompts.layout import Piece, TokenPiece
from diptych.data.text.question_answering.preferences import PREFERENCE_FIELD, has_preference, preference_of
from diptych.data.text.question_answering.questions import questions_of
from diptych.models.bridges.aligned.preference_bridge import OtherLikelihood, PreferenceBridge
from diptych.models.bridges.bridge import AnswerLikelihood, Bridge
from diptych.models.bridges.writer import BridgeGenerator
from diptych.models.towers.adapters import MARK, LoRAConfig, add_adapters, merged
from diptych.objectives.preference.direct import (
    PairLogProbs,
    chosen_loss,
    implicit_rewards,
    likeliest_other,
    preference_loss,
)
from diptych.recipes._shared.language.bridges import BridgeBatch
from diptych.recipes._shared.language.multilingual_config import AdapterConfig
from diptych.recipes._shared.language.preference_config import PreferenceLoss
from diptych.recipes._shared.language.visual_instruction import DialogueBatch, VisualInstructionRecipe
from diptych.train.engines.companions import frozen_copy
from diptych.train.engines.preference import scored_samples

BASE = "base_layer."
"""In the name of a weight beneath an adapter, as peft has it."""


@dataclass(frozen=True)
class AnswerPairBatch(DialogueBatch):
    """reference_B  log-probabilities of the reference, nats, summed over the answer's tokens; None: not known yet"""

    reference_B: Rows[Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class PreferencePairRecipe(VisualInstructionRecipe):
    """A LLaVA that goes on to learn which of two answers about an image is better.

    loss           of a pair: form, beta, the weight of the chosen answer's likelihood, where the reference comes from (`PreferenceLoss`)
    tuned          low-rank adapters that are all that learns of the language model from pairs (`AdapterConfig`, its fields are options);
                   rank 0: all of it learns, and the projector
    adapted_projector  the projector learns beside adapters, too
    start_share    share of the steps for LLaVA's own stages before the first pairs; 0 where a trained model is the start (`weights_from`)
    described      share of the rows of the dialogue stage that are the request and a text of the image, in place of its questions
    request        what asks for a description; "": the questions of a sample are the instructions, and nothing is described
    pair_batch_size, pair_lr, pair_warmup, pair_weight_decay, pair_length  of pairs; the last is the tokens of a row at most
    pair_resize    `resize` of the images of pairs while they are learned from; "": as elsewhere
    released_scoring  STIC's trainer as released: in place of each of a rejected answer's tokens the likeliest token that is not the
                   answer's counts
    """

    engine: ClassVar[str] = "preference"
    pairs_come_from: ClassVar[str] = "some: more candidates or instructions"
    """What gives pairs, for the error where there are none."""

    loss: PreferenceLoss = field(default_factory=PreferenceLoss)
    tuned: AdapterConfig = field(default_factory=lambda: AdapterConfig(adapter_rank=0))
    adapted_projector: bool = False
    start_share: float = 0.0
    described: float = 0.5
    request: str = ""
    pair_batch_size: int = 8
    pair_lr: float = 5e-7
    pair_warmup: float = 0.05
    pair_weight_decay: float = 0.01
    pair_length: int = 2048
    pair_resize: Literal["", "crop", "squash", "pad", "native", "square"] = ""
    released_scoring: bool = False

    pairs: bool = field(default=False, metadata={"prepared": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.start_share < 1 or not 0 <= self.described <= 1:
            raise ConfigError(
                f"start_share {self.start_share:g}, described {self.described:g} (expected shares, the first below 1)"
            )

    # ------------------------------------------------------------ data

    def prepare(self, data: Dataset) -> Self:
        """Refuses data without samples for LLaVA's own stages first, before a language model is trained."""
        for stage in self.start_stages():
            if stage.keep is not None and not any(stage.keep(data[row]) for row in range(len(data))):
                raise ConfigError(
                    f"'{data.name}' has no samples for the stage '{stage.name}' before the pairs (expected some, or start_share 0 with "
                    "weights_from, the address of a trained model)"
                )
        return super().prepare(data)

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        if not self.pairs:
            return super().load(sample, rng)
        if not has_preference(sample):
            raise DataError(f"sample '{sample.uid}' has no pair of answers", field=PREFERENCE_FIELD, expected="one")
        return super(VisualInstructionRecipe, self).load(sample, rng)

    def dialogue_row(self, draw: Draw) -> tuple[list[Piece], bool]:
        texts = draw.sample.positives(self.language)
        asked = questions_of(draw.sample)
        if texts and self.request and (not asked or draw.rng.random() < self.described):
            return self.turn_row(draw, [(self.request, choose_text(draw, self.language).string)])
        return super().dialogue_row(draw)

    def has_dialogue(self, sample: Sample) -> bool:
        return super().has_dialogue(sample) or bool(self.request and self.has_caption(sample))

    def batch(self, draws: Draws) -> BridgeBatch:
        if not self.pairs:
            return super().batch(draws)
        given = [preference_of(draw.sample) for draw in draws]
        rows, cut = list[list[Piece]](), 0
        for draw, pair in zip(draws, given, strict=True):
            for answer in (pair.chosen, pair.rejected):
                row, longer = self.turn_row(draw, [*pair.turns, (pair.question, answer)])
                rows.append(last_answer_only(row) if pair.turns else row)
                cut += longer
        twice = tuple(one for draw in draws for one in (replace(draw, rng=copy.deepcopy(draw.rng)), draw))
        made = self.laid(replace(draws, items=twice), rows)
        values = {each.name: getattr(made, each.name) for each in fields(made)} | {"truncated": made.truncated + cut}
        return AnswerPairBatch(**values, reference_B=_stored_references(given))

    # ------------------------------------------------------------ model

    @property
    def adapts(self) -> bool:
        """True where adapters are what learns of the language model."""
        return self.pairs and self.tuned.adapter_rank > 0

    @property
    def _resize(self) -> Any:
        return self.pair_resize if self.pairs and self.pair_resize else super()._resize

    @property
    def trained(self) -> tuple[str, ...]:
        if self.adapts:
            return ("connector",) if self.adapted_projector else ()
        return ("connector", "language") if self.pairs else super().trained

    def model(self) -> Bridge:
        bridge = super().model()
        if self.released_scoring:
            made = PreferenceBridge(
                bridge.encoder, bridge.connector, bridge.language, trained=self.trained, awake=self.awake, blind=self.blind
            )
            made.other = likeliest_other
            bridge = made
        if self.adapts:
            config = self.tuned
            targets = config.adapter_targets or inner_linear_maps(bridge.language.inner)
            add_adapters(
                bridge.language.inner,
                LoRAConfig(config.adapter_rank, targets, config.adapter_alpha, config.adapter_dropout),
            )
        return bridge

    def stored(self, name: str) -> bool:
        """A frozen language model is kept too, unless it is loaded again from `weights_from` or a folder as it is."""
        if name.startswith("language.") and self.adapts:
            return MARK in name or not self._unchanged_language
        return super().stored(name)

    def fitted(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Weights of a model without adapters under the names that they have beneath adapters, too."""
        return beneath_adapters(tensors) if self.adapts else tensors

    @property
    def _unchanged_language(self) -> bool:
        return bool(self.weights_from) and not self.start_share

    def companions(self, model: nn.Module) -> dict[str, nn.Module]:
        """A copy of the model in a phase of pairs whose reference is a model; else none."""
        return {"reference": frozen_copy(model)} if self.pairs and self.loss.reference == "model" else {}

    def judged(self, batch: AnswerPairBatch, answers: Mapping[str, AnswerLikelihood]) -> AnswerPairBatch:
        return replace(batch, reference_B=self.row_scores(answers["reference"]))

    def row_scores(self, features: AnswerLikelihood) -> Tensor:
        """[B]: log-probability of each row's answer, as the loss takes it."""
        score_B = -features.nll_B
        if not self.released_scoring:
            return score_B
        if not isinstance(features, OtherLikelihood):
            raise ConfigError("released_scoring needs the likeliest other tokens (expected features of a PreferenceBridge)")
        rejected_B = torch.arange(len(score_B), device=score_B.device) % 2 == 1
        return torch.where(rejected_B, features.other_B, score_B)

    def pair_log_probs(self, features: AnswerLikelihood, batch: BridgeBatch) -> PairLogProbs:
        """[P] each. Raises DataError where the reference has not scored the pairs."""
        reference_B = batch.reference_B if isinstance(batch, AnswerPairBatch) else None
        if reference_B is None:
            raise DataError(
                "the pairs have no log-probabilities of a reference",
                field="reference_chosen, reference_rejected",
                expected="both, or the loss's reference 'model'",
            )
        score_B, count_B = self.row_scores(features), features.count_B
        reference_B = reference_B.to(score_B)
        return PairLogProbs(score_B[::2], score_B[1::2], reference_B[::2], reference_B[1::2], count_B[::2], count_B[1::2])

    def losses(self, features: AnswerLikelihood, batch: BridgeBatch) -> dict[str, Tensor]:
        if not self.pairs:
            return super().losses(features, batch)
        pairs, loss = self.pair_log_probs(features, batch), self.loss
        losses = {"preference": preference_loss(pairs, beta=loss.beta, form=loss.form, average=loss.average).mean()}
        if loss.chosen_weight:
            losses["chosen"] = loss.chosen_weight * chosen_loss(pairs)
        return losses

    def metrics(self, features: AnswerLikelihood, batch: BridgeBatch) -> dict[str, Tensor]:
        if not self.pairs:
            return super().metrics(features, batch)
        pairs = self.pair_log_probs(features, batch)
        chosen_P, rejected_P = implicit_rewards(pairs, self.loss.beta)
        return {
            "reward_accuracy": (chosen_P > rejected_P).float().mean(),
            "reward_margin": (chosen_P - rejected_P).mean(),
            "chosen_log_prob": pairs.chosen_B.detach().mean(),
            "rejected_log_prob": pairs.rejected_B.detach().mean(),
        }

    def optimiser(self) -> Optimiser:
        chosen = super().optimiser()
        if not self.pairs:
            return chosen
        rules = (Rule("^connector", lr_scale=0.0),) if self.adapts and not self.adapted_projector else ()
        return replace(chosen, rules=(*rules, *chosen.rules))

    # ------------------------------------------------------------ stages

    def paired(self) -> PreferencePairRecipe:
        """The recipe of a phase of pairs."""
        return replace(
            self,
            instruct=True,
            pairs=True,
            batch_size=self.pair_batch_size,
            lr=self.pair_lr,
            warmup=self.pair_warmup,
            weight_decay=self.pair_weight_decay,
            text_length=self.pair_length,
            group_by_length=False,
        )

    def start_stages(self) -> list[Stage]:
        """LLaVA's own stages, with their share of the steps; none where a trained model is the start."""
        stages = super().stages() if self.start_share else ()
        return [replace(stage, share=stage.share * self.start_share) for stage in stages]

    def with_references(self, run: Trainer, samples: Iterable[Sample]) -> list[Sample]:
        """Samples of pairs with the log-probabilities of the run's model as it is, where the loss wants them stored.

        Raises ConfigError where there is no pair, and DataError for one whose likelihood is not finite.
        """
        given = list(samples)
        if not given:
            raise ConfigError(f"'{self.slug}' found no pair of answers to learn from (expected {self.pairs_come_from})")
        if self.loss.reference == "model":
            return given
        scored: list[Sample] = []
        recipe = cast(PreferencePairRecipe, run.recipe)
        for some, _, features in scored_samples(run, given, size=recipe.batch_size):
            scores = recipe.row_scores(features).double().cpu()
            if not bool(torch.isfinite(scores).all()):
                row = int((~torch.isfinite(scores)).nonzero()[0]) // 2
                raise DataError(
                    f"sample '{some[row].uid}' has an answer of likelihood 0", field=PREFERENCE_FIELD, expected="finite nats"
                )
            for sample, (chosen, rejected) in zip(some, scores.reshape(-1, 2).tolist(), strict=True):
                pair = replace(preference_of(sample), reference_chosen=chosen, reference_rejected=rejected)
                scored.append(replace(sample, extras={PREFERENCE_FIELD: pair.to_json()}))
        return scored

    def deploy_plain(self, model: Any) -> BridgeGenerator:
        """The model as it answers at once, its adapters merged."""
        made = super().deploy(merged(model))
        made.request = self.request
        return made

    def deploy(self, model: Bridge) -> BridgeGenerator:
        return self.deploy_plain(model)


def last_answer_only(row: Sequence[Piece]) -> list[Piece]:
    """A dialogue's pieces, of whose answers the last alone is scored."""
    last = max((index for index, piece in enumerate(row) if isinstance(piece, TokenPiece) and piece.answer), default=-1)
    return [
        replace(piece, answer=False) if isinstance(piece, TokenPiece) and index != last else piece
        for index, piece in enumerate(row)
    ]


def _stored_references(given: Sequence[Any]) -> Tensor | None:
    stored = [pair.reference for pair in given]
    if any(pair is None for pair in stored):
        return None
    return torch.tensor([value for pair in stored for value in pair], dtype=torch.get_default_dtype())


def inner_linear_maps(inner: Any) -> tuple[str, ...]:
    """Patterns of the linear maps of a language model, but the one that gives words."""
    head = inner.get_output_embeddings()
    return tuple(f"^{name}$" for name, module in inner.named_modules() if type(module) is nn.Linear and module is not head)


def beneath_adapters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with those of the language model also under the names that they have beneath adapters."""
    beneath = {
        f"{module}.{BASE}{kind}": tensor
        for name, tensor in tensors.items()
        for module, _, kind in [name.rpartition(".")]
        if name.startswith("language.") and MARK not in name
    }
    return {**tensors, **beneath}


@torch.no_grad()
def carry_beneath_adapters(before: nn.Module, after: nn.Module) -> None:
    """Copies weights into a module that may have adapters where the one before has none, or none where that one has some, which are then
    merged; adapters go on where both have them."""
    source = before.state_dict()
    if any(MARK in name for name in source) and not any(MARK in name for name in after.state_dict()):
        source = merged(before).state_dict()
    for name, tensor in after.state_dict().items():
        plain = name.replace(BASE, "")
        carried = source.get(name, source.get(plain))
        if carried is not None and carried.shape == tensor.shape:
            tensor.copy_(carried)
