"""Other libraries' models: their own outputs, preprocessing and tokenizer, and refusals that say what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from diptych.core.contracts import Embedder
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.image import ArrayImage
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.foreign.load import load_foreign

TEXTS = ["a red bus", "a green tree by the road with a bus", "bus"]
PIXELS = [np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8) for seed in range(3)]
IMAGES = [ArrayImage(pixels) for pixels in PIXELS]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_tokenizer(folder: Path) -> tuple[int, int]:
    """A learned vocabulary in transformers' layout; (size, id of the end)."""
    words = Tokenizer.train(TEXTS, 300)
    words.save(folder)
    return words.vocab_size, words.eot_id


def clip_folder(folder: Path) -> Path:
    import transformers

    size, _ = write_tokenizer(folder)
    torch.manual_seed(0)
    settings = transformers.CLIPConfig(
        projection_dim=16,
        vision_config={**SIZES, "image_size": 32, "patch_size": 16},
        text_config={**SIZES, "vocab_size": size, "max_position_embeddings": 12, "eos_token_id": 2, "bos_token_id": 1},
    )
    transformers.CLIPModel(settings).save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def siglip_folder(folder: Path) -> Path:
    import transformers

    size, _ = write_tokenizer(folder)
    torch.manual_seed(0)
    settings = transformers.SiglipConfig(
        vision_config={**SIZES, "image_size": 32, "patch_size": 16},
        text_config={**SIZES, "vocab_size": size, "max_position_embeddings": 12, "projection_size": 32},
    )
    transformers.SiglipModel(settings).save_pretrained(folder)
    transformers.SiglipImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_transformers_folder_gives_what_transformers_gives(tmp_path: Path, family: str) -> None:
    import transformers

    folder = (clip_folder if family == "clip" else siglip_folder)(tmp_path)
    embedder = load_foreign(f"hf:{folder}")
    assert isinstance(embedder, Embedder)

    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    image = processor(images=[Image.fromarray(pixels) for pixels in PIXELS], return_tensors="pt")
    text = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=12, return_tensors="pt")
    text.pop("token_type_ids", None)
    if family == "siglip":
        text.pop("attention_mask")
    with torch.no_grad():
        image_ND, text_ND = theirs.get_image_features(**image), theirs.get_text_features(**text)
    for ours, answer in ((embedder.embed_images(IMAGES), image_ND), (embedder.embed_texts(TEXTS, batch_size=2), text_ND)):
        expected = answer if isinstance(answer, torch.Tensor) else answer.pooler_output
        np.testing.assert_allclose(ours, F.normalize(expected, dim=-1).numpy(), atol=1e-4)
    assert embedder.truncated == sum(len(tokenizer(t)["input_ids"]) > 12 for t in TEXTS)


def test_image_settings_are_read_or_refused(tmp_path: Path) -> None:
    folder = siglip_folder(tmp_path)
    preprocess = load_foreign(f"hf:{folder}").preprocess
    assert (preprocess.size, preprocess.resize, preprocess.mean) == (32, "squash", (0.5, 0.5, 0.5))
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.unlink()
    with pytest.raises(DataError, match="image settings are missing"):
        load_foreign(f"hf:{folder}")
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert load_foreign(f"hf:{folder}").preprocess == preprocess
    changed: dict[str, Any] = {**settings, "size": {"shortest_edge": 40}, "crop_size": 32, "do_center_crop": True}
    path.write_text(json.dumps(changed))
    cut = load_foreign(f"hf:{folder}").preprocess
    assert (cut.size, cut.margin, cut.resize) == (32, 8, "crop")
    path.write_text(json.dumps({**changed, "crop_size": 48}))
    with pytest.raises(ConfigError, match="resizing to 40 and then cropping 48"):
        load_foreign(f"hf:{folder}")
    path.write_text(json.dumps({**settings, "size": {"height": 48, "width": 48}}))
    with pytest.raises(ConfigError, match="processor makes images of 48 pixels and its image tower reads 32"):
        load_foreign(f"hf:{folder}")


def test_a_hub_name_says_what_to_pass_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match="neither a folder nor in the local cache; pass --download to fetch it, or pass hf:FOLDER"
    ):
        load_foreign("hf:openai/no-such-model-here")
    with pytest.raises(ConfigError, match=r"no such folder"):
        load_foreign("hf:/no/such/folder")
    with pytest.raises(DataError, match=r"no config\.json"):
        load_foreign(f"hf:{tmp_path}")


def test_another_family_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="model_type is 'bert'"):
        load_foreign(f"hf:{tmp_path}")


@pytest.mark.parametrize("suffix", [".pt", pytest.param(".safetensors", marks=pytest.mark.slow)])
def test_open_clip_with_a_weights_file(tmp_path: Path, suffix: str) -> None:
    import open_clip

    torch.manual_seed(3)
    theirs, _, transform = open_clip.create_model_and_transforms("ViT-S-32-alt")
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}, "epoch": 1}, path)
    else:
        save_file(theirs.state_dict(), path)
    embedder = load_foreign(f"open_clip:ViT-S-32-alt/{path}")
    long = "word " * 100
    image_BCHW = torch.stack([transform(Image.fromarray(pixels)) for pixels in PIXELS])
    with torch.no_grad():
        image_ND = theirs.eval().encode_image(image_BCHW, normalize=True)
        text_ND = theirs.encode_text(open_clip.get_tokenizer("ViT-S-32-alt")([*TEXTS, long]), normalize=True)
    np.testing.assert_allclose(embedder.embed_images(IMAGES), image_ND.numpy(), atol=1e-4)
    np.testing.assert_allclose(embedder.embed_texts([*TEXTS, long]), text_ND.numpy(), atol=1e-4)
    assert embedder.truncated == 1


def test_open_clip_refuses_what_it_would_have_to_fetch_or_invent() -> None:
    with pytest.raises(
        ConfigError, match="does not name a weights file; pass open_clip:ViT-B-32/FILE, or open_clip:ViT-B-32/random"
    ):
        load_foreign("open_clip:ViT-B-32/")
    with pytest.raises(ConfigError, match="is a tag on the hub; pass --download"):
        load_foreign("open_clip:ViT-B-32/laion2b_s34b_b79k")
    with pytest.raises(ConfigError, match="no such weights file, and no tag"):
        load_foreign("open_clip:ViT-B-32/nothing.pt")
    with pytest.raises(UnknownName, match="unknown open_clip architecture 'ViT-B-31'"):
        load_foreign("open_clip:ViT-B-31/random")


def test_timm_embeds_images_only(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(4)
    theirs = timm.create_model("resnet10t", num_classes=7).eval()
    path = tmp_path / "weights.safetensors"
    save_file(theirs.state_dict(), path)
    embedder = load_foreign(f"timm:resnet10t/{path}")
    image_BCHW = embedder.preprocess(PIXELS)
    with torch.no_grad():
        expected = F.normalize(theirs.forward_head(theirs.forward_features(image_BCHW), pre_logits=True), dim=-1)
    np.testing.assert_allclose(embedder.embed_images(IMAGES), expected.numpy(), atol=1e-4)
    with pytest.raises(ConfigError, match="embeds images only"):
        embedder.embed_texts(TEXTS)
    tensors = theirs.state_dict()
    tensors.pop("conv1.0.weight")
    save_file(tensors, path)
    with pytest.raises(DataError, match=r"tensor conv1\.0\.weight is missing"):
        load_foreign(f"timm:resnet10t/{path}")


def test_random_weights_must_be_asked_for() -> None:
    with pytest.raises(ConfigError, match="timm:resnet10t/random for fresh ones"):
        load_foreign("timm:resnet10t")
    torch.manual_seed(5)
    first = load_foreign("timm:resnet10t/random").fingerprint
    assert load_foreign("timm:resnet10t/random").fingerprint != first


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("executed",)

    path = tmp_path / "weights.pt"
    torch.save({"x": Code()}, path)
    with pytest.raises(DataError, match=r"not read, since it asks for (\w+\.)?print"):
        load_foreign(f"timm:resnet10t/{path}")
    with pytest.raises(DataError, match=r"not read, since it asks for (\w+\.)?print"):
        load_foreign(f"open_clip:ViT-S-32-alt/{path}")


def test_an_unknown_prefix_is_named() -> None:
    with pytest.raises(UnknownName, match="did you mean 'open_clip'"):
        load_foreign("openclip:ViT-B-32/random")
