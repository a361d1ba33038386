"""Croc: a pre-training stage between projector and dialogues, in which the language model reconstructs replaced image tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from diptych.core.contracts import Draw, Draws, Optimiser, Rule, Stage
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_seed
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import choose_text
from diptych.data.text.prompts.layout import Piece
from diptych.data.text.question_answering.questions import questions_of
from diptych.models.bridges.attention_masks import Open
from diptych.models.bridges.bridge import AnswerLikelihood, Bridge
from diptych.models.bridges.comprehension import ComprehensionBridge, ComprehensionLikelihood
from diptych.models.bridges.token_replacement import Assign, ReconstructionHead, TokenPool, choose_tokens
from diptych.recipes._shared.language.bridges import BridgeBatch
from diptych.recipes._shared.language.visual_instruction import VisualInstructionRecipe


@dataclass(frozen=True)
class ComprehensionBatch(BridgeBatch):
    """chosen_BK  image tokens that are replaced"""

    chosen_BK: Rows[Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Croc(VisualInstructionRecipe):
    """Croc: Pretraining Large Multimodal Models with Cross-Modal Comprehension (Xie et al., 2024, arXiv 2410.14332).

    As LLaVA, with image tokens of norm 1 and a stage between its two, in which projector, language model, pool and head are trained on long
    captions: of an image's tokens three quarters are replaced by rows of a learned pool, all that stands before the answer is read in both
    directions, and a head turns the language model's states at the image's places into the tokens that the projector made. The loss is that
    of the caption and ten times a smooth L1 over all of an image's tokens. Pool and head are used there alone.

    The paper assigns rows by the Hungarian method; the released code takes the nearest row (`assign`), which with a fresh pool, whose
    rows are far longer than tokens, is the same row for nearly all. `pool_perplexity` and `pool_most` in the log say how the pool is used.
    The released optimiser has a rate of 1.5e-4 for the projector in all three stages, whatever its scripts ask for (`projector_lr`).
    Both are in the preset `released`. The mask of the release is a number, which current transformers would add to scores: here it is
    bool, and padding stays closed.

    replaced      share of an image's tokens that are replaced; 0: a stage of captions alone, with the mask and the head
    pool_rows     of the pool
    assign        "hungarian" or "nearest"
    unit_pool     rows are scaled to norm 1
    open          what is read in both directions in that stage: "prefix", "image" or "none"
    reconstruction_weight  of the smooth L1; reconstruction_beta: where it turns from square to line
    head_layers   of the head
    request       what asks for a caption in that stage, where a sample brings no questions
    comprehension_share  share of the steps that the stage between takes
    comprehension_batch_size  rows of a step of that stage
    comprehension_lr  learning rate of that stage
    comprehension_warmup  share of its steps in which the rate rises
    comprehension_rows_a_mean  rows over which its loss is averaged
    comprehension_length  tokens of a row at most
    dialogue_length  tokens of a dialogue at most
    projector_lr  of the projector in every stage; 0: the rate of the stage
    group_by_length  rows of a step of long captions or dialogues are of similar length (`LengthGroupedOrder`)
    """

    slug = "croc"
    presets = ("tiny", "paper", "released")

    replaced: float = 0.75
    pool_rows: int = 2048
    assign: Assign = "hungarian"
    unit_pool: bool = False
    open: Open = "prefix"
    reconstruction_weight: float = 10.0
    reconstruction_beta: float = 0.01
    head_layers: int = 1
    request: str = "Describe the image in detail."
    comprehension_share: float = 0.6
    comprehension_batch_size: int = 128
    comprehension_lr: float = 2e-5
    comprehension_warmup: float = 0.03
    comprehension_rows_a_mean: int = 4
    comprehension_length: int = 8192
    dialogue_length: int = 4096
    projector_lr: float = 0.0

    projector_share: float = 0.1
    rows_a_mean: int = 8
    instruct_rows_a_mean: int = 8

    comprehends: bool = field(default=False, metadata={"prepared": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.comprehension_share < 0 or self.projector_share + self.comprehension_share > 1:
            raise ConfigError(
                f"shares {self.projector_share} and {self.comprehension_share} of two stages (expected 0 or more, 1 at most together)"
            )
        if self.projector_lr < 0:
            raise ConfigError(f"projector_lr is {self.projector_lr:g} (expected above 0, or 0 for the rate of each stage)")
        kept = int(self.slots * (1 - self.replaced))
        if self.assign == "hungarian" and self.slots - kept > self.pool_rows:
            raise ConfigError(
                f"pool_rows is {self.pool_rows} for {self.slots - kept} replaced tokens (expected as many, or assign 'nearest')"
            )

    def connector_spec(self) -> dict[str, Any]:
        return {"kind": "mlp", "unit": True}

    # ------------------------------------------------------------ data

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        if self.comprehends and not self.has_detail(sample):
            raise DataError(f"sample '{sample.uid}' has no image with a text", field="texts", expected="one")
        return super().load(sample, rng) if not self.comprehends else super(VisualInstructionRecipe, self).load(sample, rng)

    def has_detail(self, sample: Sample) -> bool:
        """True if the comprehension stage trains on the sample."""
        return sample.image is not None and bool(sample.positives(self.language) or questions_of(sample))

    def row_words(self, sample: Sample) -> int:
        captions = sample.positives(self.language) if self.comprehends else ()
        return len(f"{self.request} {captions[0].string}".split()) + 1 if captions else super().row_words(sample)

    def dialogue_row(self, draw: Draw) -> tuple[list[Piece], bool]:
        if not self.comprehends or not draw.sample.positives(self.language):
            return super().dialogue_row(draw)
        return self.turn_row(draw, [(self.request, choose_text(draw, self.language).string)])

    def batch(self, draws: Draws) -> BridgeBatch:
        made = super().batch(draws)
        if not self.comprehends:
            return made
        generator = torch.Generator().manual_seed(keyed_seed("croc", int(draws.rng.integers(2**31))))
        values = {each.name: getattr(made, each.name) for each in fields(BridgeBatch)}
        return ComprehensionBatch(**values, chosen_BK=choose_tokens(len(made), self.slots, self.replaced, generator))

    # ------------------------------------------------------------ model

    def fresh_bridge(self) -> Bridge:
        bridge = super().fresh_bridge()
        if not self.comprehends:
            return bridge
        width = bridge.language.width
        return ComprehensionBridge(
            bridge.encoder,
            bridge.connector,
            bridge.language,
            pool=TokenPool(self.pool_rows, width, assign=self.assign, unit=self.unit_pool),
            head=ReconstructionHead(width, self.slots, layers=self.head_layers),
            open=self.open,
            beta=self.reconstruction_beta,
            trained=self.trained,
            awake=self.awake,
            blind=self.blind,
        )

    def features(self, model: Bridge, batch: BridgeBatch) -> AnswerLikelihood:
        if not isinstance(batch, ComprehensionBatch):
            return super().features(model, batch)
        written: ComprehensionLikelihood = model(batch.image_BCHW, batch.layout, batch.chosen_BK)
        return written

    def losses(self, features: AnswerLikelihood, batch: BridgeBatch) -> dict[str, Tensor]:
        losses = super().losses(features, batch)
        if isinstance(features, ComprehensionLikelihood):
            losses["reconstruction"] = self.reconstruction_weight * features.reconstruction_B.mean()
        return losses

    def metrics(self, features: AnswerLikelihood, batch: BridgeBatch) -> dict[str, Tensor]:
        metrics = super().metrics(features, batch)
        if isinstance(features, ComprehensionLikelihood):
            cosine = features.cosine_B.mean().detach()
            used = {"pool_perplexity": features.perplexity.mean(), "pool_most": features.most.amax()}
            metrics |= {"reconstruction_cosine": cosine, **{name: value.detach() for name, value in used.items()}}
        return metrics

    def optimiser(self) -> Optimiser:
        chosen = super().optimiser()
        if not self.projector_lr:
            return chosen
        return replace(chosen, rules=(Rule(r"^connector\.", lr_scale=self.projector_lr / self.lr), *chosen.rules))

    def stages(self) -> Sequence[Stage]:
        if self.instruct:
            return ()
        between = replace(
            self,
            instruct=True,
            comprehends=True,
            text_rows=False,
            batch_size=self.comprehension_batch_size,
            lr=self.comprehension_lr,
            warmup=self.comprehension_warmup,
            rows_a_mean=self.comprehension_rows_a_mean,
            text_length=self.comprehension_length,
        )
        middle = Stage("comprehension", between, self.comprehension_share, keep=self.has_detail, carry=_carry)
        outer = super().stages()
        first, last = outer[:-1], outer[-1]
        dialogues = replace(cast(Croc, last.recipe), text_length=self.dialogue_length)
        rest = replace(last, recipe=dialogues, share=1 - self.projector_share - self.comprehension_share, carry=_carry)
        stages = [*first, middle, rest]
        return tuple(stage for stage in stages if stage.share > 1e-9)

    @classmethod
    def tiny(cls) -> Self:
        """A pool of 64 rows of norm 1 for the 12 of 16 tokens that are replaced, small models that are made first: minutes on two cores."""
        settings = {**cls.small(), "match_norms": False}
        return cls(
            **settings,
            pool_rows=64,
            unit_pool=True,
            request="",
            projector_share=0.2,
            comprehension_share=0.4,
            comprehension_batch_size=32,
            comprehension_lr=1e-3,
            comprehension_rows_a_mean=0,
            comprehension_length=128,
            dialogue_length=128,
        )

    @classmethod
    def paper(cls) -> Self:
        """CLIP-L/14 at 336 pixels before Vicuna-7B 1.5: 2,180 steps of 256 captions, 11,718 of 128 long ones, 5,198 of 128 dialogues; a
        mean is of 8, 4 and 8 rows."""
        steps = 2180 + 11_718 + 5198
        return cls(
            image_tower="vit_l14",
            image_size=336,
            decoding="whole",
            steps=steps,
            projector_share=2180 / steps,
            comprehension_share=11_718 / steps,
            group_by_length=True,
        )

    @classmethod
    def released(cls) -> Self:
        """As `paper`, but with what the released code does in place of what the paper says: the nearest row of the pool, and a projector
        that learns at 1.5e-4 in all stages."""
        return replace(cls.paper(), assign="nearest", projector_lr=1.5e-4)


def _carry(before: nn.Module, after: nn.Module) -> None:
    """Encoder, connector and language model go on; pool and head are of one stage."""
    for name in ("encoder", "connector", "language"):
        after.get_submodule(name).load_state_dict(before.get_submodule(name).state_dict())
