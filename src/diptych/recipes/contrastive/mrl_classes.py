"""MRL with class labels: a classifier on every prefix of an image embedding, as in the paper's own models."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draws, Optimiser, Recipe, Rule
from diptych.core.errors import ConfigError, DataError
from diptych.core.rows import Rows
from diptych.data.labels import label_of
from diptych.data.load.batch import TensorBatch, view
from diptych.data.media.transforms import IMAGENET_MEAN, IMAGENET_STD, CropForm, Preprocess
from diptych.models.pairs.classifiers.class_embedder import ClassEmbedder, NestedImageClassifier, NestedLogits
from diptych.models.towers.towers import image_tower
from diptych.objectives.pairs.nested import Reduction, nested_cross_entropy


@dataclass(frozen=True)
class LabelBatch(TensorBatch):
    """Images and the number of the class of each."""

    image_BCHW: Rows[Tensor]
    label_B: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class MRLClasses(Recipe[NestedImageClassifier, LabelBatch, NestedLogits]):
    """Matryoshka Representation Learning of classes (Kusupati et al., 2022, arXiv 2205.13147); `mrl` is the form for pairs of images and
    texts.

    An image's vector is cut to its first d dimensions for each d of `dims`, and a linear classifier on each of these prefixes learns the
    labels: L = sum over d of c_d times the cross-entropy. Prefixes are not normalised. The classifiers are separate (MRL) or cut from one
    weight with a shared bias (MRL-E, `tied`). The model that remains classifies at every one of those widths (`diptych eval MODEL
    classification`), and its image vectors are searched at any (`model.first(16)`).

    Released training is that of FFCV: SGD with decay in the momentum, a rate that rises for two epochs and falls linearly, crops of 8 to
    100 % of the area, small ones in the first epochs, blurred strided convolutions, evaluation on the middle of larger pictures, with
    mirror images. Its script of evaluation alone resizes to 256 pixels and takes the middle 224 (`shown_size` 224); while training it
    cuts seven eighths out of the middle and resizes them to 256, which we do in the other order. We depart in the filter of FFCV, which
    takes means over areas where we resize bilinearly.

    label      column with the class; "label" falls back to the text of origin "label"
    dims       widths of the prefixes; those beyond the width of the tower are refused
    weights    one for each of `dims`; none: 1 each, as published
    tied       one weight for all prefixes (MRL-E) instead of one each
    head_bias  whether the classifiers have one
    smoothing  share of the target that is spread over all classes
    early_size, early_share  pixels a side of the crops in the first share of the steps (released: 32 epochs of 40); 0 has image_size in all
    shown_size pixels a side in evaluation, the middle 7/8 of the shorter side; 0 takes image_size, of the whole shorter side
    interpolation  how pictures are resized, in training and after it
    decoding   in training: "whole" pictures, as released, or JPEG files "reduced" to the least size that is at least image_size
    decay      weight decay is where the "released" code has it, which spares what has "bn" in its name, so not the norms of shortcuts, or
               on "matrices" alone
    zero_last  whether the last norm of each residual block of a timm tower begins at 0; False: at 1, as torchvision's
    warmup_from  share of the rate at step 0; None: the first step has lr / warmup
    blur       strided convolutions of a timm tower see a smoothed map
    mirrored   `classify` reads an image and its mirror image
    optimiser_kind  "sgd" as published, or "adamw" for small models; momentum of the first
    reduction       whether the losses of the prefixes are summed or averaged
    """

    slug = "mrl_classes"
    needs: ClassVar[tuple[str, ...]] = ("image",)

    image_tower: str = "timm:resnet50"
    image_size: int = 192
    label: str = "label"
    language: str = "en"
    dims: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    weights: tuple[float, ...] = ()
    reduction: Reduction = "sum"
    tied: bool = False
    head_bias: bool = True
    smoothing: float = 0.1
    blur: bool = True
    mirrored: bool = True
    crop: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    early_size: int = 160
    early_share: float = 0.8
    shown_size: int = 256
    interpolation: Literal["bicubic", "bilinear"] = "bilinear"
    decoding: Literal["reduced", "whole"] = "whole"
    decay: Literal["released", "matrices"] = "released"
    zero_last: bool = False
    warmup_from: float | None = 1e-4
    optimiser_kind: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9

    batch_size: int = 1024
    epochs: float = 40.0
    lr: float = 0.425
    warmup: float = 0.05
    weight_decay: float = 1e-4

    classes: tuple[str, ...] = field(default=(), metadata={"prepared": True})
    early_steps: int = field(default=0, metadata={"prepared": True})

    def __post_init__(self) -> None:
        if not self.dims or list(self.dims) != sorted(set(self.dims)) or self.dims[0] < 1:
            raise ConfigError(f"dims is {list(self.dims)} (expected different widths of 1 or more, in order)")
        if self.weights and len(self.weights) != len(self.dims):
            raise ConfigError(f"{len(self.weights)} weights for {len(self.dims)} dims (expected one each, or none)")
        if self.blur and not self.image_tower.startswith("timm:"):
            raise ConfigError(
                f"image tower '{self.image_tower}' has no strided convolutions to blur (expected timm:NAME, or --blur False)"
            )

    @property
    def measured_by(self) -> str:
        return f"classification:label={self.label}"

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess(self.image_size, IMAGENET_MEAN, IMAGENET_STD, interpolation=self.interpolation)

    @property
    def deployed_preprocess(self) -> Preprocess:
        """Preprocessing of the deployed model."""
        if not self.shown_size:
            return self.preprocess
        return replace(self.preprocess, size=self.shown_size, margin=round(self.shown_size * 8 / 7) - self.shown_size)

    @property
    def decode_size(self) -> int:
        return 0 if self.decoding == "whole" else self.image_size

    def prepare(self, data: Dataset) -> Self:
        """Names of the classes, in order, from the labels of the training data; how many steps see small crops."""
        prepared = self._with_classes(data)
        if not self.early_size:
            return prepared
        steps = self.steps or math.ceil(self.epochs * len(data) / self.batch_size)
        return replace(prepared, early_steps=round(self.early_share * steps))

    def _with_classes(self, data: Dataset) -> Self:
        if self.classes:
            return self
        labels = {label_of(data[row], self.label, self.language) for row in range(len(data))}
        if len(labels) < 2:
            raise DataError(f"'{data.name}' has {len(labels)} class", field=self.label, expected="two classes or more")
        return replace(self, classes=tuple(sorted(labels)))

    def model(self) -> NestedImageClassifier:
        residual = self.image_tower.startswith("timm:res")
        options = ({"blur": True} if self.blur else {}) | ({"zero_last": self.zero_last} if residual else {})
        tower = image_tower(self.image_tower, image_size=self.image_size, **options)
        return NestedImageClassifier(tower, len(self.classes), self.dims, tied=self.tied, bias=self.head_bias)

    def batch(self, draws: Draws) -> LabelBatch:
        side = self.early_size if draws.step < self.early_steps else self.image_size
        images = [view(draw, side, self.crop, self.flip, CropForm(interpolation=self.interpolation)) for draw in draws]
        labels = []
        for draw in draws:
            name = label_of(draw.sample, self.label, self.language)
            if name not in self.classes:
                expected = f"one of the {len(self.classes)} classes of training"
                raise DataError(f"sample {draw.sample.uid} has the label '{name}'", field=self.label, expected=expected)
            labels.append(self.classes.index(name))
        return LabelBatch(replace(self.preprocess, size=side)(images), torch.tensor(labels, dtype=torch.int64))

    def features(self, model: NestedImageClassifier, batch: LabelBatch) -> NestedLogits:
        logits: NestedLogits = model(batch.image_BCHW)
        return logits

    def losses(self, features: NestedLogits, batch: LabelBatch) -> dict[str, Tensor]:
        options = {"weights": self.weights or None, "smoothing": self.smoothing, "reduction": self.reduction}
        loss, _ = nested_cross_entropy(features.logit_NMC.transpose(0, 1), batch.label_B, **options)  # type: ignore[arg-type]
        return {"classes": loss}

    def metrics(self, features: NestedLogits, batch: LabelBatch) -> dict[str, Tensor]:
        """Share of the batch that each width gets right."""
        right_NM = features.logit_NMC.argmax(2) == batch.label_B[:, None]
        return {f"first_{d}": right_NM[:, m].float().mean() for m, d in enumerate(self.dims)}

    def optimiser(self) -> Optimiser:
        """The release spares what has "bn" in its name, so the classifiers' biases decay, and the norms of shortcuts do."""
        chosen = replace(super().optimiser(), warmup_from=self.warmup_from)
        if self.optimiser_kind == "adamw":
            return chosen
        rules = (Rule(r"^classifier\..*bias$|\bdownsample\.1\.", decay=True),) if self.decay == "released" else ()
        momentum = (self.momentum, chosen.betas[1])
        return replace(chosen, kind="sgd", betas=momentum, coupled_decay=True, schedule="linear", rules=rules)

    def deploy(self, model: NestedImageClassifier) -> ClassEmbedder:
        return ClassEmbedder(model, self.deployed_preprocess, self.classes, self.slug, flip=self.mirrored)

    @classmethod
    def tiny(cls) -> Self:
        """A small convolutional network at 64 pixels."""
        return cls(
            image_tower="convnet_tiny",
            image_size=64,
            dims=(4, 8, 16, 32, 64, 128, 256),
            blur=False,
            crop=(0.8, 1.0),
            flip=False,
            early_size=0,
            shown_size=0,
            interpolation="bicubic",
            decoding="reduced",
            warmup_from=None,
            optimiser_kind="adamw",
            batch_size=128,
            steps=300,
            lr=1e-3,
            warmup=20.0,
            weight_decay=0.05,
            clip_norm=1.0,
        )

    @classmethod
    def paper(cls) -> Self:
        """ResNet-50 on ImageNet-1k for 40 epochs; classes come from the data."""
        return cls()
