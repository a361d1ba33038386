"""ONNX Runtime against PyTorch: the same embeddings, the same identity, from a folder or made at the start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diptych as dp
from diptych.core.contracts import Embedder
from diptych.core.errors import ConfigError, MissingExtra, RunError, UnknownName
from diptych.core.image import ArrayImage
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.index.kinds.dense import DenseIndex
from diptych.models.io.export.onnx_embedder import OnnxEmbedder
from diptych.models.io.export.onnx_files import to_onnx
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.towers import image_tower, text_tower
from diptych.worlds import scenes

pytest.importorskip("onnxruntime")

TEXTS = ["a red circle", "two", "a green square left of a blue circle and above a star", ""]


def model(image: str = "convnet_tiny", pooling: str = "eot") -> PairEmbedder:
    torch.manual_seed(0)
    words = Tokenizer.train(TEXTS * 3, 300)
    options: dict[str, Any] = {"length": 12, "width": 32, "layers": 2, "heads": 4, "causal": pooling == "eot", "pooling": pooling}
    text = text_tower("text_clip", vocab_size=words.vocab_size, eot_id=words.eot_id, **options)
    pair = DualEncoder(image_tower(image), text, width=16)
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return PairEmbedder(pair, Preprocess(64, resize="pad"), words, 12, "small", dims=(8,))


@pytest.mark.parametrize("pooling", ["eot", "mean"])
def test_both_towers_agree_with_torch(tmp_path: Path, pooling: str) -> None:
    ours = model(pooling=pooling)
    to_onnx(ours, tmp_path / "onnx")
    theirs = OnnxEmbedder(tmp_path / "onnx")
    assert isinstance(theirs, Embedder)
    rng = np.random.default_rng(0)
    images = [ArrayImage(rng.integers(0, 256, (40 + 9 * i, 64, 3), dtype=np.uint8)) for i in range(7)]
    np.testing.assert_allclose(theirs.embed_images(images, batch_size=3), ours.embed_images(images), atol=2e-5)
    np.testing.assert_allclose(theirs.embed_texts(TEXTS, batch_size=3), ours.embed_texts(TEXTS), atol=2e-5)
    assert theirs.truncated == ours.truncated > 0
    assert theirs.embed_images([]).shape == theirs.embed_texts([]).shape == (0, 16)
    assert theirs.embed_texts(TEXTS).dtype == np.float32
    assert (theirs.name, theirs.fingerprint, theirs.dims) == (ours.name, ours.fingerprint, (8,))


def test_it_searches_the_index_of_the_model_it_was_made_from(tmp_path: Path) -> None:
    ours, data = model(), scenes(30, seed=1)
    ours.save(tmp_path / "model")
    DenseIndex.build(ours, data, tmp_path / "index", progress=False).close()
    made = dp.load(tmp_path / "model", engine="onnx")
    assert isinstance(made, OnnxEmbedder)
    with dp.open_index(tmp_path / "index", model=made) as index:
        for row in range(5):
            image = data[row].image
            assert image is not None
            hit = index.search_image(image, 1)[0]
            assert (hit.uid, round(hit.score, 4)) == (data.uids[row], 1.0)
    to_onnx(ours, tmp_path / "onnx")
    assert isinstance(dp.load(tmp_path / "onnx"), OnnxEmbedder)


def test_what_cannot_work_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match=r"has no onnx.json"):
        OnnxEmbedder(tmp_path)
    with pytest.raises(UnknownName, match="engine 'tensorrt'"):
        dp.load(tmp_path, engine="tensorrt")
    folder = tmp_path / "detector"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"kind": "relation_detector"}))
    monkeypatch.setattr("diptych.models.io.open_address.open_model", lambda folder: object())
    with pytest.raises(ConfigError, match="ONNX Runtime cannot run"):
        dp.load(folder, engine="onnx")
    to_onnx(model(), tmp_path / "onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"diptych\[onnx\]"):
        OnnxEmbedder(tmp_path / "onnx")
