"""Load image models of timm, without their classifiers, as embedders.

Letters: B batch, C channel, H W.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.contracts import Unit
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.inputs import one_or_many
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import BatchEncoding
from diptych.models.io.foreign.preprocess import from_timm
from diptych.models.io.tensor_files import chosen_weights, read_tensors
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.embedder import Embedding
from diptych.models.towers.packaged.timm_tower import TimmTower
from diptych.models.towers.towers import image_tower


class TimmImages(nn.Module):
    """timm model without its classifier, with `encode_image`."""

    def __init__(self, image_tower: TimmTower) -> None:
        super().__init__()
        self.image_tower = image_tower
        self.width = image_tower.width

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        return l2_normalise(self.image_tower(image_BCHW).pooled_BD)


class ImageEmbedding(Embedding):
    """Image-only embedder; raises ConfigError for texts."""

    def __init__(self, model: TimmImages, preprocess: Preprocess, name: str) -> None:
        super().__init__(model, preprocess, self, 0, name)

    def encode(self, texts: Sequence[str], length: int, /) -> BatchEncoding:
        raise ConfigError(f"{self.name} embeds images only (expected a model with a text side, such as hf: or open_clip:)")

    @one_or_many
    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        return super().embed_texts(texts or [""], batch_size=batch_size)


def open_timm(spec: str, name: str, weights: str, download: bool) -> Embedding:
    """Load an image model of timm as an embedder: `weights` is a file or "random"; "" with `download` takes timm's own."""
    import timm

    if not timm.is_model(name):
        raise UnknownName("timm model", name, timm.list_models(), hint="timm.list_models() lists them")
    own = download and not weights
    path, _ = (None, None) if own else chosen_weights(spec, weights, download=False, tags=())
    with torch.random.fork_rng(devices=[], enabled=weights != "random"):
        tower: Any = image_tower(f"timm:{name}")
    if own:
        tower.net.load_state_dict(timm.create_model(name, pretrained=True, num_classes=0).state_dict())
    elif path:
        _fill(tower.net, path)
    return ImageEmbedding(TimmImages(tower).eval(), from_timm(tower.net), spec)


def _fill(inner: Any, path: Path) -> None:
    """Load a state dict; only the omitted classifier may be unexpected."""
    report = inner.load_state_dict(read_tensors(path), strict=False)
    classifier = inner.pretrained_cfg.get("classifier") or "classifier"
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    strange = [name for name in report.unexpected_keys if not name.startswith(heads)]
    if report.missing_keys or strange:
        wrong = f"tensor {report.missing_keys[0]} is missing" if report.missing_keys else f"tensor {strange[0]} is unknown"
        raise DataError(wrong, file=path, expected=f"the weights of {type(inner).__name__}")
