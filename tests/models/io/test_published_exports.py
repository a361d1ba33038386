"""Models with the parts of CLIP's and SigLIP's released towers, taken to other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.export.onnx_files import to_onnx
from diptych.models.io.export.transformers_folder import to_transformers
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.towers import image_tower, text_tower

TEXTS = ["a red bus", "a green tree by the road", "bus"]
PIXELS = [np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8) for seed in range(3)]
IMAGES = [ArrayImage(pixels) for pixels in PIXELS]


def embedder(image: dict[str, Any], text: dict[str, Any], **options: Any) -> PairEmbedder:
    torch.manual_seed(0)
    words = Tokenizer.train(TEXTS, 300)
    sizes = {"width": 32, "layers": 2, "heads": 2}
    named = {"vocab_size": words.vocab_size, "eot_id": words.eot_id, "pad_id": words.pad_id, "length": 12, "name": "text_clip"}
    towers = image_tower(**{"name": "vit_tiny", "image_size": 32, **sizes, **image}), text_tower(**{**named, **sizes, **text})
    model = DualEncoder(*towers, width=32, **options)
    with torch.no_grad():  # away from the zeros and ones of a fresh model, which hide swapped names
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return PairEmbedder(model, Preprocess(32), words, 12, "exported")


@pytest.mark.parametrize("act", ["quick_gelu", "gelu_tanh"])
@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_transformers_takes_over_activation_and_eps(tmp_path: Path, act: str, eps: float) -> None:
    import transformers

    ours = embedder({"act": act, "eps": eps}, {"act": act, "eps": eps})
    to_transformers(ours, tmp_path / "hf")
    theirs = transformers.CLIPModel.from_pretrained(tmp_path / "hf").eval()
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = words(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        out = theirs(input_ids=text["input_ids"], attention_mask=text["attention_mask"], pixel_values=ours.preprocess(PIXELS))
    np.testing.assert_allclose(ours.embed_images(IMAGES), F.normalize(out.image_embeds, dim=-1).numpy(), atol=1e-5)
    np.testing.assert_allclose(ours.embed_texts(TEXTS), F.normalize(out.text_embeds, dim=-1).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("image", "text", "options", "reason"),
    [
        ({"pool": "attention"}, {}, {}, "SigLIP's head"),
        ({"patch_bias": True}, {}, {}, "patch bias"),
        ({"pre_norm": False}, {}, {}, "no first norm"),
        ({}, {"pooling": "last"}, {}, "at the last place"),
        ({}, {}, {"project_image": False}, "is not projected"),
        ({}, {}, {"projection_bias": "text"}, "projections have a bias"),
    ],
)
def test_what_clip_model_cannot_hold_is_named(
    tmp_path: Path, image: dict[str, Any], text: dict[str, Any], options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        to_transformers(embedder(image, text, **options), tmp_path / "hf")


def test_onnxruntime_agrees_with_siglips_parts(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    parts = {"pool": "attention", "patch_bias": True, "pre_norm": False, "act": "gelu_tanh", "eps": 1e-6}
    words = {"name": "text_siglip"}
    ours = embedder(parts, words, project_image=False, projection_bias="text", bias=-10.0)
    to_onnx(ours, tmp_path / "onnx")
    image = onnxruntime.InferenceSession(tmp_path / "onnx" / "image.onnx")
    text = onnxruntime.InferenceSession(tmp_path / "onnx" / "text.onnx")
    for count in (1, 3):
        (found,) = image.run(None, {"pixel_values": ours.preprocess(PIXELS[:count]).numpy()})
        np.testing.assert_allclose(found, ours.embed_images(IMAGES[:count]), atol=1e-4)
        encoded = ours.tokenizer.encode(TEXTS[:count], 12)
        given = {"input_ids": encoded.ids_BL, "attention_mask": encoded.mask_BL}
        (found,) = text.run(None, {entry.name: given[entry.name] for entry in text.get_inputs()})
        np.testing.assert_allclose(found, ours.embed_texts(TEXTS[:count]), atol=1e-4)
