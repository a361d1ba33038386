"""Small heads on frozen encoders: the fastest way from a folder of images to a search engine.

Letters: N items, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from diptych.core.contracts import Unit
from diptych.core.errors import ConfigError, DataError, RunError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.models.io import weights
from diptych.models.io.card import model_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import evaluating
from diptych.models.layers.prefix import PrefixEmbedder
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import PairModule
from diptych.models.pairs.frozen.linear_map import LinearPair
from diptych.models.towers.outputs import PairFeatures


class ProjectionMLP(nn.Module):
    """Projection head: norm, a two-layer MLP, then unit norm: [N, D] features to [N, width]."""

    def __init__(self, features: int, *, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.mlp = nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))

    def forward(self, features_ND: Tensor) -> Tensor:
        return l2_normalise(self.mlp(self.norm(features_ND)))


class LockedPair(PairModule):
    """Two heads and a temperature on precomputed features; returns `PairFeatures`."""

    def __init__(
        self,
        image_features: int,
        text_features: int,
        *,
        width: int = 256,
        hidden: int = 1024,
        dropout: float = 0.0,
        scale: float = 1 / 0.07,
        bias: float | None = None,
        max_scale: float = 100.0,
    ) -> None:
        super().__init__(scale=scale, bias=bias, max_scale=max_scale)
        self.width = width
        self.spec: dict[str, Any] = {
            "image_features": image_features,
            "text_features": text_features,
            "width": width,
            "hidden": hidden,
            "dropout": dropout,
            "bias": bias,
            "max_scale": max_scale,
        }
        self.image_head = ProjectionMLP(image_features, width=width, hidden=hidden, dropout=dropout)
        self.text_head = ProjectionMLP(text_features, width=width, hidden=hidden, dropout=dropout)

    def forward(self, image_features_ND: Tensor, text_features_ND: Tensor) -> PairFeatures:
        return self.pairs(self.image_head(image_features_ND), self.text_head(text_features_ND))


class LockedEmbedder:
    """Embedder of frozen encoders with trained heads. Only heads are saved; encoders are loaded from their package or address.

    The features are those of `FrozenImageEncoder.encode_images` and `FrozenTextEncoder.encode_texts`, so inference equals
    training on cached features. `card` as for `PairEmbedder`.
    """

    kind: ClassVar[str] = "locked"
    module: ClassVar[type[LockedPair | LinearPair]] = LockedPair

    def __init__(
        self,
        heads: LockedPair | LinearPair,
        images: weights.FrozenImageEncoder,
        texts: weights.FrozenTextEncoder,
        name: str,
        *,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.heads, self.images, self.texts, self.name = heads, images, texts, name
        self.card = dict(card or {})

    @property
    def truncated(self) -> int:
        return self.texts.truncated

    @property
    def tokenizer(self) -> Any:
        return self.texts.tokenizer

    @property
    def text_length(self) -> int:
        return self.texts.length

    @cached_property
    def fingerprint(self) -> str:
        """Hash of heads, encoders and preprocessing, computed at first access."""
        return fingerprint(self.heads, {"images": self.images.fingerprint, "texts": self.texts.fingerprint})

    def first(self, width: int) -> PrefixEmbedder:
        """Return an embedder of the first `width` dimensions of each vector; heads trained with `dims` know these widths best."""
        return PrefixEmbedder(self, width)

    @one_or_many
    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit:
        return self._through(self.heads.image_head, self.images.encode_images(images, batch_size=batch_size))

    @one_or_many
    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        return self._through(self.heads.text_head, self.texts.encode_texts(texts, batch_size=batch_size))

    def _through(self, head: nn.Module, features_ND: Unit) -> Unit:
        device = next(self.heads.parameters()).device
        with torch.inference_mode(), evaluating(self.heads):
            embedded_ND: Tensor = head(torch.from_numpy(features_ND).to(device))
        return embedded_ND.cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors (the heads), README.md, replacing the whole folder."""
        config = {
            "kind": self.kind,
            "name": self.name,
            "image_encoder": self.images.spec,
            "text_encoder": self.texts.spec,
            "encoders": {"image": self.images.fingerprint, "text": self.texts.fingerprint},
            "heads": self.heads.spec,
            "width": self.heads.width,
            "preprocess": self.images.preprocess.to_json(),
            "text_length": self.texts.length,
            "card": self.card,
        }
        write_model(folder, self.heads, config, model_card(self.name, config, parameters(self.heads)))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the embedder from a folder that `save` wrote; refused when the installed encoders are not those it was trained on."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            heads = cls.module(**config["heads"])
            try:
                images, texts = weights.image(**config["image_encoder"]), weights.text(**config["text_encoder"])
            except (ConfigError, DataError, RunError) as error:
                raise RunError(f"{folder}: an encoder that its heads were trained on does not open: {error}") from error
        load_weights(heads, folder)
        fingerprints = {"image": images.fingerprint, "text": texts.fingerprint}
        if fingerprints != config["encoders"]:
            sides = [side for side in fingerprints if fingerprints[side] != config["encoders"][side]]
            raise RunError(
                f"{folder}: the {' and '.join(sides)} encoder that is there now differs from the one the heads were trained on"
            )
        return cls(heads.eval(), images, texts, config["name"], card=config.get("card"))


class LinearMapEmbedder(LockedEmbedder):
    """`LockedEmbedder` with a `LinearPair`, deployed by the recipe `linear_map`."""

    kind: ClassVar[str] = "linear_map"
    module: ClassVar[type[LockedPair | LinearPair]] = LinearPair
