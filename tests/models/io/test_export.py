"""Round trips: what transformers and onnxruntime compute from our folders is what we compute."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from diptych.core.errors import ConfigError, MissingExtra
from diptych.core.image import ArrayImage
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.export.onnx_files import to_onnx
from diptych.models.io.export.transformers_folder import to_transformers
from diptych.models.io.foreign.load import load_foreign
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.towers import image_tower, text_tower

TEXTS = ["a red bus", "a green tree by the road", "bus", "the zebra and the yak by the green red road and the bus"]
PIXELS = [np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8) for seed in range(3)]
IMAGES = [ArrayImage(pixels) for pixels in PIXELS]


def trained(*, tokenizer: str = "learned", image: str = "vit_tiny", bias: float | None = None, **text: Any) -> PairEmbedder:
    torch.manual_seed(0)
    words = Tokenizer.train(TEXTS, 300) if tokenizer == "learned" else Tokenizer.from_spec(tokenizer)
    tower = image_tower(image, image_size=32, width=32, layers=2, heads=2) if image == "vit_tiny" else image_tower(image)
    options = {"length": 12, "width": 32, "layers": 2, "heads": 4, "causal": True, "pooling": "eot", **text}
    model = DualEncoder(
        tower, text_tower("text_clip", vocab_size=words.vocab_size, eot_id=words.eot_id, **options), width=16, bias=bias
    )
    with torch.no_grad():  # away from the zeros and ones of a fresh model, which hide swapped names
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return PairEmbedder(model, Preprocess(32), words, 12, "exported")


def test_the_folders_tokenizer_cleans_as_blip_does(tmp_path: Path) -> None:
    """What ours does to a text before its vocabulary reads it has to stand in the file, which is all that transformers reads."""
    import transformers

    ours = trained()
    ours.tokenizer.clean = "blip"
    to_transformers(ours, tmp_path / "hf")
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    texts = ["A RED  bus!", 'the "zebra" (and) the yak; by the: green~road.', "  a green\ttree *by* the #road\n"]
    ids_BL, end = ours.tokenizer.encode(texts, 12).ids_BL, words.eos_token_id
    swapped_BL = np.where(ids_BL == 2, end, np.where(ids_BL == end, 2, ids_BL))  # an end of 2 means something else to a CLIPModel
    theirs = words(texts, padding="max_length", max_length=12, truncation=True, return_tensors="np")["input_ids"]
    np.testing.assert_array_equal(theirs, swapped_BL)


@pytest.mark.parametrize("tokenizer", ["learned", "clip"])
def test_transformers_reads_the_folder_and_agrees(tmp_path: Path, tokenizer: str) -> None:
    import transformers

    ours = trained(tokenizer=tokenizer)
    folder = tmp_path / "hf"
    to_transformers(ours, folder)
    theirs = transformers.CLIPModel.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    text = words(TEXTS, padding=True, truncation=True, return_tensors="pt")
    image = processor(images=[Image.fromarray(pixels) for pixels in PIXELS], return_tensors="pt")
    with torch.no_grad():
        out = theirs(input_ids=text["input_ids"], attention_mask=text["attention_mask"], pixel_values=image["pixel_values"])
    np.testing.assert_allclose(ours.embed_images(IMAGES), F.normalize(out.image_embeds, dim=-1).numpy(), atol=1e-4)
    np.testing.assert_allclose(ours.embed_texts(TEXTS), F.normalize(out.text_embeds, dim=-1).numpy(), atol=1e-4)
    scale = ours.model.log_scale.exp().item()
    expected = scale * ours.embed_texts(TEXTS) @ ours.embed_images(IMAGES).T
    np.testing.assert_allclose(out.logits_per_text.numpy(), expected, atol=1e-3)

    back = load_foreign(f"hf:{folder}")
    np.testing.assert_allclose(back.embed_images(IMAGES), ours.embed_images(IMAGES), atol=1e-4)
    np.testing.assert_allclose(back.embed_texts(TEXTS), ours.embed_texts(TEXTS), atol=1e-4)
    assert back.preprocess == ours.preprocess


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": "convnet_tiny"}, "image tower is convnet_tiny"),
        ({"causal": False}, "reads both ways"),
        ({"pooling": "mean"}, "pools by the mean"),
        ({"act": "quick_gelu"}, "different activations"),
        ({"bias": -10.0}, "has a bias"),
    ],
)
def test_what_clip_model_cannot_hold_is_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        to_transformers(trained(**changes), tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("changes", [{}, {"causal": False, "pooling": "mean"}, {"image": "convnet_tiny", "bias": -10.0}])
def test_onnxruntime_agrees_for_any_batch(tmp_path: Path, changes: dict[str, Any]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    ours = trained(**changes)
    if "image" in changes:
        ours.preprocess = Preprocess(64)
    ours.model.train()
    to_onnx(ours, tmp_path / "onnx")
    assert ours.model.training
    image = onnxruntime.InferenceSession(tmp_path / "onnx" / "image.onnx")
    text = onnxruntime.InferenceSession(tmp_path / "onnx" / "text.onnx")
    for count in (1, 3):
        image_BCHW = ours.preprocess(PIXELS[:count]).numpy()
        (found,) = image.run(None, {"pixel_values": image_BCHW})
        np.testing.assert_allclose(found, ours.embed_images(IMAGES[:count]), atol=1e-4)
        encoded = ours.tokenizer.encode(TEXTS[:count], 12)
        given = {"input_ids": encoded.ids_BL, "attention_mask": encoded.mask_BL.astype(np.int64)}
        (found,) = text.run(None, {entry.name: given[entry.name] for entry in text.get_inputs()})
        np.testing.assert_allclose(found, ours.embed_texts(TEXTS[:count]), atol=1e-4)
    assert Tokenizer.load(tmp_path / "onnx").vocab_size == ours.tokenizer.vocab_size


def test_without_onnx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"diptych\[onnx\]"):
        to_onnx(trained(), tmp_path / "onnx")
