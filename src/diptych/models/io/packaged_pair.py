"""Dual encoders of the two encoders that come in packages, to be trained: EfficientNet-Lite0 and MiniLM (extra `weights`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from diptych.core.errors import RunError
from diptych.data.media.transforms import Preprocess
from diptych.models.io import weights
from diptych.models.io.foreign.tokenizer import from_transformers
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.pairs.frozen.locked import LockedEmbedder
from diptych.models.towers.outputs import Tower
from diptych.models.towers.towers import image_tower, text_tower

IMAGE_SIZE, TEXT_LENGTH, WIDTH = 112, 64, 256
"""Pixels, tokens and dimensions of the joint space, as recipe `locked` has them."""
HEAD_NAMES = {"norm": "0", "mlp.0": "1", "mlp.3": "4"}
"""Layers of a `ProjectionMLP` -> of the head "norm_mlp" of a tower."""


def open_packaged_pair() -> PairEmbedder:
    """Dual encoder with the packaged weights in both towers and random projections: initial weights for training, not a trained model.

    Raises MissingExtra without the packages, RunError for files other than the known ones.
    """
    with weights.in_single_precision(), torch.random.fork_rng(devices=[]):
        image, text, preprocess = _towers(IMAGE_SIZE, "crop", TEXT_LENGTH)
        model = DualEncoder(image, text, width=WIDTH)
    embedder = _embedder(model, preprocess, TEXT_LENGTH, "packaged")
    embedder.fresh = ("image_projection.", "text_projection.", "log_scale")
    return embedder


def open_unlocked(address: str) -> PairEmbedder:
    """Model of recipe `locked` as a dual encoder with all of its weights, whose encoders can be trained on.

    address  unlocked:FOLDER, a run or model folder of `locked` on the packaged encoders
    Its embeddings are those of the `locked` model. Raises RunError for a folder of another kind, or one with encoders of an address.
    """
    folder = Path(address.partition(":")[2])
    folder = folder / "model" if (folder / "model" / "config.json").is_file() else folder
    locked = LockedEmbedder.load(folder)
    images, texts = locked.images, locked.texts
    if not isinstance(images, weights.ImageFeatureExtractor) or not isinstance(texts, weights.TextFeatureExtractor):
        raise RunError(f"{folder}: its encoders are those of an address (expected a model of locked on the packaged ones)")
    heads: dict[str, Any] = locked.heads.spec
    head = {"hidden": heads["width"], "kind": "norm_mlp", "middle": heads["hidden"], "dropout": heads["dropout"]}
    with weights.in_single_precision(), torch.random.fork_rng(devices=[]):
        image, text, preprocess = _towers(images.preprocess.size, images.preprocess.resize, texts.length)
        sides = [
            image_tower("headed_image", inner=image.spec, image_size=preprocess.size, **head),
            text_tower(
                "headed_text",
                inner=text.spec,
                vocab_size=text.spec["config"]["vocab_size"],
                length=texts.length,
                unit=True,
                **head,
            ),
        ]
        model = DualEncoder(*sides, width=heads["width"], max_scale=heads["max_scale"])
    trained = {f"image_tower.inner.{name}": tensor for name, tensor in image.state_dict().items()}
    trained |= {f"text_tower.inner.{name}": tensor for name, tensor in text.state_dict().items()}
    for name, tensor in locked.heads.state_dict().items():
        side, _, rest = name.partition("_head.")
        layer, _, kind = rest.rpartition(".")
        trained[f"{side}_tower.head.{HEAD_NAMES[layer]}.{kind}" if rest else name] = tensor
    model.load_state_dict(trained)
    return _embedder(model, preprocess, texts.length, locked.name)


def _towers(image_size: int, resize: Any, length: int) -> tuple[Tower, Tower, Preprocess]:
    """New image and text tower with the packaged weights, and the preprocessing of images."""
    images, texts = weights.lite0(image_size, resize, False), weights.minilm(length, False)
    language = texts.tower
    image = image_tower("timm:tf_efficientnet_lite0", image_size=image_size)
    text = text_tower("hf", config=language.config, pooling=language.pooling, length=length)
    image.load_state_dict(images.tower.state_dict())
    text.load_state_dict(language.state_dict())
    return image, text, images.preprocess


def _embedder(model: DualEncoder, preprocess: Preprocess, length: int, name: str) -> PairEmbedder:
    return PairEmbedder(model, preprocess, from_transformers(weights.minilm_folder()), length, name)
