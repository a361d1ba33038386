"""Prefixes of embeddings: cut, then normalised; recorded in the model's folder; classifiers on every prefix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diptych.core.contracts import Embedder
from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.layers.prefix import PrefixEmbedder, prefix
from diptych.models.pairs.classifiers.nested_classifier import NestedClassifier
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.towers import image_tower, text_tower

TEXTS = ["a red bus", "two dogs"]
IMAGES = [ArrayImage(np.full((32, 32, 3), value, np.uint8), str(value)) for value in (10, 200)]


@pytest.fixture
def embedder() -> PairEmbedder:
    torch.manual_seed(0)
    words = Tokenizer.train(TEXTS, 300)
    image = image_tower("vit_tiny", image_size=32, width=16, layers=1, heads=2)
    text = text_tower("text_tiny", vocab_size=words.vocab_size, length=12, width=16, layers=1, heads=2)
    return PairEmbedder(DualEncoder(image, text, width=8), Preprocess(32), words, 12, "small", dims=(2, 4, 8))


def test_a_prefix_is_cut_and_then_normalised(embedder: PairEmbedder) -> None:
    short = embedder.first(3)
    assert isinstance(short, Embedder)
    for part, whole in (
        (short.embed_images(IMAGES), embedder.embed_images(IMAGES)),
        (short.embed_texts(TEXTS), embedder.embed_texts(TEXTS)),
    ):
        assert part.shape == (2, 3)
        assert part.dtype == np.float32
        for row, of in zip(part, whole, strict=True):
            np.testing.assert_allclose(row, of[:3] / np.sqrt((of[:3] ** 2).sum()), atol=1e-6)
    assert (short.text_length, short.tokenizer) == (12, embedder.tokenizer)
    np.testing.assert_allclose(embedder.first(8).embed_texts(TEXTS), embedder.embed_texts(TEXTS), atol=1e-6)
    assert prefix(np.zeros((2, 4), np.float32), 2).tolist() == [[0, 0], [0, 0]]


def test_every_width_is_a_model_of_its_own(embedder: PairEmbedder) -> None:
    prints = {model.fingerprint for model in (embedder, embedder.first(4), embedder.first(2))}
    assert len(prints) == 3
    assert embedder.first(4).name == "small-first-4"
    with pytest.raises(ConfigError, match="a prefix of 9 dimensions was requested of embeddings that have 8"):
        embedder.first(9).embed_texts(TEXTS)
    with pytest.raises(ConfigError, match="a prefix has 0 dimensions"):
        PrefixEmbedder(embedder, 0)


def test_trained_widths_stand_in_the_config(embedder: PairEmbedder, tmp_path: Path) -> None:
    embedder.save(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dims"] == [2, 4, 8]
    assert PairEmbedder.load(tmp_path / "model").dims == (2, 4, 8)
    embedder.dims = ()
    embedder.save(tmp_path / "plain")
    assert "dims" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    assert PairEmbedder.load(tmp_path / "plain").dims == ()


def test_tied_classifiers_equal_untied_ones_with_the_same_slices(parity: Any) -> None:
    torch.manual_seed(1)
    dims = (2, 3, 6)
    tied, untied = (NestedClassifier(6, 4, dims, tied=kind).double() for kind in (True, False))
    assert tied.shared is not None
    for d, linear in zip(dims, untied.linears, strict=True):
        linear.load_state_dict({"weight": tied.shared.weight[:, :d], "bias": tied.shared.bias})
    x, label = torch.randn(5, 6, dtype=torch.float64, requires_grad=True), torch.tensor([0, 3, 1, 1, 2])
    torch.testing.assert_close(tied(x), untied(x))
    assert tied(x).shape == (3, 5, 4)

    def loss(model: NestedClassifier) -> torch.Tensor:
        return torch.stack([F.cross_entropy(logits, label) for logits in model(x)]).sum()

    for model in (tied, untied):
        loss(model).backward()
    wanted = torch.zeros_like(tied.shared.weight)
    for d, linear in zip(dims, untied.linears, strict=True):
        wanted[:, :d] += linear.weight.grad
    torch.testing.assert_close(tied.shared.weight.grad, wanted)
    pairs = [(tied(x), untied(x)), (tied.shared.weight.grad, wanted)]
    parity(
        "mrl",
        "tied classifiers: logits and gradient of the one weight",
        "untied ones with the same slices",
        pairs,
        tolerance=1e-12,
    )
    assert torch.autograd.grad(tied(x)[0].sum(), x)[0][:, 2:].abs().max() == 0
    with pytest.raises(ConfigError, match="from 1 to 6"):
        NestedClassifier(6, 4, (2, 7))
