"""Shared by recipes in the form of LLaVA: a projector learns captions first, then the language model learns dialogues about images.

Letters: B batch, C channel, H W.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draw, Draws, Optimiser, Order, Stage
from diptych.core.errors import ConfigError, DataError
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import choose_text, view
from diptych.data.load.length_order import LengthGroupedOrder
from diptych.data.media.transforms import Preprocess
from diptych.data.text.prompts.dialogue_rows import VICUNA_CHAT, cut_pieces, dialogue_tokens
from diptych.data.text.prompts.layout import ImageSlots, Piece, TextPiece, lay_out
from diptych.data.text.question_answering.questions import questions_of
from diptych.models.bridges.bridge import AnswerLikelihood, Bridge
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.bridges.llava_weights import LlavaConfig, take_llava_
from diptych.models.bridges.writer import BridgeGenerator
from diptych.models.towers.hidden_layer import hidden_layer
from diptych.models.towers.outputs import Tower
from diptych.models.towers.towers import image_tower
from diptych.recipes._shared.language.bridges import BridgeBatch, BridgeRecipe


def signed_words(sample: Sample) -> int:
    """Words of a dialogue, one more for the mark of an image; negative without an image."""
    words = sum(len(text.split()) for asked in questions_of(sample) for text in (asked.text, asked.answer))
    return words + 1 if sample.image is not None else -max(1, words)


@dataclass(frozen=True)
class DialogueBatch(BridgeBatch):
    """pictures_B  how many images a row has, 0 or 1; None: each has one"""

    pictures_B: Rows[Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class VisualInstructionRecipe(BridgeRecipe):
    """Two stages before one language model: the projector on captions, then projector and language model on dialogues.

    feature_layer  layer of the image encoder whose patches are read, numbered as transformers numbers hidden states: -2 leaves out the last
                   block; 0: the encoder's own output
    weights_from   "hf:FOLDER" of a LLaVA, as transformers or as its authors save it: image encoder (where the folder has one), projector
                   and language model start from it; "": from `image_weights`, a fresh projector and `language_model`
    projector_share  share of the steps for the projector alone; 0: dialogues only
    caption_end    what is written behind a caption of the first stage, in place of an end mark; "" for the end mark
    answer_end     what ends an answer of a dialogue in place of the end mark; "" for the end mark
    later          template of the later turns of a dialogue; `template` is that of the first
    text_rows      rows without an image are learned, too, without a place for one
    projector_resize  `resize` of the first stage
    group_by_length  the rows of a step of dialogues are of similar length, and all or none with an image (`LengthGroupedOrder`)
    instruct_batch_size, instruct_lr, instruct_warmup, instruct_rows_a_mean  of the second stage; batch_size, lr, ... are of the first
    """

    feature_layer: int = -2
    weights_from: str = ""
    projector_share: float = 0.3
    caption_end: str = "\n"
    answer_end: str = ""
    later: str = "USER: {prompt} ASSISTANT:"
    text_rows: bool = True
    projector_resize: Literal["crop", "squash", "pad", "native", "square"] = "crop"
    group_by_length: bool = False
    instruct_batch_size: int = 128
    instruct_lr: float = 2e-5
    instruct_warmup: float = 0.03
    instruct_rows_a_mean: int = 16

    template: str = VICUNA_CHAT
    resize: Literal["crop", "squash", "pad", "native", "square"] = "square"
    text_length: int = 2048
    batch_size: int = 256
    rows_a_mean: int = 32
    lr: float = 1e-3
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip_norm: float = 1.0

    instruct: bool = field(default=False, metadata={"prepared": True})

    def __post_init__(self) -> None:
        if not 0 <= self.projector_share < 1:
            raise ConfigError(f"projector_share is {self.projector_share} (expected 0 or more and below 1)")
        if self.feature_layer > 0:
            raise ConfigError(f"feature_layer is {self.feature_layer} (expected -1, -2, ..., or 0 for the encoder's own output)")
        object.__setattr__(self, "needs", () if self.text_rows else ("image",))

    @property
    def trained(self) -> tuple[str, ...]:
        return ("connector", "language") if self.instruct else ("connector",)

    @property
    def measured_by(self) -> str:
        return "vqa"

    def connector_spec(self) -> dict[str, Any]:
        return {"kind": "mlp"}

    # ------------------------------------------------------------ data

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        """The image. A sample that the stage cannot learn from is left out, as one that cannot be read."""
        fits = self.has_dialogue if self.instruct else self.has_caption
        if not fits(sample):
            what = "question" if self.instruct else "image with a text"
            raise DataError(
                f"sample '{sample.uid}' has no {what}", field="questions" if self.instruct else "texts", expected="one"
            )
        return super().load(sample, rng)

    def has_caption(self, sample: Sample) -> bool:
        """True if the projector stage trains on the sample."""
        return sample.image is not None and bool(sample.positives(self.language))

    def has_dialogue(self, sample: Sample) -> bool:
        """True if the instruction stage trains on the sample."""
        return (self.text_rows or sample.image is not None) and bool(questions_of(sample))

    def row_order(self, data: Dataset) -> Order | None:
        """Dialogues grouped by length, where `group_by_length` is on."""
        if not self.instruct or not self.group_by_length:
            return None
        members = self.rows_a_mean or self.batch_size
        lengths = np.fromiter((self.row_words(data[row]) for row in range(len(data))), np.int64, len(data))
        return LengthGroupedOrder(lengths, members, max(1, self.batch_size // members))

    def row_words(self, sample: Sample) -> int:
        """Words by which `group_by_length` orders a row; negative for one without an image."""
        return signed_words(sample)

    def batch(self, draws: Draws) -> BridgeBatch:
        if not self.instruct:
            return self.laid(draws, [self.caption_row(draw) for draw in draws])
        rows, cut = [], 0
        for draw in draws:
            row, longer = self.dialogue_row(draw)
            rows.append(row)
            cut += longer
        made = self.laid(draws, rows)
        return replace(made, truncated=made.truncated + cut)

    def caption_row(self, draw: Draw) -> list[Piece]:
        """The image, then a caption of it, without any words between."""
        text = choose_text(draw, self.language).string + self.caption_end
        return [ImageSlots(self.slots), TextPiece(text, answer=True, ends=not self.caption_end)]

    def dialogue_row(self, draw: Draw) -> tuple[list[Piece], bool]:
        """All questions of a sample and their answers in turn, and whether they were cut to the length of a row."""
        return self.turn_row(draw, [(question.text, question.answer) for question in questions_of(draw.sample)])

    def turn_row(self, draw: Draw, asked: Sequence[tuple[str, str]], *, slots: int = 0) -> tuple[list[Piece], bool]:
        """Requests and answers about the image of a draw, where it has one, in the dialogue's form; cut to the length of a row.

        slots  places of the image; 0: `slots` of the recipe
        """
        words, slots = self.words(), slots or self.slots
        seen = draw.image_HWC is not None
        before, _, behind = self.template.partition("{image}")
        first: list[Piece] = [*([TextPiece(before)] if before and seen else []), *([ImageSlots(slots)] if seen else [])]
        alone = before.removesuffix("<img>") + behind.removeprefix("</img>").removeprefix("\n")
        turns = [
            ((self.later if index else behind if seen else alone).replace("{prompt}", prompt), answer)
            for index, (prompt, answer) in enumerate(asked)
        ]
        pieces = dialogue_tokens(words.tokenizer, turns, space=self.space, end=self.answer_end)
        if not self.text_length:
            return [*first, *pieces], False
        used = len(words.start_ids) + (slots + len(words.pieces(before)) if seen else 0)
        kept, longer = cut_pieces(pieces, self.text_length - used)
        return [*first, *kept], longer

    @property
    def answer_space(self) -> str:
        """Space before an answer that is encoded apart from its question; "" where the vocabulary puts one before every text."""
        return "" if self.words().spaced else self.space

    def laid(self, draws: Draws, rows: Sequence[Sequence[Piece]]) -> BridgeBatch:
        shown = [draw.image_HWC is not None for draw in draws]
        if all(shown):
            return super().laid(draws, rows)
        size = self.preprocess.size
        image_BCHW = torch.zeros(len(shown), 3, size, size)
        views = [view(draw, self.image_size, self.crop, self.flip) for draw in draws if draw.image_HWC is not None]
        image_BCHW[torch.tensor(shown)] = self.preprocess(views)
        laid = lay_out(rows, self.words(), length=self.text_length, names=[draw.sample.uid for draw in draws])
        values = {each.name: getattr(laid, each.name) for each in fields(laid)}
        return DialogueBatch(image_BCHW, **values, pictures_B=torch.tensor(shown).long())

    # ------------------------------------------------------------ model

    def _language(self, data: Dataset) -> Path:
        return self._weights_folder if self.weights_from else super()._language(data)

    @property
    def _weights_folder(self) -> Path:
        return Path(self.weights_from.removeprefix("hf:")).expanduser()

    def _language_model(self) -> LanguageModel:
        if not self.weights_from:
            return super()._language_model()
        return LanguageModel(config=LlavaConfig.read(self._weights_folder).text)

    def _fresh_encoder(self) -> Tower:
        """The image encoder of the folder that weights come from, where it has one; else by name."""
        vision = LlavaConfig.read(self._weights_folder).vision if self.weights_from else None
        return super()._fresh_encoder() if vision is None else image_tower("hf_image", config=vision, image_size=self.image_size)

    def _trained(self) -> tuple[Tower, Preprocess]:
        tower, preprocess = super()._trained()
        return tower, replace(preprocess, resize=self._resize)

    @property
    def _resize(self) -> Any:
        return self.resize if self.instruct else self.projector_resize

    @property
    def preprocess(self) -> Preprocess:
        return replace(super().preprocess, resize=self._resize)

    def _encoder(self) -> Tower:
        encoder = super()._encoder()
        return hidden_layer(encoder, self.feature_layer) if self.feature_layer else encoder

    def fresh_bridge(self) -> Bridge:
        """The model of the stage before it takes `weights_from`."""
        return super().model()

    def model(self) -> Bridge:
        bridge = self.fresh_bridge()
        if self.weights_from:
            take_llava_(bridge, self.weights_from, required=r"^(?!pool\.|head\.)")
        return bridge

    def features(self, model: Bridge, batch: BridgeBatch) -> AnswerLikelihood:
        if not isinstance(batch, DialogueBatch) or batch.pictures_B is None:
            return super().features(model, batch)
        image_NCHW = batch.image_BCHW[batch.pictures_B > 0]
        written: AnswerLikelihood = model(image_NCHW if len(image_NCHW) else None, batch.layout, count_B=batch.pictures_B)
        return written

    def optimiser(self) -> Optimiser:
        return replace(super().optimiser(), betas=(0.9, 0.999), eps=1e-8, warmup_from=0.0, warmup_rounds="up")

    def stages(self) -> Sequence[Stage]:
        if self.instruct:
            return ()
        second = replace(
            self,
            instruct=True,
            batch_size=self.instruct_batch_size,
            lr=self.instruct_lr,
            warmup=self.instruct_warmup,
            rows_a_mean=self.instruct_rows_a_mean,
        )
        dialogues = Stage("dialogues", second, 1 - self.projector_share, keep=self.has_dialogue)
        captions = Stage("captions", self, self.projector_share, keep=self.has_caption)
        return (captions, dialogues) if self.projector_share else (dialogues,)

    def deploy(self, model: Bridge) -> BridgeGenerator:
        made = super().deploy(model)
        made.preprocess = replace(self.preprocess, resize=self.resize)
        made.folder = ""  # the language model has been trained
        made.space, made.sign = self.answer_space, self.answer_end
        return made

    @classmethod
    def small(cls) -> dict[str, Any]:
        """Settings that small presets have in common: small models that are made first, two minutes on two cores."""
        return {
            "image_weights": "small",
            "template": "{image} : {prompt}",
            "later": " {prompt}",
            "space": " ",
            "caption_end": "",
            "resize": "squash",
            "projector_resize": "squash",
            "text_length": 128,
            "pieces": 512,
            "match_norms": True,
            "batch_size": 64,
            "rows_a_mean": 0,
            "instruct_batch_size": 32,
            "instruct_rows_a_mean": 0,
            "steps": 700,
            "lr": 1e-3,
            "instruct_lr": 1e-3,
            "warmup": 0.05,
            "instruct_warmup": 0.05,
        }
