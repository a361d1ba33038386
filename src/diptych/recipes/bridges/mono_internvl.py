"""Mono-InternVL: no image encoder; image tokens have feed-forward layers of their own in a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from diptych.core.contracts import Dataset, Draw, Draws, Optimiser, Order, Rule, Stage
from diptych.core.errors import ConfigError, DataError
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import choose_text, pixels, texts_by_origin
from diptych.data.media.tiles import ClosestTiles
from diptych.data.media.transforms import IMAGENET_MEAN, IMAGENET_STD
from diptych.data.text.prompts.layout import Piece, lay_out
from diptych.data.text.question_answering.questions import questions_of
from diptych.models.bridges.bridge import AnswerLikelihood, Bridge
from diptych.models.bridges.mono_internvl_weights import take_mono_internvl_
from diptych.models.bridges.visual_experts import ExpertStart, attention_parameters, expert_parameters
from diptych.models.bridges.writer import BridgeGenerator
from diptych.models.towers.outputs import Tower
from diptych.models.towers.towers import image_tower
from diptych.recipes._shared.language.bridges import BridgeBatch
from diptych.recipes._shared.language.visual_instruction import VisualInstructionRecipe

Step = Literal["concept", "semantic", "alignment", "instruction"]
SYSTEM = (
    "<|im_start|>system\n你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, "
    "是一个有用无害的人工智能助手。<|im_end|>"
)
"""The system message of InternVL's chats, as published."""
USER, ASSISTANT = "<|im_start|>user\n", "<|im_end|><|im_start|>assistant\n"


@dataclass(frozen=True)
class TileBatch(BridgeBatch):
    """image_BCHW  the first tile of each row, black where a row has no image
    more_BMCHW  the others; there_BM: which tiles a row has, the first among them
    tile_T      the places of these among all M of all rows, found on the host; None: they have to be searched for
    """

    more_BMCHW: Rows[Tensor] | None = None
    there_BM: Rows[Tensor] | None = None
    tile_T: Tensor | None = None

    def rows(self, start: int, stop: int) -> Self:
        whole = start == 0 and stop >= len(self)
        return self if whole else replace(super().rows(start, stop), tile_T=None)


@dataclass(frozen=True, kw_only=True)
class MonoInternVL(VisualInstructionRecipe):
    """Mono-InternVL: Pushing the Boundaries of Monolithic Multimodal Large Language Models with Endogenous Visual Pre-training (Luo et al.,
    2024, arXiv 2410.08202).

    Tiles of an image are cut into patches by one convolution, squares of four become a token, and the tokens are read by the language model
    itself: in every layer they go through feed-forward maps of their own (`visual_experts`), chosen by what a token is and by nothing
    learned, and share attention and norms with words. The maps start as copies of those of words. Pre-training has three steps: concepts,
    on noisy captions, and semantics, on better ones, train patches, connector and experts alone, so that what the language model says of
    texts cannot change; alignment, on questions, trains attention, too. Instruction tuning trains everything. Attention is causal also
    among image tokens.

    Of the release only the instruction tuning is published (4e-5, 128, one epoch); rates of the steps before are ours. There every token
    that is read behind a cache goes through the maps of words, also those of an image in a later turn; here they are routed by what they
    are (`LanguageModel.extend`).

    experts        whether there are visual experts; False: image tokens go through the maps of words, as in one plain model
    expert_start   "copy" or "fresh"
    full           the first two steps train the whole language model, as a comparison
    patch, patch_width  pixels of a patch and width of the convolution
    most_tiles     tiles of an image at most, without the thumbnail; 1: the image is squashed to one
    thumbnail      the whole image stands behind several tiles
    detailed       origin of the texts of the semantic step; samples without such texts bring any
    request        what asks for a caption in the first two steps
    concept_share, semantic_share, alignment_share  shares of the steps; the rest is instruction tuning
    alignment_lr, instruct_lr  rates of the last two; `lr` is that of the first two
    mono_weights   "hf:FOLDER" of a published Mono-InternVL-2B whose tensors it starts from
    group_by_length  rows of a step of instructions have a similar number of tokens, whether with an image or without, as released
    decay          weight decay is on "all" parameters, as released, where DeepSpeed makes the optimiser, or on "matrices" alone
    """

    slug = "mono_internvl"

    experts: bool = True
    expert_start: ExpertStart = "copy"
    full: bool = False
    patch: int = 14
    patch_width: int = 1024
    most_tiles: int = 6
    thumbnail: bool = True
    detailed: str = "synthetic"
    request: str = "Describe the image."
    concept_share: float = 0.5
    semantic_share: float = 0.2
    alignment_share: float = 0.1
    alignment_lr: float = 4e-5
    mono_weights: str = ""
    decay: Literal["all", "matrices"] = "all"

    template: str = SYSTEM + USER + "<img>{image}</img>\n{prompt}" + ASSISTANT
    later: str = USER + "{prompt}" + ASSISTANT
    answer_end: str = "<|im_end|>"
    space: str = ""
    feature_layer: int = 0
    projector_share: float = 0.0
    image_tower: str = "patches"
    image_size: int = 448
    resize: Any = "squash"
    projector_resize: Any = "squash"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    rows_a_mean: int = 4
    instruct_rows_a_mean: int = 4
    batch_size: int = 128
    lr: float = 2e-4
    instruct_lr: float = 4e-5
    weight_decay: float = 0.01

    step: Step = field(default="concept", metadata={"prepared": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = (self.concept_share, self.semantic_share, self.alignment_share)
        if min(shares) < 0 or sum(shares) > 1 + 1e-9:
            raise ConfigError(f"shares {shares} of three steps (expected 0 or more, 1 at most together)")
        if self.image_size % (2 * self.patch):
            raise ConfigError(
                f"tiles of {self.image_size} pixels in patches of {self.patch} (expected an even number of patches per side)"
            )

    @property
    def trained(self) -> tuple[str, ...]:
        whole = self.step == "instruction" or (self.full and self.step != "alignment")
        return ("encoder", "connector", *(("language",) if whole else ()))

    @property
    def tiles(self) -> ClosestTiles:
        return ClosestTiles(self.image_size, most=self.most_tiles, thumbnail=self.thumbnail)

    def connector_spec(self) -> dict[str, Any]:
        return {"kind": "shuffled"}

    # ------------------------------------------------------------ data

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        if self.step in ("alignment", "instruction"):
            return super().load(sample, rng)
        if not self.has_caption(sample):
            raise DataError(f"sample '{sample.uid}' has no image with a text", field="texts", expected="one")
        return super(VisualInstructionRecipe, self).load(sample, rng)

    def row_order(self, data: Dataset) -> Order | None:
        return super().row_order(data) if self.step == "instruction" else None

    def row_words(self, sample: Sample) -> int:
        """Tokens of a dialogue; positive without an image, too."""
        return max(
            1, len(self.words().pieces("\n".join(text for one in questions_of(sample) for text in (one.text, one.answer))))
        )

    def _caption(self, draw: Draw) -> str:
        better = texts_by_origin(draw.sample, [self.detailed], self.language) if self.step == "semantic" else []
        return better[int(draw.rng.integers(len(better)))].string if better else choose_text(draw, self.language).string

    def batch(self, draws: Draws) -> BridgeBatch:
        cut = [[] if draw.image_HWC is None else [tile.pixels_HWC for tile in self.tiles(pixels(draw))] for draw in draws]
        rows, truncated = list[list[Piece]](), 0
        for draw, tiles in zip(draws, cut, strict=True):
            slots = self.slots * len(tiles)
            if self.step in ("concept", "semantic"):
                asked = [(self.request, self._caption(draw))]
            else:
                asked = [(question.text, question.answer) for question in questions_of(draw.sample)]
            row, longer = self.turn_row(draw, asked, slots=slots)
            rows.append(row)
            truncated += longer
        laid = lay_out(rows, self.words(), length=self.text_length, names=[draw.sample.uid for draw in draws]).with_split()
        most = max(1, *map(len, cut))
        image_BMCHW = torch.zeros(len(draws), most, 3, self.image_size, self.image_size)
        for index, tiles in enumerate(cut):
            if tiles:
                image_BMCHW[index, : len(tiles)] = self.preprocess(tiles)
        there_BM = torch.arange(most)[None] < torch.tensor([len(tiles) for tiles in cut])[:, None]
        values = {each.name: getattr(laid, each.name) for each in fields(laid)} | {"truncated": laid.truncated + truncated}
        tile_T = there_BM.flatten().nonzero()[:, 0]
        return TileBatch(image_BMCHW[:, 0], **values, more_BMCHW=image_BMCHW[:, 1:], there_BM=there_BM, tile_T=tile_T)

    # ------------------------------------------------------------ model

    def _fresh_encoder(self) -> Tower:
        return image_tower(self.image_tower, image_size=self.image_size, patch=self.patch, width=self.patch_width)

    def model(self) -> Bridge:
        bridge = super().model()
        if self.experts:
            bridge.language.add_visual_experts(start=self.expert_start)
            if self.step != "instruction":
                for parameter in expert_parameters(bridge.language.inner):
                    parameter.requires_grad_(True)
        if self.step == "alignment":
            for parameter in attention_parameters(bridge.language.inner):
                parameter.requires_grad_(True)
        if self.mono_weights:
            take_mono_internvl_(bridge, self.mono_weights)
        return bridge

    def features(self, model: Bridge, batch: BridgeBatch) -> AnswerLikelihood:
        if not isinstance(batch, TileBatch) or batch.there_BM is None or batch.more_BMCHW is None:
            raise ConfigError("mono_internvl needs batches made by its own method `batch`")
        tile_T = batch.there_BM.flatten().nonzero()[:, 0] if batch.tile_T is None else batch.tile_T
        image_NCHW = torch.cat((batch.image_BCHW[:, None], batch.more_BMCHW), 1).flatten(0, 1)[tile_T]
        count_B = batch.there_BM.sum(1)
        written: AnswerLikelihood = model(image_NCHW if len(image_NCHW) else None, batch.layout, count_B=count_B)
        return written

    def optimiser(self) -> Optimiser:
        chosen = super().optimiser()
        return replace(chosen, rules=(*chosen.rules, Rule("", decay=True))) if self.decay == "all" else chosen

    def stages(self) -> Sequence[Stage]:
        if self.step != "concept" or self.instruct:
            return ()
        rest = 1 - self.concept_share - self.semantic_share - self.alignment_share
        alignment = replace(self, step="alignment", instruct=True, lr=self.alignment_lr)
        tuning = replace(
            self,
            step="instruction",
            instruct=True,
            lr=self.instruct_lr,
            batch_size=self.instruct_batch_size,
            warmup=self.instruct_warmup,
            rows_a_mean=self.instruct_rows_a_mean,
        )
        stages = (
            Stage("concepts", replace(self, instruct=True), self.concept_share, keep=self.has_caption),
            Stage(
                "semantics",
                replace(self, step="semantic", instruct=True),
                self.semantic_share,
                keep=self.has_caption,
                carry=_carry,
            ),
            Stage("alignment", alignment, self.alignment_share, keep=self.has_dialogue, carry=_carry),
            Stage("instructions", tuning, rest, keep=self.has_dialogue, carry=_carry),
        )
        return tuple(stage for stage in stages if stage.share > 1e-9)

    def stored(self, name: str) -> bool:
        """All that has been trained so far is in checkpoints; frozen maps of words are loaded again."""
        touched = self.step in ("alignment", "instruction") or self.full
        return not name.startswith("language.") or touched or ".mlp.visual." in name

    def deploy(self, model: Bridge) -> BridgeGenerator:
        made = super().deploy(model)
        made.tiles = self.tiles
        return made

    @classmethod
    def tiny(cls) -> Self:
        """One tile of 64 pixels in patches of 8, 16 tokens, a small language model that is made first: minutes on two cores."""
        settings = {name: value for name, value in cls.small().items() if name not in ("image_weights", "projector_resize")}
        shares = {"concept_share": 0.4, "semantic_share": 0.3, "alignment_share": 0.1}
        return cls(
            **{
                **settings,
                **shares,
                "patch": 8,
                "patch_width": 64,
                "image_size": 64,
                "most_tiles": 1,
                "template": "{image} : {prompt}",
                "answer_end": "",
                "request": "",
                "lr": 2e-3,
                "alignment_lr": 1e-3,
                "instruct_lr": 1e-3,
                "batch_size": 32,
                "decay": "matrices",
            }
        )

    @classmethod
    def paper(cls) -> Self:
        """InternLM2-1.8B as `language_model` in LLaMA's form (`mono_weights` converts), tiles of 448 pixels in patches of 14, 256 tokens a
        tile, up to 6 tiles and a thumbnail. Published are 922 million noisy pairs, 258 million captions, 143 million rows of tasks and
        665,298 dialogues; choose `steps` by your data."""
        return cls(decoding="whole", steps=100_000, group_by_length=True)


def _carry(before: nn.Module, after: nn.Module) -> None:
    """Every tensor goes on; a step with other trained parts has the same ones."""
    after.load_state_dict(before.state_dict())
