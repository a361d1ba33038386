"""CoOp: learned context vectors before class names, trained on a few labelled images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.core.contracts import Dataset, Draws, Optimiser, Order, Rule, Stage
from diptych.core.errors import ConfigError, DataError
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.labels import label_of
from diptych.data.load.batch import TensorBatch, view
from diptych.data.load.order import WholeBatchOrder
from diptych.data.shots import Shots, base_and_new, by_class, draw_shots
from diptych.data.text.prompts.class_prompts import Placement, context_ids
from diptych.models.pairs.prompted.embedder import ConditionedEmbedder, PromptedEmbedder, PromptSettings, prompted_encoder
from diptych.models.pairs.prompted.encoder import ClassLogits, PromptedEncoder
from diptych.models.towers.text_embeddings import token_table
from diptych.recipes._shared.frozen.adapted_encoder import AdaptedEncoderRecipe, features_folder, image_features, opened_features

EPOCHS = {1: 50, 2: 100, 4: 100, 8: 200, 16: 200}
"""Published passes over the shots, by images a class."""
WARMUP_RATE = 1e-5


@dataclass(frozen=True)
class ShotBatch(TensorBatch):
    """Images, or the vectors that the frozen image side has of them, and the number of the class of each."""

    image_BCHW: Rows[Tensor] | None
    vector_BD: Rows[Tensor] | None
    label_B: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class CoOp(AdaptedEncoderRecipe[PromptedEncoder, ShotBatch, ClassLogits]):
    """Learning to Prompt for Vision-Language Models (Zhou et al., 2021, arXiv 2109.01134); with `conditioned` CoCoOp (2203.05557).

    Both towers of a trained dual encoder stay as they are. In place of hand-made words, M vectors stand before the name of each class; they
    are learned by the cross-entropy of scale times cosine over the classes, from `shots` images a class. What remains is a file of a few
    kilobytes (prompts.safetensors) for the model that was adapted: `diptych classify MODEL IMAGE --prompts FILE`.

    Without augmentation the image vectors are computed once and kept. The release draws crops and mirror images (`crop`, `flip`), which the
    preset `paper` does.

    label       column with the class; "label" falls back to the text of origin "label"
    shots       images a class; 0 takes all. draw: which of the draws, from 1. Classes with fewer images give all they have
    shot_file   a file of shots to take instead, which other methods read too (task few_shot writes them)
    part        "base" trains on the first half of the classes alone; "new" on the other half
    class_order  the classes by their numbers, whose halves "base" and "new" are, as released; empty: sorted by their names
    context     how many vectors; with `start` as many as these words have tokens
    start       what the context starts from, such as "a photo of a"; "" for normal noise of standard deviation 0.02
    per_class   every class has a context of its own; other names cannot be read then. With `start` each begins with those words, where the
                release goes back to one context for all
    placement   the name stands at the "end" of the context, in its "middle" or in "front" of it
    tail        what follows name and context, "." as published
    hyphens     stay in names; with `hyphens` False they are read as spaces ("sky-weather"), as underscores always are
    conditioned CoCoOp: a small network shifts the context by each image; costs a text pass for every image and class
    crop, flip  augmentation: share of the area, mirror images
    leftover    images that do not fill the last batch of a pass are "dropped" from it, as released, or "used" in one with the next pass
    passes      over the shots; 0: as published, 50 for one shot a class to 200 for eight or more. `steps` overrules them
    falls       the rate, by a cosine: after each "period", which is a pass, as published, or at each "step"
    """

    slug = "coop"
    needs: ClassVar[tuple[str, ...]] = ("image",)
    presets: ClassVar[tuple[str, ...]] = ("tiny", "paper", "cocoop")

    label: str = "label"
    language: str = "en"
    shots: int = 16
    draw: int = 1
    shot_file: str = ""
    part: Literal["all", "base", "new"] = "all"
    class_order: tuple[str, ...] = ()
    context: int = 16
    start: str = ""
    per_class: bool = False
    placement: Placement = "end"
    tail: str = "."
    hyphens: bool = True
    conditioned: bool = False
    crop: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    leftover: Literal["dropped", "used"] = "dropped"
    passes: int = 0
    falls: Literal["period", "step"] = "period"

    batch_size: int = 32
    lr: float = 2e-3
    warmup: float = 0.0
    weight_decay: float = 5e-4

    classes: tuple[str, ...] = field(default=(), metadata={"prepared": True})
    chosen: tuple[str, ...] = field(default=(), metadata={"prepared": True})
    low: bool = field(default=False, metadata={"prepared": True})
    data_fingerprint: str = field(default="", metadata={"prepared": True})

    def __post_init__(self) -> None:
        if self.part not in ("all", "base", "new"):
            raise ConfigError(f"part is {self.part!r} (expected all | base | new)")
        if self.conditioned and (self.per_class or self.placement != "end"):
            raise ConfigError(
                "conditioned context is shared by all classes and stands before the name (expected per_class False, end)"
            )
        if self.leftover not in ("dropped", "used"):
            raise ConfigError(f"leftover is {self.leftover!r} (expected dropped | used)")
        if self.context < 1 or self.shots < 0:
            raise ConfigError(f"context is {self.context} and shots {self.shots} (expected 1 or more, and 0 or more)")

    @property
    def measured_by(self) -> str:
        return f"zero_shot:label={self.label}"

    def prepare(self, data: Dataset) -> Self:
        """Draws the shots, and computes their image vectors where no step changes the images."""
        if self.classes:
            return self
        shots = self._draw_shots(data)
        base, new = base_and_new(shots.classes, self.class_order)
        classes = {"all": shots.classes, "base": base, "new": new}[self.part]
        if len(classes) < 2:
            raise DataError(f"the {self.part} part has {len(classes)} class", field=self.label, expected="two classes or more")
        chosen = shots.uids(classes)
        prepared = replace(self, classes=classes, chosen=chosen, data_fingerprint=data.fingerprint)
        prepared = prepared.with_vocabulary(classes)
        prepared.settings().prompts(classes, prepared.words(), prepared.read_length)  # refuses names that do not fit
        batch_size = min(self.batch_size, len(chosen))
        passes = self.passes or EPOCHS[max((n for n in EPOCHS if n <= max(self.shots, 1)), default=1)]
        a_pass = len(chosen) // batch_size if self.leftover == "dropped" else len(chosen) / batch_size
        steps = self.steps or math.ceil(passes * a_pass)
        if prepared.cached:
            image_features(data, self.weights, chosen)
        return replace(prepared, batch_size=batch_size, steps=steps)

    def _draw_shots(self, data: Dataset) -> Shots:
        if self.shot_file:
            shots = Shots.load(Path(self.shot_file))
            there = set(data.uids)
            if lost := next((uid for uid in shots.uids() if uid not in there), ""):
                raise DataError(f"names {lost!r}, which '{data.name}' has not", file=self.shot_file, expected="uids of the data")
            return shots
        if self.shots:
            return draw_shots(data, self.shots, self.draw, label=self.label, language=self.language)
        train = {name: tuple(uids) for name, uids in by_class(data, self.label, self.language).items()}
        return Shots(0, self.draw, self.label, data.fingerprint, train, {})

    def row_order(self, data: Dataset) -> Order | None:
        """Passes over the shots of whole batches alone."""
        return WholeBatchOrder(self.batch_size) if self.leftover == "dropped" else None

    @property
    def cached(self) -> bool:
        """True if image vectors are computed once: the encoder is given and images are not augmented."""
        return bool(self.weights) and self.crop[0] >= 1 and not self.flip

    @property
    def decode_size(self) -> int | None:
        return None if self.cached else super().decode_size

    def settings(self) -> PromptSettings:
        count = len(context_ids(self.words(), self.start)) if self.start else self.context
        shape = (count, self.per_class, self.placement, self.tail, self.start, self.conditioned, self.hyphens)
        return PromptSettings(self.classes, *shape)

    def model(self) -> PromptedEncoder:
        encoder, words, settings = self.base().model, self.words(), self.settings()
        words_MD = None
        if self.start:
            table = token_table(encoder.text_tower)
            words_MD = table(torch.tensor(context_ids(words, self.start), device=table.weight.device)).detach()
        model = prompted_encoder(encoder, settings, words_MD=words_MD)
        model.set_classes(settings.prompts(self.classes, words, self.read_length))
        return model

    def batch(self, draws: Draws) -> ShotBatch:
        class_index = {name: k for k, name in enumerate(self.classes)}
        labels = [label_of(draw.sample, self.label, self.language) for draw in draws]
        if strange := next((name for name in labels if name not in class_index), None):
            expected = f"one of the {len(class_index)} classes of training"
            raise DataError(f"a sample has the label {strange!r}", field=self.label, expected=expected)
        label_B = torch.tensor([class_index[name] for name in labels], dtype=torch.int64)
        if self.cached:
            table = opened_features(str(features_folder(self.data_fingerprint, self.weights, self.chosen)))
            return ShotBatch(None, torch.from_numpy(table.rows([draw.sample.uid for draw in draws])), label_B)
        images = [view(draw, self.preprocess.size, self.crop, self.flip) for draw in draws]
        return ShotBatch(self.preprocess(images), None, label_B)

    def features(self, model: PromptedEncoder, batch: ShotBatch) -> ClassLogits:
        logits: ClassLogits = model(batch.vector_BD if batch.image_BCHW is None else batch.image_BCHW)
        return logits

    def losses(self, features: ClassLogits, batch: ShotBatch) -> dict[str, Tensor]:
        return {"classes": F.cross_entropy(features.logit_NK, batch.label_B)}

    def metrics(self, features: ClassLogits, batch: ShotBatch) -> dict[str, Tensor]:
        return {"right": (features.logit_NK.argmax(1) == batch.label_B).float().mean()}

    def optimiser(self) -> Optimiser:
        everything = (Rule("", decay=True),)  # biases of CoCoOp's network, too, as Dassl has it
        chosen = replace(super().optimiser(), kind="sgd", betas=(0.9, 0.999), coupled_decay=True, rules=everything)
        if self.falls == "step" or not self.chosen:
            return chosen
        if self.low:
            return replace(chosen, schedule="constant")
        share = self.pass_share
        return replace(chosen, falls="period", periods=1 / share, part=(0.0, 1.0 if share >= 0.5 else 1 - share))

    def stored(self, name: str) -> bool:
        """The model that is adapted is opened again and not kept in checkpoints."""
        return not (self.weights and name.startswith("encoder."))

    def stages(self) -> tuple[Stage, ...]:
        """The shots alone; a first pass at the low rate of 1e-5, as published, where there are several."""
        if not self.chosen:
            return ()
        main = Stage("shots", self, keep=self.is_chosen, keep_optimiser=True)
        share = self.pass_share
        if share >= 0.5:
            return (main,)
        low = replace(self, lr=min(WARMUP_RATE, self.lr), low=True)
        return (Stage("warm-up", low, share, keep=self.is_chosen), replace(main, share=1 - share))

    @property
    def pass_share(self) -> float:
        """One pass over the shots as a share of the run."""
        batches = len(self.chosen) / self.batch_size
        return (math.floor(batches) if self.leftover == "dropped" else math.ceil(batches)) / self.steps

    def is_chosen(self, sample: Sample) -> bool:
        """True if a sample is one of the shots."""
        return sample.uid in _uid_set(self.chosen)

    def deploy(self, model: PromptedEncoder) -> PromptedEmbedder:
        kind = ConditionedEmbedder if self.conditioned else PromptedEmbedder
        return kind(model, self.preprocess, self.words(), self.read_length, self.slug, prompts=self.settings())

    @classmethod
    def tiny(cls) -> Self:
        """Four vectors before the names, no augmentation, 40 passes: a minute after the image vectors. Give a trained
        model as `weights`."""
        return cls(
            image_tower="vit_micro",
            text_tower="text_micro",
            width=64,
            image_size=48,
            text_length=24,
            tokenizer="data",
            pieces=400,
            context=4,
            shots=16,
            passes=40,
            leftover="used",
            falls="step",
            lr=2e-3,
        )

    @classmethod
    def paper(cls) -> Self:
        """Sixteen vectors, 8,192 parameters, for ResNet-50 of CLIP; crops and mirror images. Give its released weights as `weights`."""
        return cls(image_tower="resnet_clip_50", width=1024, crop=(0.08, 1.0), flip=True, decoding="whole")

    @classmethod
    def cocoop(cls) -> Self:
        """CoCoOp as published: ViT-B/16, from "a photo of a", one image a step, ten passes."""
        return cls(
            conditioned=True, start="a photo of a", context=4, batch_size=1, passes=10, part="base", crop=(0.08, 1.0), flip=True,
            decoding="whole",
        )  # fmt: skip


@lru_cache(maxsize=4)
def _uid_set(uids: tuple[str, ...]) -> frozenset[str]:
    return frozenset(uids)
