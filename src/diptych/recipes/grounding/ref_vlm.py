"""REF-VLM: a language model answers with triplets of phrase, unit and targets, whose reference tokens become boxes and masks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, Self

import numpy as np
import torch
from tokenizers import AddedToken
from torch import Tensor, nn

from diptych.core.contracts import Dataset, Draws, Optimiser, Rule, Stage
from diptych.core.errors import ConfigError, DataError
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import pixels
from diptych.data.media.square_frame import SquareFrame
from diptych.data.media.transforms import Preprocess
from diptych.data.points.body_points import body_points
from diptych.data.text.prompts.layout import TextPiece, lay_out
from diptych.data.text.prompts.referring_turns import TASKS, AnswerForm, ReferringTask, ReferringTurn, draw_turn, referring_row
from diptych.data.text.prompts.triplets import REFERENCE, SPECIAL_TOKENS, Unit
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.bridge import AnswerLikelihood, Bridge
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.models.referring.referring_bridge import ReferringBridge, ReferringFeatures
from diptych.models.referring.referring_model import ReferringModel, ReferringShape
from diptych.models.referring.region_prompts import Cells
from diptych.models.referring.released import take_backbone_, take_ref_vlm_
from diptych.models.referring.target_decoders import DecoderSize
from diptych.objectives.boxes.boxes import cxcywh_from_xyxy
from diptych.objectives.boxes.grouped_targets import Matching, box_losses, mask_losses
from diptych.objectives.boxes.key_points import SIGMAS, Nearness, key_point_losses
from diptych.recipes._shared.language.bridges import BridgeBatch
from diptych.recipes._shared.language.visual_instruction import VisualInstructionRecipe

CHAT = (
    "A chat between curious user and an artificial intelligence assistant capable of handling common computer vision tasks. "
    "The assistant provides an answer to the user's questions based on a specific task command.\n"
    "Capabilities and tools that assistant can possess:\n"
    "- Sentence: gives helpful, detailed, and polite answers.\n"
    "- Phrase: gives short, precise answers, follow the format of '<Phrase>phrase</Phrase>'.\n"
    "- Unit: gives answers with given unit name, follow the format of '<Unit>unit name</Unit>[number]'.\n"
    "{command}\nUSER: {image}\n{prompt} ASSISTANT:"
)
"""The published prompt of both decoding stages."""


@dataclass(frozen=True, kw_only=True)
class ReferringBatch(BridgeBatch):
    """Rows with requests and answers, and what the references of the answers stand for.

    large_BCHW    pictures for the backbone
    region_BNHW   masks of regions that go with requests; given_BN: True on real ones
    box_BR4       true boxes, cxcywh as shares of the square; mask_BRXY: true masks; zeros where there is none
    point_BRK3    true key points as shares of the square, and COCO's visibility; bodied_BR: True where there are such
    group_BR      number of the phrase of each target, -1 for padding
    masked_B      True where targets are masks, False where they are boxes
    shown_BXY     True on the picture, False on what pads it
    """

    large_BCHW: Rows[Tensor]
    region_BNHW: Rows[Tensor]
    given_BN: Rows[Tensor]
    box_BR4: Rows[Tensor]
    mask_BRXY: Rows[Tensor]
    point_BRK3: Rows[Tensor]
    bodied_BR: Rows[Tensor]
    group_BR: Rows[Tensor]
    masked_B: Rows[Tensor]
    shown_BXY: Rows[Tensor]


@dataclass(frozen=True, slots=True)
class RegionCells:
    """Region prompts.

    cells    "grid" of squares, or "bands" of consecutive patches as the release makes them
    cell_side  cells along a side
    masked   a tenth vector is made of the mask itself
    """

    cells: Cells = "grid"
    cell_side: int = 3
    masked: bool = True


@dataclass(frozen=True, slots=True)
class TargetWeights:
    """Weights of losses and of the costs of matching.

    box, mask, pose  of all that a decoder learns, beside the answer's cross-entropy
    l1, giou, focal, dice, point, oks, seen  of the terms
    nearness   of key points: 1 - "oks", or the mean "distance" that the release computes under that name
    matching   "group": targets are matched within their phrase; "row": among all of an answer; "none": in the order of the data
    """

    box: float = 0.5
    mask: float = 0.5
    pose: float = 1.0
    l1: float = 5.0
    giou: float = 2.0
    focal: float = 20.0
    dice: float = 1.0
    point: float = 2.0
    oks: float = 2.0
    seen: float = 1.0
    nearness: Nearness = "oks"
    matching: Matching = "group"


@dataclass(frozen=True, kw_only=True)
class RefVLM(VisualInstructionRecipe):
    """REF-VLM: Triplet-Based Referring Paradigm for Unified Visual Decoding (Tai et al., 2025, arXiv 2503.07413).

    A language model that sees a picture as LLaVA's does answers with triplets: a phrase, the unit in which it is decoded, and a reference
    token for each target. The model's state at a reference is a query of a DETR decoder, which gives a box or, times the features of
    MaskFormer's pyramid, a mask. How many there are is what the language model wrote, so that there is no class "nothing". Targets of one
    phrase have no order: predictions are assigned to them within their phrase. Regions go into a prompt as nine pooled vectors and one of
    their mask. Decoders read three maps of a ConvNeXt beside the patches of the image encoder.

    The first stage trains the projector on captions; the second projector, language model, region prompts and decoders, for an answer
    (weight 1), boxes and masks. Rows are samples with regions; `extras["grounding"]` adds phrases and sentences. Wordings of requests are
    ours; the block in front of an answer and the command of a prompt are the published ones. With `key_points` references to boxes are
    decoded into key points, too, where `extras["key_points"]` has them (`body_points`). Left out: depth, whose released decoder does not
    run, SAM, and the release's adapter between states and decoders, which it loses on saving and which reads states a place earlier.
    Answers with more targets than a decoder has queries are not drawn; the release drops the rest unsaid. Not verified: steps, and the rate
    of each stage.

    tasks        of the second stage: "detection", "referring", "caption", "region"
    units        what targets may be: "box", "mask"; a sample's regions have masks or only boxes
    answers      form of answers: `AnswerForm`, whose fields are options of their own
    prompts      of regions: `RegionCells`, whose fields are options of their own
    decoders     sizes: `DecoderSize`, whose fields are options of their own
    weights      of losses: `TargetWeights`, whose fields are options of their own
    key_points   of a body: 17 as COCO has them, 14 as CrowdPose; 0: none are decoded
    backbone     that the decoders read: "timm:NAME" of strides 4, 8 and 16, or "conv_tiny"
    backbone_weights  FILE of tensors that it starts from, with the names of timm or, as CLIP's image encoder, of open_clip; "": fresh
    backbone_trained  it learns with the decoders; a fresh one must
    large_size   side in pixels that the backbone is shown
    decoder_rate learning rate of decoders and region prompts as a share of `instruct_lr`
    released_weights  "hf:FILE" of safetensors with the release's names; "": none
    max_tokens   of an answer in use
    """

    slug = "ref_vlm"

    tasks: tuple[ReferringTask, ...] = TASKS
    units: tuple[Unit, ...] = ("box", "mask")
    answers: AnswerForm = field(default_factory=AnswerForm)
    prompts: RegionCells = field(default_factory=RegionCells)
    decoders: DecoderSize = field(default_factory=DecoderSize)
    weights: TargetWeights = field(default_factory=TargetWeights)
    key_points: Literal[0, 14, 17] = 0
    backbone: str = "timm:convnext_large"
    backbone_weights: str = ""
    backbone_trained: bool = False
    large_size: int = 512
    decoder_rate: float = 1.0
    released_weights: str = ""
    max_tokens: int = 512

    template: str = CHAT
    projector_resize: Literal["crop", "squash", "pad", "native", "square"] = "square"
    decoding: Literal["reduced", "whole"] = "whole"
    batch_size: int = 32
    rows_a_mean: int = 0
    lr: float = 2e-5
    instruct_batch_size: int = 15
    instruct_lr: float = 2e-6
    instruct_rows_a_mean: int = 0
    needs = ("image", "regions")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "needs", type(self).needs)  # not those of questions without an image
        if not self.tasks or not set(self.tasks) <= set(TASKS) or not self.units or not set(self.units) <= {"box", "mask"}:
            raise ConfigError(
                f"tasks {list(self.tasks)}, units {list(self.units)} (expected some of {', '.join(TASKS)}, and of box, mask)"
            )
        if self.key_points not in (0, *SIGMAS):
            raise ConfigError(f"key_points is {self.key_points} (expected 0, 14 or 17)")
        if self.resize not in ("squash", "square"):
            raise ConfigError(f"resize is {self.resize!r}: targets would be cut off (expected squash | square)")
        if self.weights_from or self.moca:
            raise ConfigError(
                f"weights_from is {self.weights_from!r}, moca {self.moca}: not for '{self.slug}', whose language model has more words "
                "(expected language_model, image_weights and released_weights in their place)"
            )
        if "{image}" not in self.template or "{prompt}" not in self.template:
            raise ConfigError(f"template is {self.template[:60]!r} (expected {{image}} and {{prompt}} in it)")

    @property
    def measured_by(self) -> str:
        return "open_detection"

    def words(self) -> LanguageVocabulary:
        """The language model's vocabulary with the marks of triplets as tokens."""
        return LanguageVocabulary(_with_marks(super().words().tokenizer.to_json()), start=self.start)

    # ------------------------------------------------------------ data

    def prepare(self, data: Dataset) -> Self:
        """As `VisualInstructionRecipe`. Raises ConfigError for a backbone that is fresh and does not learn, and where region cells do not
        divide the patches of the image encoder."""
        if not self.backbone_trained and not self.backbone_weights:
            raise ConfigError(
                f"backbone {self.backbone} does not learn and has no weights (expected backbone_weights=FILE, or backbone_trained)"
            )
        prepared = super().prepare(data)
        side, cells = math.isqrt(prepared.slots), self.prompts.cell_side
        if side * side != prepared.slots or side % cells:
            raise ConfigError(
                f"cell_side is {cells} for {prepared.slots} patches (expected a divisor of the side of a square of them)"
            )
        return prepared

    def has_dialogue(self, sample: Sample) -> bool:
        """True if the second stage trains on the sample."""
        return sample.image is not None and bool(sample.regions)

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        if not self.instruct:
            return super().load(sample, rng)
        turn = draw_turn(sample, self.tasks, self._most, self.answers, rng) if self.has_dialogue(sample) else None
        if turn is None:
            raise DataError(
                f"sample '{sample.uid}' has no annotation for a question",
                field="regions",
                expected=f"what {list(self.tasks)} need",
            )
        return {**super().load(sample, rng), "turn": turn}

    @property
    def _most(self) -> dict[Unit, int]:
        sizes: dict[Unit, int] = {"box": self.decoders.box_queries, "mask": self.decoders.mask_queries}
        return {unit: sizes[unit] for unit in self.units}

    def batch(self, draws: Draws) -> BridgeBatch:
        if not self.instruct:
            return super().batch(draws)
        turns: list[ReferringTurn] = [draw.media["turn"] for draw in draws]
        region_tokens = self.prompts.cell_side**2 + self.prompts.masked
        rows = [
            [
                *referring_row(self.template, turn.command, turn.request, self.slots, region_tokens),
                TextPiece(self.answer_space + turn.answer, answer=True),
            ]
            for turn in turns
        ]
        laid = lay_out(rows, self.words(), length=self.text_length, names=[draw.sample.uid for draw in draws])
        shown = [pixels(draw) for draw in draws]
        size, count = self.preprocess.size, len(turns)
        most = max(1, *(sum(map(len, turn.targets)) for turn in turns))
        given = max(1, *(len(turn.given) for turn in turns))
        box_BR4, group_BR = torch.full((count, most, 4), 0.5), torch.full((count, most), -1)
        mask_BRXY = torch.zeros(count, most, size, size, dtype=torch.bool)
        point_BRK3 = torch.zeros(count, most, self.key_points, 3)
        bodied_BR = torch.zeros(count, most, dtype=torch.bool)
        region_BNHW = torch.zeros(count, given, size, size, dtype=torch.bool)
        given_BN = torch.zeros(count, given, dtype=torch.bool)
        shown_BXY = torch.zeros(count, size, size, dtype=torch.bool)
        for row, (draw, turn, image_HWC) in enumerate(zip(draws, turns, shown, strict=True)):
            frame = SquareFrame(image_HWC.shape[0], image_HWC.shape[1], self._resize)
            regions = draw.sample.regions
            shown_BXY[row] = torch.from_numpy(frame.shown(size))
            targets = [(group, number) for group, numbers in enumerate(turn.targets) for number in numbers]
            for index, (group, number) in enumerate(targets):
                group_BR[row, index] = group
                box_BR4[row, index] = cxcywh_from_xyxy(torch.from_numpy(frame.to_square(regions[number].box)))[0]
                if (body := body_points(draw.sample, number, self.key_points, frame)) is not None and turn.unit == "box":
                    point_BRK3[row, index], bodied_BR[row, index] = torch.from_numpy(body), True
                if turn.unit == "mask":
                    mask_BRXY[row, index] = torch.from_numpy(frame.region_to_square(regions[number], size))
            for index, number in enumerate(turn.given):
                region_BNHW[row, index] = torch.from_numpy(frame.region_to_square(regions[number], size))
                given_BN[row, index] = True
        return ReferringBatch(
            self.preprocess(shown),
            *(laid.id_BL, laid.slot_BL, laid.mask_BL, laid.answer_BL, laid.truncated, laid.places),
            large_BCHW=replace(self.preprocess, size=self.large_size)(shown),
            region_BNHW=region_BNHW,
            given_BN=given_BN,
            box_BR4=box_BR4,
            mask_BRXY=mask_BRXY,
            point_BRK3=point_BRK3,
            bodied_BR=bodied_BR,
            group_BR=group_BR,
            masked_B=torch.tensor([turn.unit == "mask" for turn in turns]),
            shown_BXY=shown_BXY,
        )

    # ------------------------------------------------------------ model

    @property
    def preprocess(self) -> Preprocess:
        """Pictures are shown to their edges, also where the image encoder's own are cut: a target may lie there."""
        return replace(super().preprocess, margin=0)

    @property
    def shape(self) -> ReferringShape:
        """Parts of the network beside encoder and language model."""
        strides = {"strides": (4, 8, 16)} if self.backbone.startswith("timm:") else {}
        return ReferringShape(
            connector=self.connector_spec(),
            regions={"cells": self.prompts.cells, "side": self.prompts.cell_side, "masked": self.prompts.masked},
            backbone={"name": self.backbone, **strides},
            decoders=self.decoders,
            masks="mask" in self.units,
            reference_id=self.words().pieces(REFERENCE)[0],
            points=self.key_points,
        )

    def _language_model(self) -> LanguageModel:
        language = super()._language_model()
        language.inner.resize_token_embeddings(self.words().tokenizer.vocab_size, mean_resizing=False)
        return LanguageModel.adopted(language.inner)

    def model(self) -> Bridge:
        bridge = self.shape.build(
            self._encoder(),
            self._language_model(),
            decodes=self.instruct,
            fixed_backbone=not self.backbone_trained,
            trained=self.trained,
            awake=self.awake,
            blind=self.blind,
        )
        if self.match_norms:
            bridge.match_norms_(torch.randn(4, 3, self.image_size, self.image_size))
        if self.backbone_weights:
            take_backbone_(bridge.backbone, self.backbone_weights)
        if self.released_weights:
            take_ref_vlm_(bridge, self.released_weights)
        return bridge

    def features(self, model: Bridge, batch: BridgeBatch) -> AnswerLikelihood:
        if not isinstance(batch, ReferringBatch):
            return super().features(model, batch)
        assert isinstance(model, ReferringBridge)
        most = batch.group_BR.shape[1]
        return model.refer(batch.image_BCHW, batch.large_BCHW, batch.layout, most, batch.region_BNHW, batch.given_BN)

    def losses(self, features: AnswerLikelihood, batch: BridgeBatch) -> dict[str, Tensor]:
        losses = super().losses(features, batch)
        if not isinstance(features, ReferringFeatures) or not isinstance(batch, ReferringBatch):
            return losses
        weights = self.weights
        group_BR = batch.group_BR.masked_fill(
            ~features.open_BR, -1
        )  # of an answer that was cut, references at the end are missing
        boxed_BR, masked_BR = (group_BR.masked_fill(apart_B[:, None], -1) for apart_B in (batch.masked_B, ~batch.masked_B))
        options: dict[str, Any] = {"matching": weights.matching}
        terms = box_losses(features.box_BR4, batch.box_BR4, boxed_BR, l1=weights.l1, giou=weights.giou, **options)
        losses |= {f"box_{name}": weights.box * term for name, term in terms.items()}
        if features.mask_BRHW is not None:
            count = features.mask_BRHW.shape[1]
            given = (features.mask_BRHW, batch.mask_BRXY[:, :count], masked_BR[:, :count], batch.shown_BXY)
            terms = mask_losses(*given, focal=weights.focal, dice=weights.dice, **options)
            losses |= {f"mask_{name}": weights.mask * term for name, term in terms.items()}
        if (made := features.points) is not None:
            count = made.box_BR4.shape[1]
            group_BR = boxed_BR.masked_fill(~batch.bodied_BR, -1)[:, :count]
            true = (batch.point_BRK3[:, :count], batch.box_BR4[:, :count], group_BR)
            sizes = {"points": weights.point, "oks": weights.oks, "seen": weights.seen, "nearness": weights.nearness}
            own: dict[str, Any] = {"l1": weights.l1, "giou": weights.giou, **sizes, **options}
            terms = key_point_losses(made.point_BRK2, made.visible_BRK2, made.box_BR4, *true, **own)
            losses |= {f"pose_{name}": weights.pose * term for name, term in terms.items()}
        return losses

    def optimiser(self) -> Optimiser:
        chosen = replace(super().optimiser(), warmup_from=1e-5, warmup_peak="last", warmup_rounds="down")
        if self.decoder_rate == 1:
            return chosen
        fresh = Rule(r"^(boxes|masks|points|regions|backbone)\.", lr_scale=self.decoder_rate)
        return replace(chosen, rules=(fresh, *chosen.rules))

    def stages(self) -> Sequence[Stage]:
        return [replace(stage, carry=_carry) if number else stage for number, stage in enumerate(super().stages())]

    def deploy(self, model: Bridge) -> ReferringModel:  # type: ignore[override]
        assert isinstance(model, ReferringBridge)
        return ReferringModel(
            model,
            self.shape,
            self._shown_in_use,
            self.large_size,
            self.words(),
            self.template,
            self.answers,
            self.slug,
            space=self.answer_space,
            length=self.text_length,
            max_tokens=self.max_tokens,
        )

    @property
    def _shown_in_use(self) -> Preprocess:
        return replace(self.preprocess, resize=self.resize)

    @classmethod
    def tiny(cls) -> Self:
        """Boxes and masks of 64-pixel scenes: a small language model and image encoder that are made first, a small backbone."""
        return cls(
            **{**cls.small(), "text_length": 224, "template": "{image} {command} : {prompt}"},
            answers=AnswerForm(commanded=False),
            decoders=DecoderSize(
                box_queries=8, mask_queries=8, width=64, heads=4, mlp_width=128, layers=2, dropout=0.0, mask_width=64
            ),
            prompts=RegionCells(cell_side=2),
            backbone="conv_tiny",
            backbone_trained=True,
            large_size=64,
            projector_share=0.2,
            max_tokens=96,
        )

    @classmethod
    def paper(cls) -> Self:
        """CLIP-L/14 at 336 pixels and CLIP's ConvNeXt-L at 512 before Vicuna-7B 1.5; boxes and masks. Each of the eight processes of the
        released commands has 32 rows of a step, then 15, over which it takes the mean of an answer's tokens; terms of boxes and masks are
        means over a whole step here."""
        return cls(
            image_tower="vit_l14",
            image_size=336,
            batch_size=256,
            rows_a_mean=32,
            instruct_batch_size=120,
            instruct_rows_a_mean=15,
        )


@lru_cache(maxsize=4)
def _with_marks(spec: str) -> Tokenizer:
    """A tokenizer in which every mark of a triplet is one token, which stays in a decoded text."""
    changed = Tokenizer.from_spec(Tokenizer.from_spec(spec).to_json())
    changed.inner.add_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    return changed


def _carry(before: nn.Module, after: nn.Module) -> None:
    """All goes on: region prompts and decoders are fresh in both stages."""
    after.load_state_dict(before.state_dict())
