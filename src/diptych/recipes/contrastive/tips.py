"""TIPS: a dual encoder with spatially aware patch features, by captioning, self-distillation and masking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor

from diptych.core.contracts import Draws, Hook
from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.data.load.batch import TripletBatch
from diptych.data.media.augment.views import hidden_patches, local_views
from diptych.models.pairs.encoders.dense_encoder import DenseEncoder, DensePairs, Token
from diptych.models.towers.dense_vit import DenseViT
from diptych.models.towers.outputs import all_or_none
from diptych.models.towers.towers import patches_a_side
from diptych.objectives.distillation.koleo import koleo
from diptych.objectives.distillation.self_distillation import self_distillation, updated_centre
from diptych.recipes._shared.frozen.initial_weights import dense_names, with_dense_tower
from diptych.recipes._shared.presets import SMALL_CLIP
from diptych.recipes._shared.teachers import TeacherFromStart, follow_
from diptych.recipes._shared.texts.two_texts import TwoTextRecipe


@dataclass(frozen=True, kw_only=True)
class DenseBatch(TripletBatch):
    """Two texts an image, small views of it, and which of its patches are hidden from the student."""

    local_BVCHW: Rows[Tensor]
    hidden_BP: Rows[Tensor]
    place_BM: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class TIPS(TwoTextRecipe[DenseEncoder, DenseBatch, DensePairs]):
    """TIPS: Text-Image Pretraining with Spatial awareness (Maninis et al., 2024, arXiv 2410.16512). Baseline: `clip`.

    Three things are added to CLIP at once. Two texts an image: a raw one goes with the first class token and a synthetic caption with
    the second, each with a temperature of its own (the assignment is our reading). Self-distillation: a teacher, the moving average of
    image tower and heads, sees the whole view, the student sees small parts of it, and both say which prototypes that is. Masked
    patches: the student, with most patches hidden, says what the teacher says at the hidden places. The loss is half the sum of both
    contrastive losses, plus alpha times the second, plus beta times the third.

    The deployed model embeds an image by `token`; `embedder.reading("second")` reads the other. `embed_dense` gives its patches, which
    protocol `dense_probe` asks for segmentation and depth order. Pixels are scaled to 0 to 1, without mean and deviation, and that
    is saved with the weights.

    Give it data with two texts as for `alip` (see `raw`, `synthetic`, `captions`). A step costs about three times CLIP's image tower.
    No training code was released: number and size of the small views, the teacher's schedule and the heads are DINOv2's. Towers are those
    of the released models (`dense_b14`, `text_tips`, which has their dropout of 0.1 in training and begins as they do). We depart in the
    vocabulary, CLIP's with marks at either end, since theirs (32,000 pieces without marks) is in no package.

    project      projections behind both towers; False: their vectors are compared as they are, as in the released models
    two_tokens   False: one class token and raw texts alone; with alpha and beta 0 this is CLIP
    alpha, beta  weights of self-distillation and of masked patches; 0 leaves a term out, and its head and views
    hidden       share of patches that the student does not see, the same in all images as published; with hidden_spread each image has
                 its own, evenly from hidden - spread to hidden + spread, and weighs the same whatever that is (as in DINOv2)
    patches      places whose answers count in the masked term: "hidden", as published, or "all", visible ones too (iBOT++ of TIPSv2,
                 2604.12012); its mean is over the places that count
    koleo        weight of the KoLeo regulariser on the first class token, which spreads images evenly (DINOv2: 0.1; TIPS publishes none)
    locals       small views an image, of local_size pixels and these shares of its area
    momentum     of the teacher at the start; it goes to 1 as a cosine
    prototypes   of either head
    head_hidden, head_width  widths of the inner layers of either head, and of the last of them
    student_tau, teacher_tau   temperatures; centre is the momentum of the teacher's centre
    token        which class token the deployed model reads: "first" or "second"
    head_width   of the last layer before the prototypes
    hidden_spread  how far the hidden share of an image may lie from `hidden`
    local_size, local_scale  pixels a side of a small view, and the shares of the image's area that it takes
    """

    slug = "tips"
    no_prefixes = "its teacher's prototypes are of the whole width"

    project: bool = False
    two_tokens: bool = True
    alpha: float = 1.0
    beta: float = 2.0
    hidden: float = 0.75
    hidden_spread: float = 0.0
    patches: Literal["hidden", "all"] = "hidden"
    koleo: float = 0.0
    locals: int = 8
    local_size: int = 98
    local_scale: tuple[float, float] = (0.05, 0.32)
    momentum: float = 0.994
    prototypes: int = 32_768
    head_hidden: int = 2048
    head_width: int = 256
    student_tau: float = 0.1
    teacher_tau: float = 0.07
    centre: float = 0.9
    token: Token = "first"

    image_tower: str = "dense_b14"
    batch_size: int = 16_384
    epochs: float = 70.0
    crop: tuple[float, float] = (0.32, 1.0)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.token == "second" and not self.two_tokens:
            raise ConfigError("token 'second' needs two_tokens (expected token first)")
        if self.patches not in ("hidden", "all"):
            raise ConfigError(f"patches is {self.patches!r} (expected hidden | all)")
        if not 0 <= self.hidden_spread <= self.hidden < 1 - self.hidden_spread:
            raise ConfigError(f"hidden is {self.hidden} +- {self.hidden_spread} (expected shares of at least 0, below 1)")

    def model(self) -> DenseEncoder:
        image, text = self.towers()
        if not isinstance(image, DenseViT):
            raise ConfigError(f"image tower {self.image_tower!r} has no second class token (expected dense_...)")
        if self.local_size % image.patch:
            raise ConfigError(f"local_size {self.local_size} cannot be cut into patches of {image.patch} (expected a multiple)")
        return DenseEncoder(
            image,
            text,
            width=self.width,
            two_tokens=self.two_tokens,
            distilled=self.alpha > 0,
            masked=self.beta > 0,
            prototypes=self.prototypes,
            hidden=self.head_hidden,
            bottleneck=self.head_width,
            token=self.token,
            project=self.project,
        )

    def started(self, model: Any) -> Self:
        """The image tower becomes a dense one with the same weights; its further parameters are fresh."""
        return cast(Self, with_dense_tower(super().started(model), getattr(model, "name", "the weights")))

    def fitted(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return dense_names(tensors)

    def hooks(self) -> Sequence[Hook]:
        return [TeacherFromStart()]

    def batch(self, draws: Draws) -> DenseBatch:
        """The texts and the whole view first, then the small views, then what is hidden, all from the draw's own generator."""
        read = self.triplet_batch(draws)
        views = self.locals if self.alpha > 0 else 0
        local_BVCHW = local_views(draws, self.preprocess, count=views, size=self.local_size, scale=self.local_scale)
        share, spread = (self.hidden, self.hidden_spread) if self.beta > 0 else (0.0, 0.0)
        patches = patches_a_side(self.image_tower, self.image_size, self.image_options().get("patch")) ** 2
        hidden_BP, place_BM = hidden_patches(draws, patches=patches, share=share, spread=spread)
        if self.patches == "all" and self.beta > 0:
            place_BM = torch.arange(patches).expand(len(draws), patches)
        values = {f.name: getattr(read, f.name) for f in fields(TripletBatch)}
        return DenseBatch(**values, local_BVCHW=local_BVCHW, hidden_BP=hidden_BP, place_BM=place_BM)

    def features(self, model: DenseEncoder, batch: DenseBatch) -> DensePairs:
        texts = (batch.text_BL, batch.text_mask_BL, batch.caption_BL, batch.caption_mask_BL)
        outputs: DensePairs = model(batch.image_BCHW, *texts, batch.local_BVCHW, batch.hidden_BP, batch.place_BM)
        return outputs

    def losses(self, features: DensePairs, batch: DenseBatch) -> dict[str, Tensor]:
        sides: dict[str, tuple[Tensor, ...]] = {"raw": (features.image_ND, features.text_ND, features.scale)}
        if second := all_or_none(features.second_ND, features.caption_ND, features.second_scale):
            sides["synthetic"] = second
        terms = {
            name: self.contrast(image_ND, text_ND, scale=scale, group_B=batch.group_B) / len(sides)
            for name, (image_ND, text_ND, scale) in sides.items()
        }
        taus: dict[str, Any] = {"student_tau": self.student_tau, "teacher_tau": self.teacher_tau}
        if views := all_or_none(features.local_NVK, features.teacher_N1K, features.class_centre_K):
            terms["distilled"] = self.alpha * self_distillation(*views, **taus)
        if patches := all_or_none(features.patch_NMK, features.teacher_patch_NMK, features.patch_centre_K):
            terms["masked"] = self.beta * self_distillation(*patches, **taus, mask_NV=self.counted_places(batch))
        if self.koleo:
            terms["koleo"] = self.koleo * koleo(features.class_ND)
        return terms

    def counted_places(self, batch: DenseBatch) -> Tensor | None:
        """Which places of the batch hold a patch and not padding; None when all do."""
        return batch.place_BM >= 0 if self.hidden_spread and self.patches == "hidden" else None

    def after_update(self, model: DenseEncoder, features: DensePairs, batch: DenseBatch, progress: float) -> None:
        super().after_update(model, features, batch, progress)
        follow_(model, self.momentum, progress)
        views = all_or_none(features.class_centre_K, features.teacher_N1K)
        patches = all_or_none(features.patch_centre_K, features.teacher_patch_NMK)
        model.recentre_(
            updated_centre(*views, momentum=self.centre) if views else None,
            updated_centre(*patches, momentum=self.centre, mask_NV=self.counted_places(batch)) if patches else None,
        )

    @classmethod
    def tiny(cls) -> Self:
        """The budget of `clip`'s, an image tower of 64 patches. Data without synthetic captions get a stand-in as in `alip`'s preset."""
        same = {**SMALL_CLIP, "image_tower": "dense_tiny", "mean": (0.0,) * 3, "std": (1.0,) * 3}
        own: dict[str, Any] = {"locals": 2, "local_size": 32, "local_scale": (0.1, 0.4), "prototypes": 256, "head_hidden": 128}
        return cls(**same, **own, project=True, head_width=32, momentum=0.99, synthetic=("synthetic", "rewrite", "tags"))

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/14 and a text tower of its width, 70 epochs of 117 million pairs with captions by PaliGemma."""
        whole: dict[str, Any] = {"flip": True, "flip_sides": "ignore", "decoding": "whole"}
        return cls(text_tower="text_tips", width=768, text_length=64, same_group="negative", **whole)
