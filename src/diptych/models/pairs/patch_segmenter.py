"""Zero-shot segmentation by any dual encoder: each place gets the class whose text its vector is nearest to.

Letters: B batch, P places, G groups, K classes, D width, R C rows and columns, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.data.media.decode import decode
from diptych.models.layers.transformer import normalised
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.headed import HeadedTower


class PatchSegmenter:
    """Answers `Segmenter` with the patches of an embedder, or with the groups of a GroupViT.

    A patch goes the way of the pooled vector (head and projection) and is compared with the mean of a class's sentences. Scores, never
    labels, are resized to the image's own size. An image is squeezed into the model's square. Of a GroupViT every place takes the scores
    of the group that it belongs to most (2202.11094).

    templates   sentences with {} for the name
    background  a name whose score is `threshold` everywhere; "" has none
    """

    def __init__(
        self,
        embedder: PairEmbedder,
        *,
        templates: Sequence[str] = ("a photo of a {}.",),
        background: str = "",
        threshold: float = 0.0,
    ) -> None:
        self.embedder, self.templates = embedder, tuple(templates)
        self.background, self.threshold = background, threshold
        self.name = embedder.name

    def segment(self, images: Sequence[ImageSource], labels: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """int32 [H, W] into `labels`, at each image's own size."""
        if len(labels) < 2:
            raise ConfigError(f"labels are {list(labels)} (expected two or more)")
        text_KD = torch.from_numpy(self._classes(labels))
        found = []
        for image in images:
            pixels_HWC = decode(image, exact=True)
            score_KRC = self._scores(pixels_HWC, text_KD)
            if self.background in labels:
                score_KRC[list(labels).index(self.background)] = self.threshold
            full_KHW = F.interpolate(score_KRC[None], size=pixels_HWC.shape[:2], mode="bilinear", align_corners=False)[0]
            found.append(full_KHW.argmax(0).to(torch.int32).numpy())
        return found

    def _classes(self, labels: Sequence[str]) -> npt.NDArray[np.float32]:
        """The mean of a class's unit vectors, of length 1 again. [K, D]"""
        sentences = [template.format(label) for label in labels for template in self.templates]
        text_KTD = self.embedder.embed_texts(sentences).reshape(len(labels), len(self.templates), -1)
        mean_KD = text_KTD.mean(1)
        unit: npt.NDArray[np.float32] = mean_KD / np.linalg.norm(mean_KD, axis=1, keepdims=True)
        return unit

    @torch.no_grad()
    def _scores(self, pixels_HWC: npt.NDArray[np.uint8], text_KD: Tensor) -> Tensor:
        """[K, R, C] on the grid of the model's patches."""
        embedder = self.embedder
        with embedder._ready() as device:
            image_1CHW = replace(embedder.preprocess, resize="squash", margin=0)([pixels_HWC]).to(device)
            model: Any = embedder.model
            tower = model.image_tower
            head: nn.Module = tower.head if isinstance(tower, HeadedTower) else nn.Identity()
            inner = tower.inner if isinstance(tower, HeadedTower) else tower
            net = getattr(inner, "net", None)
            if getattr(getattr(net, "config", None), "model_type", "") == "groupvit_vision_model":
                token_1GD, member_GRC = grouped(net, image_1CHW)
                score_GK = normalised(model.image_projection(head(token_1GD[0]))).float().cpu() @ text_KD.T
                return score_GK[member_GRC.argmax(0).cpu()].permute(2, 0, 1).contiguous()
            token_PD = inner(image_1CHW).tokens_BPD[0]
            side = math.isqrt(len(token_PD))
            if side * side != len(token_PD):
                raise ConfigError(f"the {len(token_PD)} patches of '{self.name}' make no square")
            score_PK = normalised(model.image_projection(head(token_PD))).float().cpu() @ text_KD.T
        return score_PK.T.unflatten(1, (side, side)).contiguous()


def grouped(net: Any, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Of one image: the groups of the last stage [1, G, D], and how much each patch belongs to each [G, R, C]: the soft assignments of
    all stages multiplied."""
    from transformers.models.groupvit.modeling_groupvit import get_grouping_from_attentions

    seen = net(pixel_values=image_BCHW, output_attentions=True)
    if not seen.attentions:
        raise ConfigError("this GroupViT groups nothing (expected a stage with group tokens)")
    side = image_BCHW.shape[-1] // net.config.patch_size
    member_GRC: Tensor = get_grouping_from_attentions(seen.attentions, (side, side))[0]
    return seen.last_hidden_state, member_GRC
