"""Zero-shot segmentation by any dual encoder: each position gets the class with the nearest text vector.

Letters: B batch, P positions, G groups, K classes, D width, R C rows and columns, H W pixels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.data.media.decode import decode
from diptych.data.media.transforms import FILTERS
from diptych.models.io.inference import parts
from diptych.models.layers.sliding_window import sliding_window_mean
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.headed import HeadedTower

Rule = Literal["cosine", "groupvit"]
TEXTS_AT_ONCE = 256
TOP = 5
"""Number of classes, the most likely of the whole image, among which GroupViT assigns positions."""


class PatchSegmenter:
    """`Segmenter` by the patches of an embedder, or by the groups of a GroupViT.

    A patch is projected like the pooled vector (head and projection) and compared with the mean of a class's sentences. Scores,
    not labels, are resized to the image's own size. With a GroupViT every position gets the scores of its most likely group
    (2202.11094).

    templates   sentences with {} for the name
    background  a name without a sentence: its score is `threshold` everywhere; "": no background
    short_side  0: resize an image to the model's square. Otherwise the image is resized to this short side (448, as published),
                keeping its aspect ratio, and processed in windows of the model's size, whose scores are averaged
    stride      pixels from one window to the next; 0: half a window
    window      side of the windows in pixels, for a GroupViT, whose positions are then interpolated (448, as published); 0: the
                model's own
    rule        "cosine"; or "groupvit", as released by GroupViT and CoCu: a position's class probabilities times those of the
                five most likely classes of the whole window, at the model's temperature.
                Then `threshold` is at most the largest score of the window, and positions below it are background; a class is the
    mean of its unnormalised sentence vectors
    """

    def __init__(
        self,
        embedder: PairEmbedder,
        *,
        templates: Sequence[str] = ("a photo of a {}.",),
        background: str = "",
        threshold: float = 0.0,
        short_side: int = 0,
        stride: int = 0,
        window: int = 0,
        rule: Rule = "cosine",
    ) -> None:
        self.embedder, self.templates = embedder, tuple(templates)
        self.background, self.threshold, self.rule = background, threshold, rule
        self.size, self.name = window or embedder.preprocess.size, embedder.name
        self.short_side, self.stride = short_side, stride or self.size // 2
        if rule not in get_args(Rule):
            raise ConfigError(f"rule is {rule!r} (expected {' | '.join(get_args(Rule))})")
        if min(short_side, stride, window) < 0 or 0 < short_side < self.size:
            raise ConfigError(
                f"short_side is {short_side}, stride {stride}, window {window} (expected 0 or more; a short side of {self.size} or more)"
            )
        self._net = self._group_net()
        if window and self._net is None:
            raise ConfigError(
                f"'{self.name}' reads pictures of one size (expected window 0, which is {embedder.preprocess.size})"
            )
        if window not in (0, embedder.preprocess.size):
            self._net = resize_groupvit(self._net, window)

    @property
    def fingerprint(self) -> str:
        return self.embedder.fingerprint

    def segment(self, images: Sequence[ImageSource], labels: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """Return int32 [H, W] of indices into `labels`, at each image's own size."""
        if len(labels) < 2:
            raise ConfigError(f"labels are {list(labels)} (expected two or more)")
        if self.background and self.background not in labels:
            raise ConfigError(f"background is {self.background!r}, which is not a label (expected one of {', '.join(labels)})")
        index = list(labels).index(self.background) if self.background else None
        text_KD = torch.from_numpy(self._classes([label for label in labels if label != self.background]))
        label_maps = []
        for image in images:
            pixels_HWC = decode(image, exact=True)
            score_KRC = self._scores(pixels_HWC, text_KD, index)
            full_KHW = F.interpolate(score_KRC[None], size=pixels_HWC.shape[:2], mode="bilinear", align_corners=False)[0]
            label_maps.append(full_KHW.argmax(0).to(torch.int32).numpy())
        return label_maps

    def _classes(self, labels: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the normalised mean of each class's vectors [K, D]: of unit vectors,
        or by GroupViT's rule of unnormalised ones.
        """
        sentences = [template.format(label) for label in labels for template in self.templates]
        vectors = self._text_vectors if self.rule == "groupvit" else self.embedder.embed_texts
        text_KTD = vectors(sentences).reshape(len(labels), len(self.templates), -1)
        mean_KD = text_KTD.mean(1)
        unit: npt.NDArray[np.float32] = mean_KD / np.linalg.norm(mean_KD, axis=1, keepdims=True)
        return unit

    def _text_vectors(self, sentences: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return text vectors before normalisation."""
        embedder, batches = self.embedder, []
        with embedder._ready() as device:
            for part in parts(sentences, TEXTS_AT_ONCE):
                encoded = embedder.tokenizer.encode(list(part), embedder.text_length)
                text_BL, mask_BL = (torch.from_numpy(each).to(device) for each in (encoded.ids_BL, encoded.mask_BL))
                batches.append(embedder.model.text_vectors(text_BL, mask_BL).float().cpu())
        vector_ND: npt.NDArray[np.float32] = torch.cat(batches).numpy()
        return vector_ND

    @torch.no_grad()
    def _scores(self, pixels_HWC: npt.NDArray[np.uint8], text_KD: Tensor, background: int | None) -> Tensor:
        """Return scores [K, R, C] of one image, including the background, on the grid of patches or of the windows' pixels."""
        embedder = self.embedder
        with embedder._ready() as device:
            text_KD = text_KD.to(device)
            if not self.short_side:
                square = replace(embedder.preprocess, size=self.size, resize="squash", margin=0)
                return self._of_window(square([pixels_HWC]).to(device), text_KD, background)[0].float().cpu()
            high, wide = _fitted(pixels_HWC.shape[0], pixels_HWC.shape[1], self.short_side)
            filters = FILTERS.get(embedder.preprocess.interpolation, Image.Resampling.BOX)
            fitted_HWC = np.asarray(Image.fromarray(pixels_HWC).resize((wide, high), filters))
            image_1CHW = embedder.preprocess.normalise(fitted_HWC[None]).to(device)
            return (
                sliding_window_mean(image_1CHW, self.size, self.stride, lambda part: self._of_window(part, text_KD, background))
                .float()
                .cpu()
            )

    def _of_window(self, image_1CHW: Tensor, text_KD: Tensor, background: int | None) -> Tensor:
        """Return scores [1, K, R, C] of one square."""
        model: Any = self.embedder.model
        member_GRC: Tensor | None = None
        if self._net is not None:
            token_1GD, pooled_1D, member_GRC = group_assignments(self._net, image_1CHW)
        else:
            output = self._inner(image_1CHW)
            token_1GD, pooled_1D = output.tokens_BPD, output.pooled_BD
        head = self._head
        token_GD = l2_normalise(model.image_projection(head(token_1GD[0]))).float()
        if self.rule == "cosine":
            score_GK, least = token_GD @ text_KD.T, self.threshold
        else:
            image_D = l2_normalise(model.image_projection(head(pooled_1D)))[0].float()
            scale = min(float(model.log_scale.exp()), 100.0)
            score_GK = affinities(token_GD, image_D, text_KD, scale=scale)
            least = min(self.threshold, float(score_GK.max()))
        if member_GRC is None:
            side = math.isqrt(len(score_GK))
            if side * side != len(score_GK):
                raise ConfigError(f"the {len(score_GK)} patches of '{self.name}' do not form a square")
            score_KRC = score_GK.T.unflatten(1, (side, side))
        else:
            if self.rule == "groupvit":  # groups are assigned to pixels at full size
                side = image_1CHW.shape[-1]
                member_GRC = F.interpolate(member_GRC[None], size=(side, side), mode="bilinear", align_corners=False)[0]
            score_KRC = score_GK[member_GRC.argmax(0)].permute(2, 0, 1)
        if background is not None:
            score_KRC = with_background(score_KRC, background, least, hard=self.rule == "groupvit")
        score_1KRC: Tensor = score_KRC[None].contiguous()
        return score_1KRC

    @property
    def _inner(self) -> Any:
        tower: Any = self.embedder.model.image_tower
        return tower.inner if isinstance(tower, HeadedTower) else tower

    @property
    def _head(self) -> nn.Module:
        tower: Any = self.embedder.model.image_tower
        return tower.head if isinstance(tower, HeadedTower) else nn.Identity()

    def _group_net(self) -> Any:
        """Return transformers' GroupViT, if the image tower is one."""
        net = getattr(self._inner, "net", None)
        return net if getattr(getattr(net, "config", None), "model_type", "") == "groupvit_vision_model" else None


def affinities(token_GD: Tensor, image_D: Tensor, text_KD: Tensor, *, scale: float) -> Tensor:
    """Return [G, K] as in GroupViT's release: softmax over all classes times softmax over the five most likely of the whole
    image.
    """
    logit_GK = scale * token_GD @ text_KD.T
    likely = (scale * image_D @ text_KD.T).topk(min(TOP, len(text_KD))).indices
    hidden_K = torch.ones(len(text_KD), dtype=torch.bool, device=text_KD.device)
    hidden_K[likely] = False
    return logit_GK.softmax(-1) * logit_GK.masked_fill(hidden_K, -math.inf).softmax(-1)


def with_background(score_KRC: Tensor, index: int, least: float, *, hard: bool) -> Tensor:
    """Return class scores [K + 1, R, C] with a background class inserted at `index`.

    Its score is `least` everywhere or, with `hard`, 1 where no class reaches `least` and 0 elsewhere.
    """
    plain_1RC = torch.full_like(score_KRC[:1], least)
    if hard:
        plain_1RC = (score_KRC.amax(0, keepdim=True) < least).to(score_KRC.dtype)
    return torch.cat([score_KRC[:index], plain_1RC, score_KRC[index:]])


def _fitted(height: int, width: int, short: int) -> tuple[int, int]:
    """Return rows and columns with that short side and the same aspect ratio."""
    factor = short / min(height, width)
    return max(short, round(height * factor)), max(short, round(width * factor))


def group_assignments(net: Any, image_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the groups of the last stage [1, G, D] for one image, their mean [1, D], and soft assignments of patches [G, R, C].

    The assignments are the product over all stages. Positions are interpolated for an image of another size than the
    network's.
    """
    from transformers.models.groupvit.modeling_groupvit import get_grouping_from_attentions

    output = net(pixel_values=image_BCHW, output_attentions=True)
    if not output.attentions:
        raise ConfigError("this GroupViT groups nothing (expected a stage with group tokens)")
    side = image_BCHW.shape[-1] // net.config.patch_size
    member_GRC: Tensor = get_grouping_from_attentions(output.attentions, (side, side))[0]
    return output.last_hidden_state, output.pooler_output, member_GRC


def resize_groupvit(net: Any, size: int) -> Any:
    """Return a copy of a GroupViT for images of that size, with interpolated positions,
    as published for windows larger than in training.
    """
    made: Any = copy.deepcopy(net)
    embeddings = getattr(made, "vision_model", made).embeddings
    if size % net.config.patch_size:
        raise ConfigError(f"window is {size} (expected a multiple of {net.config.patch_size}, the patch)")
    side = size // net.config.patch_size
    like_1PD = embeddings.position_embeddings.new_zeros(1, side * side, embeddings.position_embeddings.shape[-1])
    position_1PD = embeddings.interpolate_pos_encoding(like_1PD, size, size)
    embeddings.position_embeddings = nn.Parameter(position_1PD.detach())
    embeddings.patch_embeddings.image_size = (size, size)
    return made
