"""A dual encoder in use: order, modes, counting, saving and loading."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diptych.core.contracts import Embedder
from diptych.core.errors import ConfigError, DecodeError, RunError
from diptych.core.image import ArrayImage, BytesImage
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.towers import image_tower, text_tower

TEXTS = ["a red bus", "a green tree by the road", "bus", "two dogs", "a dog and a bus and a tree and a road and a red dog"]


def images(count: int, side: int = 40) -> list[ArrayImage]:
    rng = np.random.default_rng(0)
    return [ArrayImage(rng.integers(0, 256, (side + i, side, 3), dtype=np.uint8), f"image {i}") for i in range(count)]


@pytest.fixture
def embedder() -> PairEmbedder:
    torch.manual_seed(0)
    words = Tokenizer.train(TEXTS, 300)
    image = image_tower("vit_tiny", image_size=32, width=16, layers=1, heads=2)
    text = text_tower("text_tiny", vocab_size=words.vocab_size, length=12, width=16, layers=1, heads=2)
    model = DualEncoder(image, text, width=8, bias=-10.0, scale=10.0)
    return PairEmbedder(model, Preprocess(32, resize="squash"), words, 12, "small", card={"metrics": {"recall@1": 0.25}})


def test_embeds_in_order_whatever_the_batch_size(embedder: PairEmbedder) -> None:
    assert isinstance(embedder, Embedder)
    given = images(5)
    for rows, whole in (
        (embedder.embed_images(given, batch_size=2), embedder.embed_images(given)),
        (embedder.embed_texts(TEXTS, batch_size=2), embedder.embed_texts(TEXTS)),
    ):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, whole, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    one = embedder.model.encode_image(embedder.preprocess([decode(given[3], exact=True)])).detach().numpy()
    np.testing.assert_allclose(embedder.embed_images(given)[3], one[0], atol=1e-6)
    assert embedder.embed_images([]).shape == (0, 8)
    assert embedder.embed_texts([]).shape == (0, 8)


def test_modes_are_restored_module_by_module(embedder: PairEmbedder) -> None:
    embedder.model.train()
    embedder.model.image_tower.eval()
    before = [module.training for module in embedder.model.modules()]
    embedder.embed_images(images(1))
    assert [module.training for module in embedder.model.modules()] == before
    assert all(parameter.grad_fn is None for parameter in embedder.model.parameters())
    with pytest.raises(DecodeError, match="broken"):
        embedder.embed_images([BytesImage(b"GIF89a....", "broken")])
    assert [module.training for module in embedder.model.modules()] == before


def test_cut_texts_are_counted(embedder: PairEmbedder) -> None:
    embedder.embed_texts(TEXTS)
    expected = embedder.tokenizer.encode(TEXTS, 12).truncated
    assert expected >= 1
    assert embedder.truncated == expected
    embedder.embed_texts([TEXTS[-1]])
    assert embedder.truncated == expected + 1


def test_bf16_is_close_and_still_unit_norm(embedder: PairEmbedder) -> None:
    exact = embedder.embed_images(images(3))
    embedder.bf16 = True
    fast = embedder.embed_images(images(3))
    assert fast.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(fast, axis=1), 1, atol=1e-5)
    assert not np.array_equal(fast, exact)
    np.testing.assert_allclose(fast, exact, atol=0.05)


def test_a_saved_folder_is_the_same_model(embedder: PairEmbedder, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    embedder.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    state = torch.get_rng_state()
    again = PairEmbedder.load(folder)
    assert torch.equal(torch.get_rng_state(), state)
    assert not again.model.training
    np.testing.assert_array_equal(again.embed_images(images(3)), embedder.embed_images(images(3)))
    np.testing.assert_array_equal(again.embed_texts(TEXTS), embedder.embed_texts(TEXTS))
    assert again.fingerprint == embedder.fingerprint
    assert again.model.bias.item() == -10.0
    assert (again.name, again.card) == (embedder.name, embedder.card)
    card = (folder / "README.md").read_text()
    assert "| recall@1 | 0.25 |" in card
    assert "vit_tiny" in card
    again.save(folder)  # over itself
    assert PairEmbedder.load(folder).fingerprint == embedder.fingerprint


def test_fingerprint_sees_weights_and_preprocessing(embedder: PairEmbedder) -> None:
    def made(size: int = 32) -> str:
        return PairEmbedder(embedder.model, Preprocess(size, resize="squash"), embedder.tokenizer, 12, "x").fingerprint

    first = made()
    assert first == embedder.fingerprint
    assert made(size=48) != first
    with torch.no_grad():
        embedder.model.image_tower.class_token_D[0] += 1e-3
    assert made() != first


def test_errors_name_the_folder_and_what_is_wrong(embedder: PairEmbedder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no config\.json"):
        PairEmbedder.load(tmp_path)
    folder = tmp_path / "model"
    embedder.save(folder)
    config = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"kind": "locked"}, "kind is 'locked'"),
        ({"format": 9}, "format 9 is not known"),
        ({"width": 9}, "size"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(RunError, match=message):
            PairEmbedder.load(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"model\.safetensors is missing"):
        PairEmbedder.load(folder)
    del embedder.model.image_tower.spec
    with pytest.raises(ConfigError, match="cannot be saved"):
        embedder.save(folder)
