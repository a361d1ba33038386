"""DenseCLIP: semantic segmentation with pixel-text score maps of a trained dual encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draws, Optimiser
from diptych.core.errors import DataError
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.label_maps import LABELS, LabelMaps
from diptych.data.load.batch import TensorBatch, pixels
from diptych.data.media.augment.segmentation_views import SegmentationView, filled
from diptych.data.media.transforms import Preprocess
from diptych.models.denseclip.built import dense_segmenter
from diptych.models.denseclip.dense_segmenter import DenseClipSegmenter, DenseClipSegmenterOutput
from diptych.models.denseclip.segmenting import DenseClipSegmenterModel
from diptych.models.towers.dense_tap import fit_positions
from diptych.objectives.segmentation import pixel_cross_entropy
from diptych.recipes._shared.frozen.dense_guidance import SMALL_GUIDED, DenseGuidanceRecipe


@dataclass(frozen=True)
class MaskBatch(TensorBatch):
    """Images and the class of each pixel, 255 where none counts."""

    image_BCHW: Rows[Tensor]
    label_BHW: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class DenseCLIP(DenseGuidanceRecipe[DenseClipSegmenter, MaskBatch, DenseClipSegmenterOutput]):
    """DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting (Rao et al., 2021, arXiv 2112.01518).

    The image side of a trained dual encoder is fine-tuned with a Semantic FPN. Class names, behind eight learned vectors, go through the
    frozen text side; a small decoder lets them look at the picture, and its answer is added behind a learned gate that starts at 1e-4. The
    cosine of every place with every name, the score map, stands beside the last map before the pyramid, and has a cross-entropy of its
    own, divided by `tau`, with weight `score_weight`. `denseclip_boxes` is its detector.

    In the released code the "frozen" text side moves, since its rate of 0 is raised to the floor of the schedule, which is one number for
    all; `text_side="frozen"` holds it, and `floor="share"` gives each rate a floor of its own. A loss is the mean over labelled pixels,
    where `count_ignored` has the release's.

    background   the class of pixels of no region; "" ignores them. reduce_zero: of label maps, 0 is ignored and 1 is the first class
    tau, score_weight  temperature and weight of the score map's own loss
    crop_size    pixels of a training crop and of the sliding window; 0: the image size of the weights
    stride       step of the sliding window; 0: two thirds of its size
    scale, most, flip, shake  augmentation, see `SegmentationView`; what a small picture leaves of a crop has the mean colour
    longest      pixels of the long side at most, before the factor of the augmentation
    power        of the polynomial by which the rate falls
    floor        of the schedule: one "rate" for all parameters, as released, or the same "share" of each rate
    count_ignored  divides a loss by all pixels, as released, and not by the labelled ones
    """

    slug = "denseclip"
    needs: ClassVar[tuple[str, ...]] = ("image",)
    presets: ClassVar[tuple[str, ...]] = ("tiny", "paper", "vit")

    background: str = ""
    reduce_zero: bool = False
    score_weight: float = 0.4
    count_ignored: bool = False
    crop_size: int = 512
    stride: int = 0
    longest: int = 2048
    scale: tuple[float, float] = (0.5, 2.0)
    most: float = 0.75
    flip: bool = True
    shake: bool = True
    power: float = 0.9

    batch_size: int = 32
    steps: int = 80_000
    lr: float = 1e-4
    warmup: float = 1500.0
    warmup_from: float | None = 1e-6
    over: Literal["rest", "both"] = "both"
    floor: Literal["share", "rate"] = "rate"
    weight_decay: float = 1e-4

    @property
    def measured_by(self) -> str:
        options = f"background={self.background}" if self.background else f"reduce_zero={self.reduce_zero}"
        return f"segmentation:{options}"

    def prepare(self, data: Dataset) -> Self:
        """Names of the classes, from the regions of the training data where none are given."""
        if self.named:
            return self
        names = self.classes or self._class_names(data)
        if len(names) < 2:
            raise DataError(f"'{data.name}' has {len(names)} class", field="regions", expected="two or more, or --classes")
        LabelMaps(names, self.background, self.reduce_zero)
        return replace(self, named=names).with_vocabulary(names)

    def _class_names(self, data: Dataset) -> tuple[str, ...]:
        labels = {self.background} - {""}
        for row in range(len(data)):
            sample = data[row]
            if LABELS in sample.media:
                raise DataError("label maps hold numbers", file=data.name, field="classes", expected="--classes in their order")
            labels |= {region.label for region in sample.regions if region.mask}
        return tuple(sorted(labels))

    @property
    def side(self) -> int:
        """Pixels of a crop."""
        return self.crop_size or super().preprocess.size

    @property
    def preprocess(self) -> Preprocess:
        return replace(super().preprocess, size=self.side)

    @property
    def decode_size(self) -> int:
        return 0

    def model(self) -> DenseClipSegmenter:
        encoder = self.base().model
        if not self.backbone:
            fit_positions(encoder.image_tower, self.side)
        model = dense_segmenter(self.settings(encoder), self.words(), encoder)
        self.started_(model)
        return model

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        loaded = dict(super().load(sample, rng))
        if "image" in loaded:
            height, width = loaded["image"].shape[:2]
            loaded[LABELS] = LabelMaps(self.named, self.background, self.reduce_zero)(sample, height, width)
        return loaded

    def batch(self, draws: Draws) -> MaskBatch:
        view = SegmentationView(self.side, self.scale, self.most, self.flip, self.shake, self.smooth, self.longest)
        views = [view(pixels(draw), draw.media[LABELS], draw.rng) for draw in draws]
        whole = [filled(self.preprocess.normalise(image_HWC[None])[0], label_HW, self.side) for image_HWC, label_HW in views]
        return MaskBatch(
            torch.stack([image_CHW for image_CHW, _ in whole]), torch.from_numpy(np.stack([label_HW for _, label_HW in whole]))
        )

    def features(self, model: DenseClipSegmenter, batch: MaskBatch) -> DenseClipSegmenterOutput:
        segmented: DenseClipSegmenterOutput = model(batch.image_BCHW)
        return segmented

    def losses(self, features: DenseClipSegmenterOutput, batch: MaskBatch) -> dict[str, Tensor]:
        losses = {"pixels": pixel_cross_entropy(features.logit_NKHW, batch.label_BHW, count_ignored=self.count_ignored)}
        if features.score_NKHW is not None:
            score = pixel_cross_entropy(features.score_NKHW / self.tau, batch.label_BHW, count_ignored=self.count_ignored)
            losses["score"] = self.score_weight * score
        return losses

    def optimiser(self) -> Optimiser:
        chosen = replace(super().optimiser(), betas=(0.9, 0.999), eps=1e-8, schedule="linear", final_lr=0.01)
        falls = replace(chosen, power=self.power, warmup_from=self.warmup_from, over=self.over, floor=self.floor)
        return replace(falls, rules=self.rules)

    def deploy(self, model: DenseClipSegmenter) -> DenseClipSegmenterModel:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            encoder = self.base().model
            if not self.backbone:
                fit_positions(encoder.image_tower, self.side)
        stride = self.stride or max(1, self.side * 2 // 3)
        shown: dict[str, Any] = {"stride": stride, "longest": self.longest, "smooth": self.smooth}
        return DenseClipSegmenterModel(model, self.settings(encoder), self.preprocess, self.words(), self.slug, **shown)

    @classmethod
    def tiny(cls) -> Self:
        """A small vision transformer with patches of 8 pixels, whole images of 64: minutes. Give a trained model as `weights`."""
        return cls(
            **SMALL_GUIDED,
            background="background",
            crop_size=64,
            scale=(1.0, 1.0),
            most=1.0,
            flip=False,
            shake=False,
            steps=300,
            warmup=20.0,
            over="rest",
            floor="share",
        )

    @classmethod
    def paper(cls) -> Self:
        """ResNet-50 of CLIP on crops of 512 pixels, 80,000 steps of 32 images."""
        return cls(image_tower="resnet_clip_50", width=1024, stride=341, count_ignored=True)

    @classmethod
    def vit(cls) -> Self:
        """CLIP's ViT-B/16 on crops of 640 pixels, with a tenth of stochastic depth, as published."""
        return cls(crop_size=640, stride=426, drop_path=0.1, class_twice=True, count_ignored=True)
