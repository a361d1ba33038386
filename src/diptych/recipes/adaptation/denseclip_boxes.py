"""DenseCLIP for boxes: class names guide a RetinaNet on the image side of a trained model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, Self

import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draw, Draws, Optimiser
from diptych.core.errors import ConfigError, DataError
from diptych.data.graphs.batch import GraphBatch, graph_batch
from diptych.data.graphs.formats.coco import CROWD
from diptych.data.graphs.label_lists import LabelLists
from diptych.data.graphs.transforms import Mirror, ShortSides, Squashed, Views
from diptych.models.denseclip.built import dense_detector
from diptych.models.denseclip.dense_detector import DenseDetector, Detected
from diptych.models.denseclip.detecting import DetectingModel
from diptych.models.detection.anchor_boxes import AnchorShape
from diptych.models.detection.images import DetectionImages
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.dense_tap import fit_positions
from diptych.objectives.boxes.anchors import anchor_losses
from diptych.objectives.boxes.box_scores import STRIDE, box_score_loss, box_targets
from diptych.recipes._shared.frozen.dense_guidance import GuidedRecipe


@dataclass(frozen=True, kw_only=True)
class DenseCLIPBoxes(GuidedRecipe[DenseDetector, GraphBatch, Detected]):
    """DenseCLIP (Rao et al., 2021, arXiv 2112.01518) as a detector, its RetinaNet (1708.02002); `denseclip` names pixels.

    The image side of a trained dual encoder is fine-tuned under a pyramid from stride 8 on, whose every place says a class and a box. Class
    names, behind eight learned vectors and refined by the picture, are compared with every place; these scores, divided by `tau`, stand
    beside the last map before the pyramid, and have to say of every place in a box which classes it shows. Its baseline is the same
    detector without language (`language` "none").

    Losses are mmdetection's, with which it was trained: sums over the batch's boxes (`anchor_losses`). We depart in this: a picture
    without a box has a score loss of 0. Its Mask R-CNN is not here.

    outside      a region of another name: refuse, or drop it
    tau, score_weight  temperature of the scores and weight of their own loss
    released_edges  boxes end a place before the edge in the targets of the scores, as released
    image_side   pixels of the short side, or of both when `square`; longest: of the long side; 0 takes the image size of the weights
    square       whether a picture is squeezed to a square
    position_side  pixels a side of the square for which the table of positions is made (published 1344); other pictures resize it. Where
                 pictures are square, their size
    mirror       share of the pictures that are mirrored
    lr_drops     shares of the run after which the learning rate is a tenth
    anchors      which boxes there are and which are kept (`AnchorShape`); its fields are options like these
    """

    slug = "denseclip_boxes"
    needs = ("image", "regions")

    outside: Literal["refuse", "drop"] = "refuse"
    score_weight: float = 1.0
    released_edges: bool = False
    image_side: int = 800
    longest: int = 1333
    square: bool = False
    position_side: int = 1344
    mirror: float = 0.5
    anchors: AnchorShape = field(default_factory=AnchorShape)

    batch_size: int = 16
    epochs: float = 12.0
    lr: float = 1e-4
    warmup: float = 500.0
    warmup_from: float | None = 0.001
    weight_decay: float = 1e-4
    clip_norm: float = 0.1
    lr_drops: tuple[float, ...] = (8 / 12, 11 / 12)

    def __post_init__(self) -> None:
        if not self.tau > 0 or self.score_weight < 0:
            raise ConfigError(f"tau is {self.tau} and score_weight {self.score_weight} (expected above 0, and 0 or more)")
        if self.outside not in ("refuse", "drop"):
            raise ConfigError(f"outside is {self.outside!r} (expected refuse | drop)")

    @property
    def measured_by(self) -> str:
        return "open_detection"

    def prepare(self, data: Dataset) -> Self:
        """Names of the classes, from the regions of the training data where none are given."""
        if self.named:
            return self
        names = self.classes or tuple(sorted({region.label for row in range(len(data)) for region in data[row].regions}))
        if not names:
            raise DataError(f"'{data.name}' has no labelled box", field="regions", expected="samples with regions")
        return replace(self, named=names).with_vocabulary(names)

    # ------------------------------------------------------------ pictures

    @property
    def side(self) -> int:
        """Pixels of the short side, or of both."""
        return self.image_side or super().preprocess.size

    @property
    def decode_size(self) -> int:
        """Full size: boxes are in pixels of it."""
        return 0

    @property
    def views(self) -> Views:
        mirror = Mirror(share=self.mirror)
        if self.square:
            return Squashed(size=self.side, mirror=mirror)
        return ShortSides(shorts=(self.side,), longest=self.longest, mirror=mirror)

    @property
    def images(self) -> DetectionImages:
        """How the deployed model is shown its images."""
        seen = super().preprocess
        longest = 0 if self.square else self.longest
        return DetectionImages(self.side, longest=longest, square=self.square, mean=seen.mean, std=seen.std)

    # ------------------------------------------------------------ a step

    def encoder(self) -> DualEncoder:
        """The model that is adapted, with positions for pictures of these sizes."""
        encoder = self.base().model
        if not self.backbone:
            fit_positions(encoder.image_tower, self.side if self.square else self.position_side)
        return encoder

    def model(self) -> DenseDetector:
        encoder = self.encoder()
        model = dense_detector(self.settings(encoder), self.anchors, self.tau, self.words(), encoder)
        self.count_text_(model.guide)
        return model

    def batch(self, draws: Draws) -> GraphBatch:
        seen = self.images
        return graph_batch(
            replace(draws, items=tuple(_boxes_alone(draw) for draw in draws)),
            views=self.views,
            labels=LabelLists(self.named),
            outside=self.outside,
            multiple=seen.stride,
            mean=seen.mean,
            std=seen.std,
        )

    def features(self, model: DenseDetector, batch: GraphBatch) -> Detected:
        detected: Detected = model(batch.image_BCHW)
        return detected

    def losses(self, features: Detected, batch: GraphBatch) -> dict[str, Tensor]:
        boxes, labels = _targets(batch)
        real_NA = _real(features.anchor_A4, batch, self.images.stride)
        terms = anchor_losses(features.logit_NAK, features.change_NA4, features.anchor_A4, boxes, labels, real_NA)
        if features.score_NKHW is not None:
            height, width = (side // STRIDE for side in batch.image_BCHW.shape[2:])
            wanted = box_targets(boxes, labels, len(self.named), height, width, released=self.released_edges)
            terms["score"] = self.score_weight * box_score_loss(features.score_NKHW, *wanted)
        return terms

    def optimiser(self) -> Optimiser:
        chosen = replace(super().optimiser(), betas=(0.9, 0.999), eps=1e-8, schedule="step")
        return replace(chosen, drop_at=self.lr_drops, warmup_from=self.warmup_from, rules=self.rules)

    def deploy(self, model: DenseDetector) -> DetectingModel:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            settings = self.settings(self.encoder())
        return DetectingModel(model, settings, self.images, self.words(), self.slug)

    # ------------------------------------------------------------ presets

    @classmethod
    def tiny(cls) -> Self:
        """A small vision transformer with patches of 8 pixels, images squashed to 64: minutes. Give a trained model as `weights`."""
        return cls(
            image_tower="vit_micro",
            patch=8,
            text_tower="text_micro",
            width=64,
            image_size=64,
            text_length=24,
            tokenizer="data",
            pieces=400,
            inner=64,
            neck=64,
            image_side=64,
            square=True,
            mirror=0.0,
            anchors=AnchorShape(size=1.5, octave=2, extra=0),
            batch_size=16,
            epochs=0.0,
            steps=600,
            lr=1e-3,
            warmup=50.0,
            warmup_from=None,
            decay="matrices",
            text_side="frozen",
            clip_norm=1.0,
            lr_drops=(0.8,),
            backbone_rate=1.0,
        )

    @classmethod
    def paper(cls) -> Self:
        """RetinaNet on ResNet-50 of CLIP, twelve passes over COCO in batches of 16. Give its released weights as `weights`."""
        return cls(image_tower="resnet_clip_50", width=1024, released_edges=True)


def _boxes_alone(draw: Draw) -> Draw:
    """Without relations, and without crowds, which are no single thing (COCO's `iscrowd`)."""
    regions = tuple(region for region in draw.sample.regions if CROWD not in region.attributes)
    return replace(draw, sample=replace(draw.sample, regions=regions, relations=()))


def _targets(batch: GraphBatch) -> tuple[list[Tensor], list[Tensor]]:
    """Boxes of each image, xyxy in pixels of the batch, and their classes."""
    boxes, labels = [], []
    for row, (height, width) in enumerate(batch.size_B2.tolist()):
        region_K = batch.region_mask_BK[row]
        middle_K2, side_K2 = batch.box_BK4[row, region_K].split(2, 1)
        corner_K4 = torch.cat((middle_K2 - side_K2 / 2, middle_K2 + side_K2 / 2), 1)
        boxes.append(corner_K4 * corner_K4.new_tensor([width, height, width, height]))
        labels.append(batch.label_BK[row, region_K])
    return boxes, labels


def _real(anchor_A4: Tensor, batch: GraphBatch, stride: int) -> Tensor:
    """bool [B, A]: whether an anchor begins on its own picture, that padded to a multiple of the stride."""
    size_B2 = (batch.size_B2 + stride - 1) // stride * stride
    middle_A2 = (anchor_A4[:, :2] + anchor_A4[:, 2:]) / 2
    return (middle_A2[None] < size_B2.flip(1)[:, None].to(middle_A2)).all(2)
