"""PLLaVA: an image model applied to clips by pooling projected frames, with an adapter strength chosen after training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from torch import Tensor

from diptych.core.contracts import Draw, Draws, Optimiser
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.data.media.transforms import IMAGENET_MEAN, IMAGENET_STD
from diptych.data.text.prompts.dialogue_rows import cut_pieces
from diptych.data.text.prompts.layout import ImageSlots, Piece, TokenPiece, lay_out
from diptych.data.text.question_answering.questions import questions_of
from diptych.models.bridges.adapter_scale import ScaledAdapters
from diptych.models.bridges.bridge import AnswerLikelihood, Bridge
from diptych.models.bridges.llava_weights import take_llava_
from diptych.models.bridges.writer import BridgeGenerator
from diptych.models.towers.adapters import MARK
from diptych.models.towers.outputs import Tower
from diptych.models.towers.video.frame_sequence import FrameSequenceTower
from diptych.recipes._shared.language.bridges import BridgeBatch
from diptych.recipes._shared.language.clip_frames import Short, clip_views, read_frames
from diptych.recipes._shared.language.visual_instruction import VisualInstructionRecipe

TRAINED_PART = r"\.lora_|^connector\."
"""Tensors that PLLaVA's published folders hold."""


@dataclass(frozen=True, kw_only=True)
class PLLaVA(VisualInstructionRecipe):
    """PLLaVA: Parameter-free LLaVA Extension from Images to Videos for Video Dense Captioning (Xu et al., 2024, arXiv 2404.16994).

    Frames go through LLaVA's image encoder and projector; means over windows of time, rows and columns leave `pool` tokens, which stand in
    the place of an image's. Projector and low-rank adapters of queries and values are trained on questions about clips. After training the
    adapters' strength is chosen anew (`used_alpha`, `use_alpha` of the trained model): a small one keeps the long answers of the image
    model, the trained one gives the short answers of the data. An image is a clip of equal frames. `norm_kurtosis` in the log watches for
    dominant tokens, which the paper finds where frames are not pooled.

    A row is: start mark, "USER:", clip, line break, question, end mark, "ASSISTANT:", answer, end mark, each encoded apart, as released; in
    use there is a space in place of the first end mark (`template`). In use the release first shrinks frames whose long side is above 640
    pixels to 640, and then again to the size of the encoder; here they are resized once. So it trains its 34B, too, where it cuts the
    clips of a step to one shape before.

    frames         of a clip
    pool           frames, rows and columns that pooling leaves
    adapter_rank, adapter_alpha, adapter_dropout, adapter_targets  of the low-rank adapters; targets are patterns of modules
    used_alpha     alpha of use; -1: that of training
    adapters_from  "hf:FOLDER" of a published PLLaVA, whose projector and adapters it starts from
    user, assistant  role marks of training
    question_ends  an end mark, or `answer_end`, stands behind each question, too
    medium         the name of the clip among a sample's media
    frame_choice   one frame of each of equal stretches, in use its middle, or as "released": of a stretch never the last frame
                   (`spared_places`), in use at rounded places (`rounded_places`)
    short_clips    clips with fewer frames: "refuse" them, "repeat" some, the "early" ones, or the "last"
    mixed_images   a batch of images is repeated and cut into clips as a whole, so that a clip holds several images: as released
    final_lr       share of the rate that it does not fall below, not even in the warm-up
    released_normalisation  clips are normalised by ImageNet's mean and deviation in training and by CLIP's in use, as released
    """

    slug = "pllava"
    keeps_adapters = True
    presets = ("tiny", "paper", "paper_34b")
    needs = ("questions",)

    frames: int = 16
    pool: tuple[int, int, int] = (16, 12, 12)
    adapter_rank: int = 128
    adapter_alpha: float = 32.0
    adapter_dropout: float = 0.05
    adapter_targets: tuple[str, ...] = (r"\.q_proj$", r"\.v_proj$")
    used_alpha: float = -1.0
    adapters_from: str = ""
    user: str = "USER:"
    assistant: str = "ASSISTANT:"
    question_ends: bool = True
    medium: str = "clip"
    frame_choice: Literal["stretches", "released"] = "stretches"
    short_clips: Short = "refuse"
    mixed_images: bool = False
    final_lr: float = 0.25
    released_normalisation: bool = False

    template: str = "USER: {image}\n{prompt} ASSISTANT:"
    space: str = ""
    projector_share: float = 0.0
    text_rows: bool = False
    resize: Any = "crop"
    text_length: int = 511 + 2304
    batch_size: int = 128
    rows_a_mean: int = 8
    steps: int = 6250
    lr: float = 2e-5
    warmup: float = 0.2
    weight_decay: float = 0.02
    clip_norm: float = 0.0

    instruct: bool = field(default=True, metadata={"prepared": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 1 or len(self.pool) != 3 or min(self.pool) < 1 or self.pool[0] > self.frames:
            raise ConfigError(
                f"pool is {list(self.pool)} of {self.frames} frames (expected 1 up to as many frames, rows and columns)"
            )
        self._adapters()
        object.__setattr__(self, "needs", ("questions",))  # clips and images alike

    @property
    def trained(self) -> tuple[str, ...]:
        return ("connector",)

    def _adapters(self) -> ScaledAdapters:
        used = self.adapter_alpha if self.used_alpha < 0 else self.used_alpha
        return ScaledAdapters(self.adapter_rank, self.adapter_targets, self.adapter_alpha, used, self.adapter_dropout)

    def connector_spec(self) -> dict[str, Any]:
        return {"kind": "pooled", "size": list(self.pool), "frames": self.frames}

    # ------------------------------------------------------------ data

    def has_dialogue(self, sample: Sample) -> bool:
        return (sample.image is not None or self.medium in sample.media) and bool(questions_of(sample))

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        if not self.has_dialogue(sample):
            raise DataError(f"sample '{sample.uid}' has no question about a clip or an image", field="questions", expected="one")
        how: dict[str, Any] = {
            "short": self.short_clips,
            "min_side": self.decode_size,
            "released": self.frame_choice == "released",
        }
        return {"clip": read_frames(sample, self.medium, self.frames, rng, **how)}

    def dialogue_row(self, draw: Draw) -> tuple[list[Piece], bool]:
        words = self.words()
        pieces: list[TokenPiece] = []
        mark, end = tuple(words.pieces(self.user)), () if self.answer_end else (words.end_id,)
        for index, question in enumerate(questions_of(draw.sample)):
            asked = ("" if index else "\n") + question.text + (self.answer_end if self.question_ends else "")
            before = (*words.pieces(asked), *(end if self.question_ends else ()), *words.pieces(self.assistant))
            pieces.append(TokenPiece((*mark, *before) if index else before))
            pieces.append(TokenPiece((*words.pieces(self.space + question.answer + self.answer_end), *end), answer=True))
        first: list[Piece] = [*([TokenPiece(mark)] if mark else []), ImageSlots(self.slots)]
        if not self.text_length:
            return [*first, *pieces], False
        kept, longer = cut_pieces(pieces, self.text_length - len(words.start_ids) - len(mark) - self.slots)
        return [*first, *kept], longer

    def laid(self, draws: Draws, rows: Sequence[Sequence[Piece]]) -> BridgeBatch:
        clips, rngs, preprocess = [draw.media["clip"] for draw in draws], [draw.rng for draw in draws], self.preprocess
        if self.released_normalisation:
            preprocess = replace(preprocess, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        image_BTCHW = clip_views(clips, rngs, preprocess, self.crop, self.flip)
        laid = lay_out(rows, self.words(), length=self.text_length, names=[draw.sample.uid for draw in draws])
        return BridgeBatch(image_BTCHW, laid.id_BL, laid.slot_BL, laid.mask_BL, laid.answer_BL, laid.truncated, laid.places)

    def _slots(self) -> int:
        return self.pool[0] * self.pool[1] * self.pool[2]

    # ------------------------------------------------------------ model

    def _encoder(self) -> Tower:
        inner = super()._encoder()
        made = FrameSequenceTower(inner, self.frames, mixed=self.mixed_images)
        made.spec = {"name": "frame_sequence", "inner": inner.spec, "frames": self.frames, "mixed": self.mixed_images}
        return made

    def model(self) -> Bridge:
        bridge = super().model()
        self._adapters().add(bridge.language.inner)
        if self.adapters_from:
            take_llava_(bridge, self.adapters_from, required=TRAINED_PART)
        return bridge

    def metrics(self, features: AnswerLikelihood, batch: BridgeBatch) -> dict[str, Tensor]:
        return {**super().metrics(features, batch), "norm_kurtosis": features.kurtosis.mean().detach()}

    def optimiser(self) -> Optimiser:
        return replace(super().optimiser(), final_lr=self.final_lr, floor="cut")

    def stages(self) -> tuple[()]:
        return ()

    def stored(self, name: str) -> bool:
        """Projector and adapters are in checkpoints, frozen parts are loaded again."""
        return super().stored(name) or MARK in name

    def deploy(self, model: Bridge) -> BridgeGenerator:
        adapters = self._adapters()
        made = super().deploy(model if adapters.used == adapters.alpha else copy.deepcopy(model))
        made.sign = self.answer_end.strip()
        made.lora = replace(adapters.apply(made.bridge.language.inner, adapters.used), dropout=0.0)
        made.frames, made.pictures, made.rounded = self.frames, 4096, self.frame_choice == "released"
        return made

    @classmethod
    def tiny(cls) -> Self:
        """Eight frames in 8 x 2 x 2 tokens, small models that are made first: two minutes on two cores."""
        shared = {name: value for name, value in cls.small().items() if not name.startswith("instruct_")}
        return cls(
            **{
                **shared,
                "frames": 8,
                "pool": (8, 2, 2),
                "adapter_rank": 8,
                "adapter_alpha": 8.0,
                "adapter_dropout": 0.0,
                "adapter_targets": (r"_proj$",),
                "user": "",
                "assistant": " :",
                "question_ends": False,
                "template": "{image}\n{prompt} :",
                "batch_size": 16,
                "steps": 400,
                "lr": 2e-3,
                "clip_norm": 1.0,
                "final_lr": 0.0,
            }
        )

    @classmethod
    def paper(cls) -> Self:
        """16 frames at 336 pixels, random crops of half a frame or more and mirror images, 16 x 12 x 12 tokens, adapters of rank 128 with
        alpha 32, from LLaVA 1.6 or 1.5 (`weights_from`): 6,250 steps of 128. Answers of the published evaluations are written with alpha 4
        or 20 (`used_alpha`)."""
        published: dict[str, Any] = {"frame_choice": "released", "short_clips": "last"}
        return cls(image_tower="vit_l14", image_size=336, decoding="whole", crop=(0.5, 1.0), flip=True, **published)

    @classmethod
    def paper_34b(cls) -> Self:
        """As `paper`, from LLaVA 1.6 of 34B, whose dialogues are in ChatML: without crops and mirror images, clips normalised by CLIP's
        mean and deviation."""
        return replace(
            cls.paper(),
            crop=(1.0, 1.0),
            flip=False,
            user="<|im_start|>user\n",
            assistant="<|im_start|>assistant\n",
            answer_end="<|im_end|>\n",
            template="<|im_start|>user\n{image}\n{prompt}<|im_end|>\n<|im_start|>assistant\n",
        )
