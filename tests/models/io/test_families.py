"""Families of published models: every full-size tensor has its place, and what does not fit is refused in one line."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from diptych.core.errors import ConfigError, DataError
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.data.text.tokens.cleaners import CLEANERS
from diptych.models.io.foreign.load import load_foreign
from diptych.models.io.foreign.open_clip_layout import open_clip_parts
from diptych.models.io.foreign.parts import build_dual_encoder, check_tensors
from diptych.models.io.foreign.preprocess import from_processor
from diptych.models.io.foreign.tokenizer import from_transformers
from diptych.models.io.foreign.transformers_layout import FAMILIES
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.towers import image_tower, text_tower

sys.path.insert(0, str(Path(__file__).parent))
import published

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
BIG: dict[str, dict[str, Any]] = {
    "clip large 336": {
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
        },
        "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        "projection_dim": 768,
    },
    "siglip so400m": {
        "vision_config": {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
        },
        "text_config": {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "vocab_size": 256_000,
            "projection_size": 1152,
        },
    },
    "align": {},
    "blip": {"text_config": {"num_attention_heads": 12}},
    "siglip2": {"text_config": {"vocab_size": 256_000}},
    "chinese_clip": {"text_config": {"vocab_size": 21128}, "vision_config": {"patch_size": 16}},
    "altclip": {},
}
"""Configurations of published models, over transformers' defaults; the first word is the family."""


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BIG))
def test_every_tensor_of_a_published_size_has_its_place(name: str) -> None:
    family = FAMILIES[name.split()[0]]
    for kind in family.classes:
        made = getattr(transformers, kind)
        with torch.device("meta"):
            config = made.config_class(**BIG[name])
            theirs = made(config)
            parts = family.parts(config.to_dict(), theirs.state_dict(), kind)
            ours = build_dual_encoder(parts)
        check_tensors(parts.tensors, ours.state_dict(), name, absent=("log_scale",))
        read = [tensor for key, tensor in theirs.state_dict().items() if key not in parts.left]
        counted = sum(tensor.numel() for tensor in parts.tensors.values())
        assert counted == sum(tensor.numel() for key, tensor in theirs.state_dict().items() if key not in parts.left), len(read)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch",
    ["ViT-B-32", "ViT-L-14-quickgelu", "RN50x4-quickgelu", "coca_ViT-L-14", "ViT-B-16-SigLIP", "ViT-H-14-CLIPA", "convnext_base"],
)
def test_every_tensor_of_an_architecture_of_open_clip_has_its_place(arch: str) -> None:
    import open_clip

    with torch.device("meta"):
        theirs = open_clip.create_model(arch, device="meta")
        parts = open_clip_parts(open_clip.get_model_config(arch), theirs.state_dict())
        ours = build_dual_encoder(parts)
    check_tensors(parts.tensors, ours.state_dict(), arch)
    left = sum(theirs.state_dict()[name].numel() for name in parts.left)
    assert sum(p.numel() for p in ours.parameters()) + left == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("name", ["AlignModel", "BlipForImageTextRetrieval", "ChineseCLIPModel"])
def test_pixels_and_ids_are_those_of_the_processor(name: str, tmp_path: Path) -> None:
    published.write(tmp_path, name)
    kind = json.loads((tmp_path / "config.json").read_text())["model_type"]
    ours = from_processor(tmp_path, kind)
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)(images=Image.fromarray(PIXELS), return_tensors="pt")
    gap = (ours([PIXELS]) - theirs["pixel_values"]).abs()
    assert gap.shape == theirs["pixel_values"].shape
    assert gap.mean() < 0.01  # transformers resizes by torchvision, we by PIL: two levels of 255 apart at most
    assert gap.max() < 0.05
    words, known = from_transformers(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = ["a red bus", "the tree", "photo of a green bus by the tree", ""]
    padded = known(texts, padding="max_length", truncation=True, max_length=9, return_tensors="np")
    encoded = words.encode(texts, 9)
    assert (encoded.ids_BL == padded["input_ids"]).all()
    assert (encoded.mask_BL == padded["attention_mask"].astype(bool)).all()


def test_siglip_texts_are_in_lower_case_without_punctuation() -> None:
    assert CLEANERS["siglip"]("A  Photo, of_a\tBUS!") == "a photo ofa bus"
    assert CLEANERS["canonicalize"]("A  Photo, of_a\tBUS!") == "a photo of a bus"
    assert CLEANERS["whitespace"]("A  Photo &amp; a\tBUS") == "A Photo & a BUS"


def test_padding_may_stand_on_the_left(tmp_path: Path) -> None:
    words = Tokenizer.train(["a red bus"], 300)
    words.side = "left"
    again = Tokenizer.from_spec(words.to_json())
    encoded = again.encode(["a red bus"], 8)
    assert again.side == "left"
    assert encoded.mask_BL[0].tolist() == sorted(encoded.mask_BL[0].tolist())
    assert encoded.ids_BL[0, -1] == words.eot_id
    text = text_tower("text_siglip", vocab_size=words.vocab_size, pad_id=words.pad_id, length=8, width=24, layers=1, heads=3)
    model = DualEncoder(image_tower("vit_tiny"), text, width=16).eval()
    with torch.no_grad():
        expected = model.encode_text(torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL))
    found = PairEmbedder(model, Preprocess(64), again, 8, "left").embed_texts(["a red bus"])
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    published.write(tmp_path, "CLIPModel")
    plain = json.loads((tmp_path / "config.json").read_text())
    changed = {**plain, "text_config": {**plain["text_config"], "intermediate_size": 96}}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    with pytest.raises(DataError) as said:
        load_foreign(f"hf:{tmp_path}")
    assert "\n" not in str(said.value)
    assert "mlp.fc1" in str(said.value)
    (tmp_path / "config.json").write_text(json.dumps({**plain, "text_config": {**plain["text_config"], "num_hidden_layers": 3}}))
    with pytest.raises(DataError, match=r"tensor text_model\.encoder\.layers\.2\..* is missing"):
        load_foreign(f"hf:{tmp_path}")


def test_a_folder_without_its_processor_or_tokenizer_is_refused(tmp_path: Path) -> None:
    published.write(tmp_path, "ChineseCLIPModel")
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (tmp_path / name).exists():
            shutil.move(tmp_path / name, tmp_path / "kept.json")
    with pytest.raises(DataError, match=r"image settings are missing.*preprocessor_config\.json"):
        load_foreign(f"hf:{tmp_path}")
    shutil.move(tmp_path / "kept.json", tmp_path / "preprocessor_config.json")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    with pytest.raises((DataError, ConfigError), match="tokenizer") as said:
        load_foreign(f"hf:{tmp_path}")
    assert "\n" not in str(said.value)


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    published.write(tmp_path, "BlipForImageTextRetrieval")
    many = {f"word{n}": n + 5 for n in range(100)}
    marks = {mark: n for n, mark in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}
    transformers.BertTokenizer(vocab={**marks, **many}).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="the tokenizer has ids up to 104 and the text tower 64 words"):
        load_foreign(f"hf:{tmp_path}")
    other = tmp_path / "clip"
    published.write(other, "CLIPModel")
    plain = json.loads((other / "config.json").read_text())
    plain["text_config"]["eos_token_id"] = 5
    (other / "config.json").write_text(json.dumps(plain))
    with pytest.raises(ConfigError, match="pools at id 5 and the tokenizer ends a text with id 53"):
        load_foreign(f"hf:{other}")


def test_an_architecture_without_two_sides_is_refused(tmp_path: Path) -> None:
    published.write(tmp_path, "BlipForImageTextRetrieval")
    plain = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**plain, "architectures": ["BlipForQuestionAnswering"]}))
    with pytest.raises(ConfigError, match="BlipForQuestionAnswering has no two sides that are compared"):
        load_foreign(f"hf:{tmp_path}")
    with pytest.raises(ConfigError, match=r"needs the folder of roberta-base: pass open_clip:roberta-ViT-B-32/.*#FOLDER"):
        load_foreign("open_clip:roberta-ViT-B-32/random")


def test_the_page_lists_the_families() -> None:
    file = Path(__file__).parents[3] / "scripts" / "docs_lists.py"
    spec = importlib.util.spec_from_file_location("docs_lists", file)
    assert spec is not None
    assert spec.loader is not None
    lists = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lists)
    path, text = lists.written("families")
    assert path.read_text(encoding="utf-8") == text
    assert all(f"`{family}`" in text for family in FAMILIES)
