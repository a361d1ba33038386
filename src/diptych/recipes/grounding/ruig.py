"""RUIG: box of the interface element that an instruction refers to, generated as tokens, reinforced by a reward on its overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.contracts import Dataset, Draws, Optimiser, Recipe, Stage
from diptych.core.errors import ConfigError, DataError
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import TensorBatch, pixels
from diptych.data.media.transforms import OPENAI_MEAN, OPENAI_STD, Preprocess
from diptych.data.text.captions.phrases import sentences_of
from diptych.data.text.tokenize import Tokenizer
from diptych.models.screens.coordinate_writer import CoordinateWriter
from diptych.models.screens.screen_grounder import ScreenGrounder
from diptych.models.towers.towers import image_tower
from diptych.objectives.policy.action_masks import drawn_actions
from diptych.objectives.policy.advantages import self_critical
from diptych.objectives.policy.box_rewards import box_bins, box_reward, boxes_of_bins, clicks, overlap, token_rewards
from diptych.recipes._shared.texts.vocabulary import learned_vocabulary, tokenizer_of
from diptych.train.engines.rollouts import RowNoise


@dataclass(frozen=True)
class ScreenBatch(TensorBatch):
    """Pictures, instructions and true boxes, 0 to 1; after a rollout also what was drawn.

    bin_B4        coordinates of the true box as bins
    drawn_BR4     bins that were drawn; R boxes to a picture
    advantage_BR4 of each coordinate
    reward_BR     of the drawn boxes; greedy_B of the likeliest one
    """

    image_BCHW: Rows[Tensor]
    word_BL: Rows[Tensor]
    word_mask_BL: Rows[Tensor]
    box_B4: Rows[Tensor]
    bin_B4: Rows[Tensor]
    drawn_BR4: Rows[Tensor] | None = None
    advantage_BR4: Rows[Tensor] | None = None
    reward_BR: Rows[Tensor] | None = None
    greedy_B: Rows[Tensor] | None = None


@dataclass(frozen=True, slots=True)
class CoordinateLogits:
    """Logits of the coordinates of the true box, and behind it those of the drawn ones, given the coordinates before: [B, 1 + R, 4, K]."""

    logit_BR4K: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class ScreenLikelihood(Recipe[CoordinateWriter, ScreenBatch, CoordinateLogits]):
    """Cross-entropy of the coordinates of the box that an instruction means, each given the true ones before: RUIG without reinforcement,
    and what it starts from.

    image_tower  the network that reads the picture: convnet_tiny, vit_b16 and the others of docs/training.md (Towers), or timm:NAME
    image_size   pixels of a side; pictures are squashed
    bins         of a coordinate
    width, layers, heads  of the decoder
    text_length  words of an instruction, marks among them
    pieces       of the vocabulary, which is learned from the instructions
    """

    slug = "ruig_supervised"
    needs: ClassVar[tuple[str, ...]] = ("image", "grounding")

    image_tower: str = "vit_b16"
    image_size: int = 384
    bins: int = 64
    width: int = 512
    layers: int = 4
    heads: int = 8
    text_length: int = 24
    pieces: int = 1024
    batch_size: int = 64
    epochs: float = 20.0
    lr: float = 3e-4
    warmup: float = 200.0
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    vocabulary: str = field(default="", metadata={"prepared": True})

    def __post_init__(self) -> None:
        if self.bins < 2 or self.text_length < 3:
            raise ConfigError(f"bins is {self.bins}, text_length {self.text_length} (expected 2 or more, and 3 or more)")

    @property
    def measured_by(self) -> str:
        return "referring"

    def prepare(self, data: Dataset) -> Self:
        if self.vocabulary:
            return self
        texts = [text.string for row in range(len(data)) for text in data[row].texts]
        return replace(self, vocabulary=learned_vocabulary(texts, self.pieces))

    def words(self) -> Tokenizer:
        """The tokenizer of the instructions. Raises ConfigError before `prepare`."""
        return tokenizer_of("data", self.vocabulary)

    @property
    def preprocess(self) -> Preprocess:
        """Picture settings of training and use."""
        return Preprocess(self.image_size, OPENAI_MEAN, OPENAI_STD, resize="squash")

    @property
    def shape(self) -> dict[str, Any]:
        """Arguments of the writer beside its tower."""
        return {
            "size": self.image_size,
            "words": self.words().vocab_size,
            "length": self.text_length,
            "bins": self.bins,
            "width": self.width,
            "layers": self.layers,
            "heads": self.heads,
        }

    def model(self) -> CoordinateWriter:
        return CoordinateWriter(image_tower(self.image_tower, image_size=self.image_size), **self.shape)

    def batch(self, draws: Draws) -> ScreenBatch:
        asked = [instruction_and_box(draw.sample, pixels(draw).shape[1], pixels(draw).shape[0]) for draw in draws]
        words = self.words().encode([text for text, _ in asked], self.text_length)
        box_B4 = torch.tensor([box for _, box in asked])
        shown_BCHW = self.preprocess([pixels(draw) for draw in draws])
        return ScreenBatch(
            shown_BCHW,
            torch.from_numpy(words.ids_BL).long(),
            torch.from_numpy(words.mask_BL),
            box_B4,
            box_bins(box_B4, self.bins),
        )

    def features(self, model: CoordinateWriter, batch: ScreenBatch) -> CoordinateLogits:
        bin_BR4 = batch.bin_B4[:, None]
        if batch.drawn_BR4 is not None:
            bin_BR4 = torch.cat([bin_BR4, batch.drawn_BR4], 1)
        return CoordinateLogits(model(batch.image_BCHW, batch.word_BL, batch.word_mask_BL, bin_BR4))

    def losses(self, features: CoordinateLogits, batch: ScreenBatch) -> dict[str, Tensor]:
        return {"likelihood": coordinate_loss(features.logit_BR4K[:, 0], batch.bin_B4)}

    def metrics(self, features: CoordinateLogits, batch: ScreenBatch) -> dict[str, Tensor]:
        box_B4 = boxes_of_bins(features.logit_BR4K[:, 0].argmax(-1), self.bins).to(batch.box_B4)
        return {"iou": overlap(box_B4, batch.box_B4).mean()}

    def optimiser(self) -> Optimiser:
        return replace(super().optimiser(), betas=(0.9, 0.999), eps=1e-8)

    def deploy(self, model: CoordinateWriter) -> ScreenGrounder:
        return ScreenGrounder(model, self.shape, self.preprocess, self.words(), self.slug)

    @classmethod
    def tiny(cls) -> Self:
        return cls(**SMALL, steps=400)

    @classmethod
    def paper(cls) -> Self:
        """Sizes are not published: a ViT-B of 384 pixels and four decoder layers are ours."""
        return cls()


SMALL: dict[str, Any] = {
    "image_tower": "convnet_micro", "image_size": 48, "bins": 24, "width": 64, "layers": 2, "heads": 4, "text_length": 12, "pieces": 300,
    "batch_size": 32, "lr": 2e-3, "warmup": 20.0,
}  # fmt: skip
"""Sizes of `tiny`."""


@dataclass(frozen=True, kw_only=True)
class RUIG(ScreenLikelihood):
    """Reinforced UI Instruction Grounding: Towards a Generic UI Task Automation API (Zhang et al., 2023, arXiv 2310.04716).

    A picture of an application and an instruction go in, the box of what it means comes out as four coordinate tokens, without a view
    hierarchy. Cross-entropy takes a bin far from the true one for as wrong as its neighbour; the reward of the whole box does not: IoU,
    and `click` more where its middle lies in the true box, 0 for a box without area. Boxes are drawn, and their log-probability is pushed
    by how much better their reward is than that of the likeliest box. A stage of cross-entropy alone comes first, since an untrained model
    is rewarded for next to nothing.

    There is no released code; beyond the abstract the mechanism is our reconstruction. Sizes, rates and weights are ours.

    reinforced  weight of the reward's term beside the cross-entropy; 0 for none
    drawn       boxes to a picture
    click       reward of a middle in the true box, beside the IoU
    credit      "sequence": a box is rewarded as a whole; "token": each coordinate alone, drawn behind the true ones before it and put into
                the true box
    baseline    "greedy": the likeliest box's reward; "others": the mean of the other boxes drawn
    start       share of the steps with cross-entropy alone, before
    later_rate  learning rate of the steps after that, as a share of `lr`
    passes      updates see each rollout so many times
    minibatch   rows of an update, over all processes; 0 for the whole batch
    shuffled    rows of a minibatch are drawn at random
    """

    slug = "ruig"
    engine = "policy"

    reinforced: float = 1.0
    drawn: int = 1
    click: float = 0.5
    credit: Literal["sequence", "token"] = "sequence"
    baseline: Literal["greedy", "others"] = "greedy"
    start: float = 0.7
    later_rate: float = 1 / 3
    passes: int = 1
    minibatch: int = 0
    shuffled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drawn < 1 + (self.baseline == "others") or not 0 <= self.start < 1 or self.reinforced < 0:
            raise ConfigError(
                f"drawn is {self.drawn}, start {self.start}, reinforced {self.reinforced} (expected 1 or more, 2 with baseline 'others'; 0 "
                "or more, below 1; 0 or more)"
            )
        if self.credit not in ("sequence", "token") or self.baseline not in ("greedy", "others"):
            raise ConfigError(
                f"credit is {self.credit!r}, baseline {self.baseline!r} (expected sequence | token, and greedy | others)"
            )

    def stages(self) -> Sequence[Stage]:
        if not self.start:
            return ()
        shared = {one.name: getattr(self, one.name) for one in fields(ScreenLikelihood)}
        later = replace(self, start=0.0, lr=self.lr * self.later_rate, warmup=0.0)
        return (Stage("likelihood", ScreenLikelihood(**shared), self.start), Stage("reinforced", later, 1 - self.start))

    def companions(self, model: CoordinateWriter) -> dict[str, nn.Module]:
        return {}

    def rollout(self, model: CoordinateWriter, companions: Mapping[str, nn.Module], batch: ScreenBatch) -> ScreenBatch:
        """The batch with drawn boxes and the advantage of each coordinate."""
        noise, given = RowNoise(len(batch), batch.image_BCHW.device), (batch.image_BCHW, batch.word_BL, batch.word_mask_BL)
        if self.credit == "token":
            return self._by_token(model, batch, noise)
        drawn_BR4 = torch.stack(
            [model.write(*given, lambda logit: drawn_actions(logit.log_softmax(-1), noise.uniform())) for _ in range(self.drawn)],
            1,
        )
        reward_BR = self._reward(drawn_BR4, batch.box_B4[:, None].expand(-1, self.drawn, -1))
        greedy_B = self._reward(model.write(*given, lambda logit: logit.argmax(-1)), batch.box_B4)
        baseline_BR = greedy_B[:, None].expand_as(reward_BR)
        if self.baseline == "others":
            baseline_BR = (reward_BR.sum(1, keepdim=True) - reward_BR) / (self.drawn - 1)
            advantage_BR = reward_BR - baseline_BR
        else:
            advantage_BR = self_critical(reward_BR, greedy_B)
        return replace(
            batch,
            drawn_BR4=drawn_BR4,
            advantage_BR4=advantage_BR[..., None].expand(-1, -1, 4).contiguous(),
            reward_BR=reward_BR,
            greedy_B=greedy_B,
        )

    def _by_token(self, model: CoordinateWriter, batch: ScreenBatch, noise: RowNoise) -> ScreenBatch:
        """Coordinates that are drawn behind the true ones, and rewarded one by one."""
        logit_B4K = model(batch.image_BCHW, batch.word_BL, batch.word_mask_BL, batch.bin_B4[:, None])[:, 0]
        log_MK = logit_B4K.log_softmax(-1).flatten(0, 1)
        drawn = [drawn_actions(log_MK, noise.uniform(4).flatten()).view(-1, 4) for _ in range(self.drawn)]
        reward_BR4 = torch.stack([self._token_rewards(one, batch) for one in drawn], 1)
        greedy_B4 = self._token_rewards(logit_B4K.argmax(-1), batch)
        baseline_BR4 = greedy_B4[:, None].expand_as(reward_BR4)
        if self.baseline == "others":
            baseline_BR4 = (reward_BR4.sum(1, keepdim=True) - reward_BR4) / (self.drawn - 1)
        return replace(
            batch,
            drawn_BR4=torch.stack(drawn, 1),
            advantage_BR4=reward_BR4 - baseline_BR4,
            reward_BR=reward_BR4.mean(-1),
            greedy_B=greedy_B4.mean(-1),
        )

    def _token_rewards(self, bin_B4: Tensor, batch: ScreenBatch) -> Tensor:
        return token_rewards(bin_B4, batch.bin_B4, batch.box_B4, self.bins, click=self.click)

    def _reward(self, bin_X4: Tensor, box_X4: Tensor) -> Tensor:
        return box_reward(boxes_of_bins(bin_X4, self.bins).to(box_X4), box_X4, click=self.click)

    def features(self, model: CoordinateWriter, batch: ScreenBatch) -> CoordinateLogits:
        if self.credit == "token" and batch.drawn_BR4 is not None:
            return CoordinateLogits(model(batch.image_BCHW, batch.word_BL, batch.word_mask_BL, batch.bin_B4[:, None]))
        return super().features(model, batch)

    def losses(self, features: CoordinateLogits, batch: ScreenBatch) -> dict[str, Tensor]:
        losses = super().losses(features, batch)
        if batch.drawn_BR4 is None or batch.advantage_BR4 is None:
            return losses
        logit_BR4K = (
            features.logit_BR4K[:, 1:] if self.credit == "sequence" else features.logit_BR4K.expand(-1, self.drawn, -1, -1)
        )
        losses["reinforced"] = self.reinforced * reinforced_loss(logit_BR4K, batch.drawn_BR4, batch.advantage_BR4)
        return losses

    def metrics(self, features: CoordinateLogits, batch: ScreenBatch) -> dict[str, Tensor]:
        metrics = super().metrics(features, batch)
        if batch.reward_BR is not None and batch.greedy_B is not None and batch.drawn_BR4 is not None:
            metrics |= {"reward": batch.reward_BR.mean(), "greedy_reward": batch.greedy_B.mean()}
            box_B4 = boxes_of_bins(batch.drawn_BR4[:, 0], self.bins).to(batch.box_B4)
            metrics["click"] = clicks(box_B4, batch.box_B4).mean()
        return metrics

    @classmethod
    def tiny(cls) -> Self:
        """Pages of 48 pixels, 24 bins."""
        return cls(**SMALL, steps=450)


def coordinate_loss(logit_B4K: Tensor, bin_B4: Tensor) -> Tensor:
    """Cross-entropy of the coordinates, mean over them and over the batch, in nats."""
    return F.cross_entropy(logit_B4K.flatten(0, 1), bin_B4.flatten())


def reinforced_loss(logit_BR4K: Tensor, drawn_BR4: Tensor, advantage_BR4: Tensor) -> Tensor:
    """-A log p, summed over the coordinates of a box, mean over the boxes."""
    log_BR4 = logit_BR4K.log_softmax(-1).gather(-1, drawn_BR4[..., None])[..., 0]
    return -(advantage_BR4.detach() * log_BR4).sum(-1).mean()


def instruction_and_box(sample: Sample, width: int, height: int) -> tuple[str, tuple[float, float, float, float]]:
    """The first instruction of a sample that means one region, and its box from 0 to 1. Raises DataError for a sample without one."""
    for sentence in sentences_of(sample):
        for phrase in sentence.phrases:
            if len(phrase.regions) == 1:
                box = sample.regions[phrase.regions[0]].box
                words = " ".join(sentence.text[start:stop] for start, stop in phrase.spans)
                return words, (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
    raise DataError(
        f"sample '{sample.uid}' has no instruction with a box",
        field="grounding",
        expected='extras["grounding"], a phrase of which means one region',
    )
