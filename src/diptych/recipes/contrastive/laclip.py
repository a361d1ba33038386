"""LaCLIP: text augmentation by sampling a caption or one of its rewrites at every step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from torch import Tensor, nn

from diptych.core.contracts import Dataset, Optimiser
from diptych.core.errors import DataError
from diptych.data.load.batch import PairBatch
from diptych.data.media.transforms import IMAGENET_MEAN, IMAGENET_STD
from diptych.data.text.captions.variants import TextDraw
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.outputs import PairFeatures
from diptych.recipes._shared.pairs import DualEncoderRecipe
from diptych.recipes._shared.presets import SMALL_CLIP

ONE_OF_ALL = TextDraw(least_words=2)
PROBED_ROWS = 200
"""Rows that `prepare` looks at, evenly spaced, for an image with a second text."""


@dataclass(frozen=True, kw_only=True)
class LaCLIP(DualEncoderRecipe):
    """LaCLIP: Improving CLIP Training with Language Rewrites (Fan et al., 2023, arXiv 2305.20088). Baseline: `clip`.

    Each image has its caption and M rewrites of it (`diptych curate rewrite`). A step reads one of the M + 1, each as likely, and the
    loss is CLIP's: images are augmented by crops, texts by rewrites. A drawn text of fewer than two words gives way to the caption. The
    draw comes from the sample's own generator (seed, epoch, uid), so that a stopped run goes on exactly.

    Data in which no image has a second text are refused: on such data this is CLIP, to the bit (`rewrites` False allows it).

    We depart in one default: another sample of the same group is no negative (`same_group="mask"`), as in `clip`.

    rewrites    whether data without any rewrite are refused
    qk_norm     whether a timm transformer normalises queries and keys, as in the released code
    text_act    activation of the text tower; None: as `act`
    final_lr    of the cosine, as a share of lr
    warmup_lr   at the first step; None: lr / warmup
    warmup_peak lr is reached with the "last" step of the warm-up, as released, or "after" it
    released_start  fresh weights as the released code draws them: linear layers in the blocks of a timm transformer, which it makes anew
                for their norms, and biases of the text tower's MLPs as PyTorch has them; a class token of deviation 0.02
    """

    slug = "laclip"

    rewrites: bool = True
    qk_norm: bool = False
    text_act: Literal["gelu", "quick_gelu", "gelu_tanh"] | None = None
    final_lr: float = 0.01
    warmup_lr: float | None = 1e-6
    warmup_peak: Literal["after", "last"] = "last"
    released_start: bool = False
    text_draw: TextDraw = ONE_OF_ALL

    batch_size: int = 8192
    epochs: float = 35.0
    lr: float = 1e-3
    warmup: float = 1 / 35
    weight_decay: float = 0.5
    eps: float = 1e-8
    crop: tuple[float, float] = (0.5, 1.0)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def prepare(self, data: Dataset) -> Self:
        """Learn the vocabulary from every text; refuse data in which no image has a second text."""
        rows = range(0, len(data), max(1, len(data) // PROBED_ROWS))
        if self.rewrites and all(len(data[row].positives(self.language)) < 2 for row in rows):
            raise DataError(
                f"no image of '{data.name}' has a second text",
                field="texts",
                expected="rewrites beside the captions: `diptych curate rewrite DATA OUT` makes them, and --data OUT trains on them",
            )
        return super().prepare(data)

    def image_options(self) -> dict[str, Any]:
        options = super().image_options()
        return {**options, "qk_norm": True} if self.qk_norm and "image" not in self._given else options

    def text_options(self) -> dict[str, Any]:
        options = super().text_options()
        if "text" in self._given:
            return options
        own = {"act": self.text_act} if self.text_act else {}
        return {**options, **own, **({"start": "spread"} if self.released_start and self.text_tower.startswith("text_") else {})}

    def model(self) -> DualEncoder:
        model = super().model()
        if self.released_start and "image" not in self._given and self.image_tower.startswith("timm:vit_"):
            _start_image_(model.image_tower.net)
        return model

    def losses(self, features: PairFeatures, batch: PairBatch) -> dict[str, Tensor]:
        return {"contrastive": self.contrast(features.image_ND, features.text_ND, scale=features.scale, group_B=batch.group_B)}

    def optimiser(self) -> Optimiser:
        start = None if self.warmup_lr is None else self.warmup_lr / self.lr
        return replace(super().optimiser(), final_lr=self.final_lr, warmup_from=start, warmup_peak=self.warmup_peak)

    @classmethod
    def tiny(cls) -> Self:
        """The towers, crops, optimiser and budget of `clip`'s, so that the two differ in the texts alone."""
        return cls(**{**SMALL_CLIP, "text_draw": ONE_OF_ALL}, final_lr=0.0, eps=1e-6, warmup_lr=None, warmup_peak="after")

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/16 on CC12M with four rewrites a caption: timm's ViT with normalised queries and keys beside a text tower with QuickGELU,
        149,623,041 parameters. Images are resized bilinearly, in training and after it, and the factor of similarities
        stays below exp(4.6052), as released."""
        towers: dict[str, Any] = {"image_tower": "timm:vit_base_patch16_224", "qk_norm": True, "text_act": "quick_gelu"}
        return cls(
            **towers,
            released_start=True,
            same_group="negative",
            crop_interpolation="bilinear",
            interpolation="bilinear",
            max_scale=math.exp(4.6052),
            decoding="whole",
        )


def _start_image_(net: Any) -> None:
    """Fresh weights of a vision transformer whose blocks are made anew behind timm's start, under timm 0.5.4."""
    for module in net.blocks.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    nn.init.trunc_normal_(net.cls_token, std=0.02)
