"""Shared by DenseCLIP's detectors, with and without masks: preprocessing, targets of a batch, auxiliary loss and schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draw, Draws, Optimiser
from diptych.core.errors import ConfigError, DataError
from diptych.data.graphs.batch import GraphBatch, graph_batch
from diptych.data.graphs.formats.coco import CROWD
from diptych.data.graphs.label_lists import LabelLists
from diptych.data.graphs.transforms import DetectionTransform, RandomHorizontalFlip, RandomShortSideResize, SquareResize
from diptych.models.denseclip.built import DenseClipSettings
from diptych.models.denseclip.detecting import DenseClipDetectorModel
from diptych.models.detection.images import DetectionPreprocess
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.dense_tap import Positions, fit_positions
from diptych.objectives.boxes.box_scores import STRIDE, box_score_loss, box_targets
from diptych.recipes._shared.frozen.dense_guidance import SMALL_GUIDED, DenseGuidanceRecipe
from diptych.recipes._shared.pairs import F, M

SMALL_DETECTOR: Mapping[str, Any] = {
    **SMALL_GUIDED,
    "image_side": 64,
    "square": True,
    "mirror": 0.0,
    "epochs": 0.0,
    "steps": 600,
    "warmup": 50.0,
    "clip_norm": 1.0,
    "lr_drops": (0.8,),
}
"""The same with pictures squashed to 64 pixels."""


@dataclass(frozen=True, kw_only=True)
class DenseDetectionRecipe(DenseGuidanceRecipe[M, GraphBatch, F]):
    """Finds things of named classes (DenseCLIP, 2112.01518).

    outside      a region of another name: refuse, or drop it
    tau, score_weight  temperature of the scores and weight of their own loss
    released_edges  boxes end a place before the edge in the targets of the scores, as released
    image_side   pixels of the short side, or of both when `square`; longest: of the long side; 0 takes the image size of the weights
    square       whether a picture is squeezed to a square
    position_side  pixels a side of the square for which the table of positions is made (published 1344). Where pictures are square,
                 their size
    positions    of other pictures, by a residual network: the table "resized", or its upper left corner "cut", as released
    mirror       share of the pictures that are mirrored
    lr_drops     shares of the run after which the learning rate is a tenth
    """

    needs = ("image", "regions")
    masked: ClassVar[bool] = False
    """Whether a batch holds the masks of the regions."""

    outside: Literal["refuse", "drop"] = "refuse"
    score_weight: float = 1.0
    released_edges: bool = False
    image_side: int = 800
    longest: int = 1333
    square: bool = False
    position_side: int = 1344
    positions: Positions = "resized"
    mirror: float = 0.5

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
        if self.positions not in ("resized", "cut"):
            raise ConfigError(f"positions is {self.positions!r} (expected resized | cut)")

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
    def views(self) -> DetectionTransform:
        mirror = RandomHorizontalFlip(share=self.mirror)
        if self.square:
            return SquareResize(size=self.side, mirror=mirror, smooth=self.smooth)
        return RandomShortSideResize(shorts=(self.side,), longest=self.longest, mirror=mirror, smooth=self.smooth)

    @property
    def images(self) -> DetectionPreprocess:
        """Preprocessing of the deployed model."""
        preprocess = super().preprocess
        longest = 0 if self.square else self.longest
        shape: dict[str, Any] = {"longest": longest, "square": self.square, "smooth": self.smooth}
        return DetectionPreprocess(self.side, **shape, mean=preprocess.mean, std=preprocess.std)

    # ------------------------------------------------------------ a step

    def encoder(self) -> DualEncoder:
        """The model that is adapted, with positions for pictures of these sizes."""
        encoder = self.base().model
        if not self.backbone:
            fit_positions(encoder.image_tower, self.side if self.square else self.position_side)
        return encoder

    def settings(self, encoder: DualEncoder) -> DenseClipSettings:
        return replace(super().settings(encoder), positions=self.positions)

    def batch(self, draws: Draws) -> GraphBatch:
        preprocess = self.images
        return graph_batch(
            replace(draws, items=tuple(_boxes_alone(draw) for draw in draws)),
            views=self.views,
            labels=LabelLists(self.named),
            outside=self.outside,
            multiple=preprocess.stride,
            mean=preprocess.mean,
            std=preprocess.std,
            masks=self.masked,
        )

    def score_loss(self, score_BKHW: Tensor, batch: GraphBatch) -> Tensor:
        """Auxiliary classification loss of the score map [B, K, H, W] at positions within the true boxes."""
        boxes, labels = targets(batch)
        height, width = (side // STRIDE for side in batch.image_BCHW.shape[2:])
        box_classes = box_targets(boxes, labels, len(self.named), height, width, released=self.released_edges)
        return self.score_weight * box_score_loss(score_BKHW, *box_classes)

    def real(self, anchor_A4: Tensor, batch: GraphBatch) -> Tensor:
        """bool [B, A]: whether an anchor begins on its own picture, that padded to a multiple of the stride."""
        stride = self.images.stride
        size_B2 = (batch.size_B2 + stride - 1) // stride * stride
        middle_A2 = ((anchor_A4[:, :2] + anchor_A4[:, 2:]) / 2).round()  # whole by construction, but for the rounding of corners
        return (middle_A2[None] < size_B2.flip(1)[:, None].to(middle_A2)).all(2)

    def optimiser(self) -> Optimiser:
        chosen = replace(super().optimiser(), betas=(0.9, 0.999), eps=1e-8, schedule="step")
        return replace(chosen, drop_at=self.lr_drops, warmup_from=self.warmup_from, rules=self.rules)

    def deploy(self, model: Any) -> DenseClipDetectorModel:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            settings = self.settings(self.encoder())
        return DenseClipDetectorModel(model, settings, self.images, self.words(), self.slug)


def _boxes_alone(draw: Draw) -> Draw:
    """Without relations, without crowds, which are no single thing (COCO's `iscrowd`), and without boxes of less than a pixel a side, as
    mmdetection reads COCO."""
    regions = tuple(
        region
        for region in draw.sample.regions
        if CROWD not in region.attributes and min(region.box[2] - region.box[0], region.box[3] - region.box[1]) >= 1
    )
    return replace(draw, sample=replace(draw.sample, regions=regions, relations=()))


def targets(batch: GraphBatch) -> tuple[list[Tensor], list[Tensor]]:
    """Boxes of each image, xyxy in pixels of the batch, and their classes."""
    boxes, labels = [], []
    for row, (height, width) in enumerate(batch.size_B2.tolist()):
        region_K = batch.region_mask_BK[row]
        middle_K2, side_K2 = batch.box_BK4[row, region_K].split(2, 1)
        corner_K4 = torch.cat((middle_K2 - side_K2 / 2, middle_K2 + side_K2 / 2), 1)
        boxes.append(corner_K4 * corner_K4.new_tensor([width, height, width, height]))
        labels.append(batch.label_BK[row, region_K])
    return boxes, labels
