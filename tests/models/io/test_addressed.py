"""Encoders by address: the same vectors as the model that lies there, and of encoders of one side those that transformers gives."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.nn import functional as F

from diptych.core.errors import ConfigError, DiptychError, RunError, UnknownName
from diptych.core.image import ArrayImage
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io import weights
from diptych.models.io.export.onnx_embedder import OnnxEmbedder
from diptych.models.io.export.onnx_files import to_onnx
from diptych.models.io.open_address import open_address
from diptych.models.pairs.frozen.locked import LockedEmbedder, LockedPair

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
from clip_folders import clip_folder

TEXTS = ["a red bus", "a green tree by the road with a bus", "bus"]
PIXELS = [np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8) for seed in range(3)]
IMAGES = [ArrayImage(pixels) for pixels in PIXELS]
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_folder(tmp_path_factory.mktemp("clip"), TEXTS, length=12)


def text_folder(folder: Path, *, pooling: str = "") -> Path:
    words = Tokenizer.train(TEXTS, 280)
    words.save(folder)
    torch.manual_seed(0)
    settings = transformers.BertConfig(**SIZES, vocab_size=words.vocab_size, max_position_embeddings=12)
    transformers.BertModel(settings).save_pretrained(folder)
    if pooling:
        (folder / "1_Pooling").mkdir()
        on = ", ".join(
            f'"pooling_mode_{mode}": {str(mode == pooling).lower()}' for mode in ("mean_tokens", "cls_token", "max_tokens")
        )
        (folder / "1_Pooling" / "config.json").write_text(f'{{"word_embedding_dimension": 16, {on}}}')
    return folder


def image_folder(folder: Path, kind: str) -> Path:
    torch.manual_seed(0)
    if kind == "resnet":
        small = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        model: Any = transformers.ResNetModel(small)
    elif kind == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**SIZES, image_size=32, patch_size=16))
    else:
        model = transformers.ViTModel(transformers.ViTConfig(**SIZES, image_size=32, patch_size=16), add_pooling_layer=False)
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_both_sides_of_a_dual_encoder_give_its_vectors(folder: Path) -> None:
    images, texts = weights.image(f"hf:{folder}"), weights.text(f"hf:{folder}", length=64)
    theirs = open_address(f"hf:{folder}")
    np.testing.assert_array_equal(images.encode_images(IMAGES), theirs.embed_images(IMAGES))
    np.testing.assert_array_equal(texts.encode_texts(TEXTS), theirs.embed_texts(TEXTS))
    assert (images.width, texts.width, texts.length) == (16, 16, 12)
    assert weights.text(**texts.spec).fingerprint == theirs.fingerprint
    assert texts.encode_texts(["bus " * 40]).shape == (1, 16)
    assert texts.truncated == 1 + sum(theirs.tokenizer.encode([text], 99).mask_BL.sum() > 12 for text in TEXTS)


@pytest.mark.parametrize("kind", ["vit", "dinov2", "resnet"])
def test_an_image_encoder_of_transformers_alone(tmp_path: Path, kind: str) -> None:
    folder = image_folder(tmp_path, kind)
    encoder = weights.image(f"hf:{folder}")
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.ViTImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        answer = theirs(**processor(images=[Image.fromarray(pixels) for pixels in PIXELS], return_tensors="pt"))
    expected_ND = answer.pooler_output.flatten(1) if kind == "resnet" else answer.last_hidden_state[:, 0]
    ours_ND = encoder.encode_images(IMAGES)
    assert ours_ND.shape == (3, encoder.width)
    np.testing.assert_allclose(ours_ND, expected_ND.numpy(), atol=2e-5)
    assert weights.image(**encoder.spec).fingerprint == encoder.fingerprint


@pytest.mark.parametrize("pooling", ["", "mean_tokens", "cls_token"])
def test_a_text_encoder_of_transformers_alone(tmp_path: Path, pooling: str) -> None:
    folder = text_folder(tmp_path, pooling=pooling)
    encoder = weights.text(f"hf:{folder}", length=9)
    theirs, tokenizer = transformers.BertModel.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)
    for row, text in zip(encoder.encode_texts(TEXTS), TEXTS, strict=True):
        with torch.no_grad():
            words_LD = theirs(**tokenizer(text, truncation=True, max_length=9, return_tensors="pt")).last_hidden_state[0]
        expected_D = F.normalize(words_LD[0] if pooling == "cls_token" else words_LD.mean(0), dim=0)
        np.testing.assert_allclose(row, expected_D.numpy(), atol=1e-5)
    assert encoder.truncated == sum(len(tokenizer(text)["input_ids"]) > 9 for text in TEXTS)
    assert weights.text(**encoder.spec).fingerprint == encoder.fingerprint
    if pooling:
        (folder / "1_Pooling" / "config.json").unlink()  # the mean: stored features of the other are no use
        assert (weights.text(f"hf:{folder}", length=9).fingerprint == encoder.fingerprint) == (pooling == "mean_tokens")


def locked(folder: Path) -> LockedEmbedder:
    torch.manual_seed(0)
    images, texts = weights.image(f"hf:{folder}"), weights.text(f"hf:{folder}")
    return LockedEmbedder(LockedPair(images.width, texts.width, width=8, hidden=16).eval(), images, texts, "on-clip")


def test_heads_open_where_their_encoder_still_lies(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = clip_folder(tmp_path / "encoder", TEXTS, length=12)
    monkeypatch.chdir(tmp_path)
    made = locked(Path("encoder"))
    made.save(tmp_path / "heads")
    monkeypatch.chdir("/")
    again = open_address(tmp_path / "heads")
    np.testing.assert_allclose(again.embed_texts(TEXTS), made.embed_texts(TEXTS), atol=1e-6)
    assert again.fingerprint == made.fingerprint
    transformers.CLIPModel(transformers.CLIPConfig.from_pretrained(own)).save_pretrained(own)  # other weights in its place
    with pytest.raises(RunError, match=r"the image and text encoder that is there now differs"):
        open_address(tmp_path / "heads")
    own.rename(tmp_path / "moved")
    with pytest.raises(RunError, match=r"heads: an encoder that its heads were trained on does not open: hf:.*encoder"):
        open_address(tmp_path / "heads")


def test_onnx_holds_encoder_and_head(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    made = locked(folder)
    to_onnx(made, tmp_path / "onnx")
    exported = OnnxEmbedder(tmp_path / "onnx")
    np.testing.assert_allclose(exported.embed_images(IMAGES), made.embed_images(IMAGES), atol=1e-5)
    np.testing.assert_allclose(exported.embed_texts(TEXTS), made.embed_texts(TEXTS), atol=1e-5)


def test_what_is_no_encoder_is_refused_in_a_line(tmp_path: Path, folder: Path) -> None:
    bert, vit = text_folder(tmp_path / "bert"), image_folder(tmp_path / "vit", "vit")
    mixed = text_folder(tmp_path / "mixed", pooling="max_tokens")
    cases: list[tuple[Any, str, type[DiptychError], str]] = [
        (weights.text, "minilm-l12", UnknownName, "did you mean 'minilm-l6'"),
        (weights.text, f"hf:{vit}", ConfigError, "model_type is 'vit', which reads images"),
        (weights.image, f"hf:{bert}", ConfigError, "as an image encoder: model_type is 'bert'"),
        (weights.text, f"hf:{mixed}", ConfigError, "pools by pooling_mode_max_tokens"),
        (weights.text, "timm:resnet18/random", ConfigError, "embeds images only"),
        (weights.image, "hf:nobody/nothing", ConfigError, "`hf download nobody/nothing` fetches it"),
        (weights.image, "open_clip:RN50/openai", ConfigError, "open_clip:ARCH/FILE"),
        (weights.image, str(tmp_path), RunError, "is not a model"),
    ]
    with pytest.raises(ConfigError, match="bf16 is for encoders of one side"):
        weights.image(f"hf:{folder}", bf16=True)
    for opened, address, kind, said in cases:
        with pytest.raises(kind) as caught:
            opened(address)
        assert said in str(caught.value), address
        assert "\n" not in str(caught.value)
