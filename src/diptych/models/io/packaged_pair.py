"""Dual encoder of the two encoders that come in packages, to be trained: EfficientNet-Lite0 and MiniLM (extra `weights`)."""

from __future__ import annotations

import torch

from diptych.models.io import weights
from diptych.models.io.foreign.tokenizer import from_transformers
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.towers import image_tower, text_tower

IMAGE_SIZE, TEXT_LENGTH, WIDTH = 112, 64, 256
"""Pixels, tokens and dimensions of the joint space, as recipe `locked` has them."""


def open_packaged_pair() -> PairEmbedder:
    """Dual encoder with the packaged weights in both towers and random projections: initial weights for training, not a trained model.

    Raises MissingExtra without the packages, RunError for files other than the known ones.
    """
    images = weights.lite0(IMAGE_SIZE, "crop", False)
    texts = weights.minilm(TEXT_LENGTH, False)
    language = texts.tower
    with weights.in_single_precision(), torch.random.fork_rng(devices=[]):
        image = image_tower("timm:tf_efficientnet_lite0", image_size=IMAGE_SIZE)
        text = text_tower("hf", config=language.config, pooling=language.pooling, length=TEXT_LENGTH)
        model = DualEncoder(image, text, width=WIDTH)
    image.load_state_dict(images.tower.state_dict())
    text.load_state_dict(language.state_dict())
    words = from_transformers(weights.minilm_folder())
    embedder = PairEmbedder(model, images.preprocess, words, TEXT_LENGTH, "packaged")
    embedder.fresh = ("image_projection.", "text_projection.", "log_scale")
    return embedder
