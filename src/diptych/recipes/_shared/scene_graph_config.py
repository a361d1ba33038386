"""Configurations of PE-Net's training: views of pictures, losses of prototypes, and rates."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from diptych.core.contracts import Optimiser, Rule
from diptych.core.errors import ConfigError
from diptych.data.graphs.transforms import DetectionTransform, RandomHorizontalFlip, RandomShortSideResize, SquareResize
from diptych.data.media.transforms import IMAGENET_MEAN, IMAGENET_STD, Triple
from diptych.models.detection.images import DetectionPreprocess
from diptych.objectives.boxes.predicate_prototypes import prototype_distance, prototype_similarity, prototype_spread


@dataclass(frozen=True, slots=True)
class SceneGraphViews:
    """Sizes and colours of the pictures of a scene graph network.

    longest      pixels of the long side at most
    square       both sides to `image_size` whatever the shape (for small models)
    pixel_mean, pixel_std   of RGB from 0 to 1
    mirror       share of the pictures that are turned left to right, whatever names say (released code has .5 in place of its option)
    """

    longest: int = 1000
    square: bool = False
    pixel_mean: Triple = IMAGENET_MEAN
    pixel_std: Triple = IMAGENET_STD
    mirror: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.mirror <= 1:
            raise ConfigError(f"mirror is {self.mirror} (expected a share from 0 to 1)")

    def training(self, image_size: int) -> DetectionTransform:
        """Resizing and mirroring of a training picture."""
        mirror = RandomHorizontalFlip(share=self.mirror, sides="keep")
        if self.square:
            return SquareResize(size=image_size, mirror=mirror)
        return RandomShortSideResize(shorts=(image_size,), longest=self.longest, mirror=mirror)

    def deployed(self, image_size: int) -> DetectionPreprocess:
        """Preprocessing of the deployed model."""
        longest = 0 if self.square else self.longest
        return DetectionPreprocess(image_size, longest=longest, square=self.square, mean=self.pixel_mean, std=self.pixel_std)


@dataclass(frozen=True, slots=True)
class PrototypeLosses:
    """Weights and margins of the losses of prototypes; a weight of 0 leaves its term out.

    distance, similarity, spread   weights of the three losses of prototypes (published 1)
    distance_margin, spread_margin   squared distances that a pair should be nearer to its own prototype than to others, and that
                 two prototypes should lie apart
    """

    distance: float = 1.0
    similarity: float = 1.0
    spread: float = 1.0
    distance_margin: float = 1.0
    spread_margin: float = 7.0

    def terms(self, pair_PD: Tensor, prototype_KD: Tensor, relation_P: Tensor) -> dict[str, Tensor]:
        """Weighted loss terms by name, scalars. `relation_P` has the predicate of each pair, 0 for none."""
        terms: dict[str, Tensor] = {}
        if self.distance:
            terms["distance"] = self.distance * prototype_distance(pair_PD, prototype_KD, relation_P, margin=self.distance_margin)
        if self.similarity:
            terms["similarity"] = self.similarity * prototype_similarity(prototype_KD)
        if self.spread:
            terms["spread"] = self.spread * prototype_spread(prototype_KD, margin=self.spread_margin)
        return terms


@dataclass(frozen=True, slots=True)
class SceneGraphRates:
    """Gradient descent of a scene graph network.

    momentum     of stochastic gradient descent; 0 takes AdamW
    bias_lr      factor of the learning rate for biases
    lr_drops     shares of the run after which the learning rate is a tenth of what it was
    warmup_from  share of the learning rate at the first step, from which it rises; None starts near 0
    late         each step has the rate of so many before it; -1: of the next one, as where the schedule moves before the update
    """

    momentum: float = 0.9
    bias_lr: float = 1.0
    lr_drops: tuple[float, ...] = (28 / 60, 48 / 60)
    warmup_from: float | None = 0.1
    late: float = 0

    def applied_to(self, optimiser: Optimiser, fixed: tuple[str, ...]) -> Optimiser:
        """The optimiser with these rates; parameters that a pattern of `fixed` matches do not learn."""
        biases = Rule(r"bias$", lr_scale=self.bias_lr, decay=False)
        return replace(
            optimiser,
            kind="sgd" if self.momentum else "adamw",
            betas=(self.momentum or 0.9, 0.999),
            eps=1e-8,
            coupled_decay=bool(self.momentum),
            schedule="step",
            warmup_from=self.warmup_from,
            late=self.late,
            drop_at=self.lr_drops,
            # Everything decays but biases: norms and the scale of the cosines too, as released.
            rules=(*(Rule(name, lr_scale=0.0) for name in fixed), biases, Rule("", decay=True)),
        )
