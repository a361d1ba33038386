"""ALIGN: the sum of two smoothed losses, a temperature that starts at 1, LAMB, and towers whose channels are the embedding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from diptych import api
from diptych.core.errors import ConfigError
from diptych.data.load.batch import PairBatch
from diptych.data.media.transforms import random_crop, resized
from diptych.models.towers.outputs import PairFeatures
from diptych.models.towers.packaged.timm_tower import TimmTower
from diptych.models.towers.towers import image_tower, text_tower
from diptych.pipelines.composed_search import ComposedSearch
from diptych.recipes.contrastive.align import ALIGN
from diptych.train.optimise import build_optimiser, learning_rate
from diptych.train.optimisers.lamb import Lamb
from diptych.worlds.scenes.world import scenes

ROWS = 8


def small(**changes: Any) -> ALIGN:
    settings = {"tokenizer": "clip", "image_size": 32, "text_length": 8, "text_tower": "bert_tiny", "width": 16, **changes}
    return replace(ALIGN.tiny(), **settings)


def made_batch(n: int = ROWS, side: int = 32) -> PairBatch:
    chance = torch.Generator().manual_seed(3)
    text_BL = torch.randint(1, 40_000, (n, 8), generator=chance)
    image_BCHW = torch.randn(n, 3, side, side, generator=chance, dtype=torch.float64)
    return PairBatch(image_BCHW, text_BL, torch.ones(n, 8, dtype=torch.bool), torch.arange(n))


def smoothed(image_ND: Tensor, text_ND: Tensor, scale: float, smoothing: float) -> Tensor:
    logits, target = scale * image_ND @ text_ND.T, torch.arange(len(image_ND))
    one, other = (F.cross_entropy(z, target, label_smoothing=smoothing) for z in (logits, logits.T))
    return one + other


def test_the_loss_is_the_sum_of_two_smoothed_cross_entropies(parity: Any) -> None:
    torch.manual_seed(0)
    image, text = (F.normalize(torch.randn(ROWS, 8, dtype=torch.float64), dim=-1) for _ in range(2))
    pairs = PairFeatures(image, text, torch.tensor([16.0], dtype=torch.float64))
    found = small().losses(pairs, made_batch())["contrastive"]
    plain = small(smoothing=0.0).losses(pairs, made_batch())["contrastive"]
    expected = [smoothed(image, text, 16.0, smoothing) for smoothing in (0.1, 0.0)]
    parity(
        "align",
        "loss with and without smoothing",
        "torch's cross_entropy with label_smoothing",
        zip((found, plain), expected, strict=True),
        tolerance=1e-12,
    )


def test_transformers_has_half_of_it_at_the_same_start(parity: Any) -> None:
    config = transformers.AlignConfig(
        text_config={"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
        vision_config={"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 24, "image_size": 32},
        projection_dim=32,
    )
    torch.manual_seed(0)
    model = transformers.AlignModel(config).train()  # batch statistics: with fresh running averages the image vector would vanish
    pixels, ids = torch.randn(4, 3, 32, 32), torch.randint(1, 1000, (4, 6))
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=pixels, return_loss=True)
    image_ND, text_ND = (F.normalize(x.double(), dim=-1) for x in (out.image_embeds, out.text_embeds))
    scale = 1 / model.temperature.detach().double()
    start = small(start_sigma=ALIGN.paper().start_sigma).model().log_scale.exp()
    assert start.item() == pytest.approx(scale.item()) == 1.0
    parity("align", "start of the temperature", "AlignModel of transformers", [(start, scale.reshape(1))], tolerance=0.0)
    ours = small().losses(PairFeatures(image_ND, text_ND, scale.reshape(1)), made_batch(4))["contrastive"]
    parity(
        "align",
        "half of the loss",
        "AlignModel of transformers, which takes the mean of both directions",
        [(ours / 2, out.loss)],
        tolerance=1e-6,
    )


def test_temperature_cannot_cross_zero() -> None:
    recipe, batch = small(start_sigma=1.0), made_batch()
    model = recipe.model()
    pairs = PairFeatures(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1))
    for given, expected in ((-50.0, 1.0), (50.0, 0.01)):
        with torch.no_grad():
            model.log_scale.fill_(given)
        recipe.after_update(model, pairs, batch, 0.0)
        assert recipe.metrics(model.pairs(pairs.image_ND, pairs.text_ND), batch)["sigma"].item() == pytest.approx(expected)
    with pytest.raises(ConfigError, match=r"start_sigma is 0.001"):
        small(start_sigma=0.001).model()


def test_lamb_as_published_and_adamw_for_small_batches() -> None:
    paper, model = ALIGN.paper(), small().model()
    spec = paper.optimiser()
    assert isinstance(build_optimiser(model, spec), Lamb)
    assert (spec.weight_decay, paper.batch_size, paper.steps) == (1e-5, 16_384, 1_200_000)
    assert [learning_rate(spec, step, 1_200_000) for step in (0, 1, 5_000, 10_000)] == pytest.approx([0, 1e-7, 5e-4, 1e-3])
    assert learning_rate(spec, 605_000, 1_200_000) == pytest.approx(0.5e-3)
    assert isinstance(build_optimiser(model, ALIGN.tiny().optimiser()), torch.optim.AdamW)


def test_published_towers_have_the_parameters_of_transformers() -> None:
    with torch.device("meta"):
        theirs = transformers.AlignModel(transformers.AlignConfig())
        image = image_tower("efficientnet_b7", image_size=289)
        text = text_tower("bert_b", vocab_size=theirs.config.text_config.vocab_size, length=64)
    assert image.width == theirs.config.projection_dim == 640
    assert count(image) == count(theirs.vision_model)
    assert count(text) == count(theirs.text_model) - count(theirs.text_model.pooler)


def test_the_paper_builds_with_its_parameter_count() -> None:
    recipe = replace(ALIGN.paper(), tokenizer="clip")  # the published vocabulary is learned from data
    with torch.device("meta"):
        model = recipe.model()
    assert model.image_tower.width == model.width == 1376
    assert count(model.image_tower) == 467_219_796
    assert count(model) == 822_061_749
    assert model.text_projection.bias is not None
    assert (recipe.image_size, recipe.text_length, recipe.smoothing, recipe.start_sigma) == (289, 64, 0.1, 1.0)


def test_training_sees_any_square_of_the_squashed_picture_and_evaluation_its_middle() -> None:
    recipe = replace(ALIGN.paper(), tokenizer="clip", image_size=20, edge=7)
    picture_HWC = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    whole_HWC = resized(picture_HWC, 27)
    places = set()
    for seed in range(60):
        seen_HWC = random_crop(picture_HWC, 20, np.random.default_rng(seed), recipe.crop, recipe.crop_form)
        fits = [(y, x) for y in range(8) for x in range(8) if np.array_equal(whole_HWC[y : y + 20, x : x + 20], seen_HWC)]
        assert len(fits) == 1
        places |= {("y", fits[0][0]), ("x", fits[0][1])}
    assert places == {(axis, at) for axis in "yx" for at in range(8)}, "the first place and the last among them"
    shown = recipe.deployed_preprocess
    assert (shown.size, shown.margin, shown.resize) == (20, 7, "squash")
    assert recipe.preprocess.margin == 0
    paper, tuned = ALIGN.paper(), ALIGN.paper_tuned()
    assert (paper.crop_form.window, paper.deployed_preprocess.margin, paper.decode_size) == (346, 57, 0)
    assert (tuned.batch_size, tuned.lr, tuned.steps, tuned.warmup) == (2048, 1e-5, 3000, 0)
    assert ALIGN.tiny().crop_form.window == 0


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_an_image_that_is_not_projected_needs_its_towers_width() -> None:
    with pytest.raises(ConfigError, match=r"width is 16 but the image is not projected \(expected 192"):
        small(project_image=False).model()
    with pytest.raises(ConfigError, match="has no head convolution to leave out"):
        TimmTower(model="vit_tiny_patch16_224", head_conv=False)


def test_a_model_without_image_projection_comes_back(tmp_path: Path) -> None:
    recipe = small(project_image=False, width=192)
    deployed = recipe.deploy(recipe.model().eval())
    deployed.save(tmp_path / "model")
    again, images = api.load(tmp_path / "model"), [scenes(2)[row].image for row in range(2)]
    np.testing.assert_allclose(deployed.embed_images(images), again.embed_images(images), atol=1e-6)
    assert isinstance(again.model.image_projection, torch.nn.Identity)


def test_an_image_and_twice_a_text_make_a_query() -> None:
    recipe = small()
    model = recipe.deploy(recipe.model().eval())
    rows = [scenes(6)[row].image for row in range(6)]
    found = ComposedSearch(model, model.embed_images(rows))(rows[0], "a red circle", k=6)
    query = model.embed_images(rows[:1]) + 2 * model.embed_texts(["a red circle"])
    scores = model.embed_images(rows) @ (query / np.linalg.norm(query))[0]
    assert [row for row, _ in found] == np.argsort(-scores, kind="stable").tolist()
    assert found[0][1] == pytest.approx(scores.max(), abs=1e-5)
