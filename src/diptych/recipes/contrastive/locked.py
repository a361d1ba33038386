"""Locked towers: two frozen encoders with cached features, and a small trained head on each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, Self

from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.models.pairs.frozen.locked import LockedEmbedder, LockedPair
from diptych.models.towers.outputs import PairFeatures
from diptych.objectives.pairs.info_nce import info_nce
from diptych.objectives.pairs.nested import reduce_terms
from diptych.objectives.pairs.sigmoid_pairs import sigmoid_pairs
from diptych.recipes._shared.frozen.frozen_pairs import FeatureBatch, FrozenPairRecipe
from diptych.recipes._shared.prefixes import truncate_embeddings


@dataclass(frozen=True, kw_only=True)
class Locked(FrozenPairRecipe[LockedPair, PairFeatures]):
    """Two trained encoders stay as they are; a small head on each learns to bring them together. A baseline beside `clip`.

    Related to LiT (Zhai et al., 2022, arXiv 2111.07991), which locks the image tower only and trains the text tower. Since nothing
    below the heads changes, `prepare` encodes every image and text once and training reads the features: seconds instead of
    minutes, the fastest way from a folder to a search engine. The price: no augmentation, and nothing is learned that the encoders
    do not see.

    hidden, width  sizes of the heads
    same_group  what another sample of the same group is: neither positive nor negative ("mask"), a "positive", or a "negative"
    loss   "softmax" over the texts and images of the batch, as `clip`, or the "sigmoid" of every pair, as `siglip` with its scale and bias
    dims   widths of prefixes that are trained as vectors too, as in `mrl`: the loss is the mean over them. None: the whole vector alone
    """

    slug = "locked"

    width: int = 256
    hidden: int = 1024
    dropout: float = 0.1
    same_group: Literal["mask", "positive", "negative"] = "mask"
    loss: Literal["softmax", "sigmoid"] = "softmax"
    dims: tuple[int, ...] = ()
    batch_size: int = 256
    steps: int = 300
    lr: float = 1e-3
    warmup: float = 30.0
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        if self.loss not in ("softmax", "sigmoid"):
            raise ConfigError(f"loss is {self.loss!r} (expected softmax | sigmoid)")
        if any(not 0 < d <= self.width for d in self.dims) or len(set(self.dims)) < len(self.dims):
            raise ConfigError(f"dims is {list(self.dims)} (expected different widths from 1 to {self.width}, or none)")

    def model(self) -> LockedPair:
        images, texts = self.encoders()
        start = {"scale": 10.0, "bias": -10.0} if self.loss == "sigmoid" else {}
        return LockedPair(images.width, texts.width, width=self.width, hidden=self.hidden, dropout=self.dropout, **start)

    def features(self, model: LockedPair, batch: FeatureBatch) -> PairFeatures:
        pairs: PairFeatures = model(batch.image_BD, batch.text_BE)
        return pairs

    def losses(self, features: PairFeatures, batch: FeatureBatch) -> dict[str, Tensor]:
        cut = [truncate_embeddings(features, d) for d in self.dims] or [features]
        return {"contrastive": reduce_terms([self._contrast(one, batch) for one in cut])}

    def _contrast(self, features: PairFeatures, batch: FeatureBatch) -> Tensor:
        objective = info_nce if features.bias is None else partial(sigmoid_pairs, bias=features.bias)
        loss, _ = objective(
            features.image_ND,
            features.text_ND,
            scale=features.scale,
            group_N=batch.group_B,
            group_M=batch.group_B,
            same=self.same_group,
        )
        return loss

    def metrics(self, features: PairFeatures, batch: FeatureBatch) -> dict[str, Tensor]:
        return {"scale": features.scale.detach()}

    def after_update(self, model: LockedPair, features: PairFeatures, batch: FeatureBatch, progress: float) -> None:
        model.clamp_scale_()

    def deploy(self, model: LockedPair) -> LockedEmbedder:
        return LockedEmbedder(model, *self.encoders(), name=self.slug)

    @classmethod
    def tiny(cls) -> Self:
        """Seconds of training after the features."""
        return cls()

    @classmethod
    def paper(cls) -> Self:
        """No paper has these heads; this is the larger setting, at the encoders' own image size."""
        return cls(encoder_size=224, hidden=2048, width=512, batch_size=4096, steps=5000, warmup=500.0)
