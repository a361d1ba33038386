"""Inference with an image tower only: unit vectors of images, and patch features.  Letters: N items, D width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from diptych.core.contracts import Unit
from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import BatchEncoding
from diptych.models.io.card import model_card
from diptych.models.io.folder import load_weights, parameters, read_config, write_model
from diptych.models.io.inference import parts
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.embedder import Embedding
from diptych.models.towers.outputs import Tower
from diptych.models.towers.towers import image_tower


class TowerEncoder(nn.Module):
    """Image tower with normalised pooled vector."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.image_tower, self.width = tower, tower.width

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        """Unit-norm [B, D]."""
        return l2_normalise(self.image_tower(image_BCHW).pooled_BD)


class ImageTowerEmbedder(Embedding):
    """Embeds images by a tower without a text side; texts raise ConfigError."""

    kind: ClassVar[str] = "image_encoder"

    def __init__(self, tower: Tower, preprocess: Preprocess, name: str, *, card: Mapping[str, Any] | None = None) -> None:
        super().__init__(TowerEncoder(tower), preprocess, self, 0, name)
        self.card = dict(card or {})

    def encode(self, texts: Sequence[str], length: int, /) -> BatchEncoding:
        """Refuses texts."""
        raise ConfigError(f"{self.name} embeds images only (expected a model with a text side)")

    @one_or_many
    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        return super().embed_texts(texts or [""], batch_size=batch_size)

    @one_or_many
    def embed_dense(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> npt.NDArray[np.float32]:
        """Return patch features [N, rows, columns, D] after the tower's final norm."""
        blocks = []
        with self._ready() as device:
            for part in parts(images, batch_size):
                image_BCHW = self.preprocess([decode(image, exact=True) for image in part]).to(device)
                tokens_BPD = self.model.image_tower(image_BCHW).tokens_BPD
                side = math.isqrt(tokens_BPD.shape[1])
                blocks.append(tokens_BPD.unflatten(1, (side, side)).float().cpu())
        return torch.cat(blocks).numpy()

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, README.md, replacing the whole folder."""
        tower = self.model.image_tower
        config = {
            "kind": self.kind,
            "name": self.name,
            "image_tower": tower.spec,
            "preprocess": self.preprocess.to_json(),
            "card": self.card,
        }
        write_model(folder, tower, config, model_card(self.name, config, parameters(tower)))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the embedder from a folder that `save` wrote. Leaves the torch random state unchanged."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            tower = image_tower(**config["image_tower"])
        load_weights(tower, folder)
        return cls(tower.eval(), Preprocess.from_json(config["preprocess"]), config["name"], card=config.get("card"))
