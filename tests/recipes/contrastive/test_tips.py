"""TIPS: CLIP falls out when its terms are off, the teacher sees what the student does not, and everything is in the checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from few_words import FEW_WORDS
from invariants import gradients, on_two_processes, stopped_and_resumed, updated
from safetensors.torch import load_file, save_file
from torch import Tensor

from diptych.api import load
from diptych.core.contracts import DenseEmbedder
from diptych.core.errors import ConfigError
from diptych.data.load.stream import batches
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.pairs.encoders.dense_encoder import DenseEncoder
from diptych.objectives.pairs.info_nce import info_nce
from diptych.recipes._shared.teachers import reset_
from diptych.recipes.contrastive.tips import TIPS, DenseBatch
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.scenes.world import scenes

OPTIONS = TrainOptions(save_every=2, log_every=1, progress=False, precision="fp32")


@cache
def rows() -> Any:
    return scenes(24, size=32, lengths=("short",), negatives=False).to_pool()


def small(**changes: Any) -> TIPS:
    settings = {
        "image_tower": "dense_micro",
        "text_tower": "text_micro",
        "width": 16,
        "image_size": 32,
        "text_length": 8,
        **FEW_WORDS,
    }
    settings |= {
        "batch_size": 8,
        "steps": 4,
        "warmup": 1.0,
        "locals": 2,
        "local_size": 16,
        "prototypes": 12,
        "head_hidden": 8,
        "head_width": 6,
    }
    return replace(TIPS.tiny(), **{**settings, **changes})


def batch_of(recipe: TIPS, step: int = 0) -> DenseBatch:
    found: DenseBatch = next(batches(rows(), recipe, seed=0, start=step, stop=step + 1)).batch
    return found


def doubled(batch: DenseBatch) -> DenseBatch:
    return replace(batch, image_BCHW=batch.image_BCHW.double(), local_BVCHW=batch.local_BVCHW.double())


def made_model(recipe: TIPS) -> Any:
    torch.manual_seed(1)
    model = recipe.model().double()
    with torch.no_grad():  # a teacher that is not the student
        for name, p in model.named_parameters():
            if name.startswith("companions."):
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name)), dtype=p.dtype))
    return model


def test_without_its_terms_and_with_one_token_it_is_clip(parity: Any) -> None:
    recipe = small(alpha=0.0, beta=0.0, two_tokens=False)
    batch, model = batch_of(recipe), recipe.model()
    features = recipe.features(model, batch)
    losses = recipe.losses(features, batch)
    group = {"group_N": batch.group_B, "group_M": batch.group_B}
    expected, _ = info_nce(features.image_ND, features.text_ND, scale=features.scale, same="mask", **group)
    assert set(losses) == {"raw"}
    parity("tips", "loss without its terms and with one token", "clip, bit for bit", [(losses["raw"], expected)], tolerance=0.0)
    assert batch.local_BVCHW.shape[1] == 0
    assert not batch.hidden_BP.any()
    assert not [
        name
        for name in model.state_dict()
        if name.startswith(("companions", "class_head", "patch_head", "encoder.second_projection"))
    ]


def test_two_tokens_are_two_halves_with_temperatures_of_their_own(parity: Any) -> None:
    recipe = small(alpha=0.0, beta=0.0)
    batch, model = batch_of(recipe), recipe.model()
    f = recipe.features(model, batch)
    losses = recipe.losses(f, batch)
    logits = f.second_scale * f.second_ND @ f.caption_ND.T
    same = batch.group_B[:, None] == batch.group_B
    logits = logits.masked_fill(same.fill_diagonal_(False), float("-inf"))
    truth = torch.arange(8)
    expected = (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 4
    assert losses["synthetic"].item() == pytest.approx(expected.item(), rel=1e-5)
    parity(
        "tips",
        "half of the loss between second token and synthetic caption",
        "torch's cross_entropy",
        [(losses["synthetic"], expected)],
        tolerance=1e-5,
    )
    (grad,) = torch.autograd.grad(losses["raw"], [model.encoder.log_second_scale], allow_unused=True)
    assert grad is None


def test_the_student_is_asked_at_hidden_places_only() -> None:
    recipe = small()
    batch, model = doubled(batch_of(recipe)), made_model(recipe)
    assert batch.hidden_BP.sum(1).tolist() == [12] * 8, "three quarters of sixteen patches"
    f = recipe.features(model, batch)
    assert f.patch_NMK.shape == f.teacher_patch_NMK.shape == (8, 12, 12)
    teacher = model.companions["teacher"]
    with torch.no_grad():
        whole = teacher["image_tower"](batch.image_BCHW)
        answer = teacher["patch_head"](whole.tokens_BPD)
        guessed = model.patch_head(model.encoder.image_tower(batch.image_BCHW, batch.hidden_BP).tokens_BPD)
    for row in range(8):
        places = batch.place_BM[row]
        assert batch.hidden_BP[row, places].all()
        torch.testing.assert_close(f.teacher_patch_NMK[row], answer[row, places])
        torch.testing.assert_close(f.patch_NMK[row].detach(), guessed[row, places])
    assert not f.teacher_patch_NMK.requires_grad
    losses = recipe.losses(f, batch)
    assert set(losses) == {"raw", "synthetic", "distilled", "masked"}
    half = replace(recipe, beta=1.0).losses(f, batch)
    assert losses["masked"].item() == pytest.approx(2 * half["masked"].item())


def test_what_is_visible_of_the_student_does_not_count(parity: Any) -> None:
    """The loss of hidden patches does not change when the student says something else at visible places: it is never asked there."""
    recipe = small(alpha=0.0)
    batch, model = doubled(batch_of(recipe)), made_model(recipe)
    tokens: list[Tensor] = []
    handle = model.encoder.image_tower.register_forward_hook(lambda m, i, out: tokens.append(out.tokens_BPD))
    f = recipe.features(model, batch)
    handle.remove()
    (grad,) = torch.autograd.grad(recipe.losses(f, batch)["masked"], [tokens[-1]])
    moved = grad.abs().sum(-1) > 0
    assert torch.equal(moved, batch.hidden_BP)
    visible = grad[~batch.hidden_BP]
    parity(
        "tips", "gradient of the masked loss at visible patches", "zero", [(visible, torch.zeros_like(visible))], tolerance=0.0
    )


def test_the_teacher_and_its_centres_move_after_the_update() -> None:
    recipe = small()
    batch, model = doubled(batch_of(recipe)), made_model(recipe)
    before = {name.removeprefix("encoder."): p.detach().clone() for name, p in model.named_parameters()}
    f = recipe.features(model, batch)
    assert not model.class_centre_K.any()
    recipe.after_update(model, f, batch, 0.0)
    for name, p in model.companions["teacher"].named_parameters():
        expected = 0.99 * before[f"companions.teacher.{name}"] + 0.01 * before[name]
        torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=1e-15)
    assert "patch_head.prototype_KD" in dict(model.companions["teacher"].named_parameters()), "heads are included"
    torch.testing.assert_close(model.patch_centre_K, 0.1 * f.teacher_patch_NMK.flatten(0, 1).mean(0))
    torch.testing.assert_close(model.class_centre_K, 0.1 * f.teacher_N1K.flatten(0, 1).mean(0))
    frozen = {name: p.detach().clone() for name, p in model.companions["teacher"].named_parameters()}
    recipe.after_update(model, f, batch, 1.0)
    assert all(torch.equal(p, frozen[name]) for name, p in model.companions["teacher"].named_parameters()), "momentum ends at 1"


def test_with_a_spread_each_image_hides_its_own_number_and_weighs_the_same() -> None:
    recipe = small(hidden=0.5, hidden_spread=0.3)
    batch, model = doubled(batch_of(recipe)), made_model(recipe)
    counts = batch.hidden_BP.sum(1)
    assert len(counts.unique()) > 2
    assert 3 <= counts.min() <= counts.max() <= batch.place_BM.shape[1] == 13
    f = recipe.features(model, batch)
    each = []
    for row, count in enumerate(counts.tolist()):
        assert sorted(batch.place_BM[row, :count].tolist()) == batch.hidden_BP[row].nonzero().flatten().tolist()
        target = ((f.teacher_patch_NMK[row, :count] - f.patch_centre_K) / recipe.teacher_tau).softmax(-1)
        each.append(F.cross_entropy(f.patch_NMK[row, :count] / recipe.student_tau, target))
    expected = recipe.beta * torch.stack(each).mean()
    torch.testing.assert_close(recipe.losses(f, batch)["masked"], expected)
    recipe.after_update(model, f, batch, 0.0)
    torch.testing.assert_close(model.patch_centre_K, 0.1 * f.teacher_patch_NMK[batch.place_BM >= 0].mean(0))


@pytest.mark.parametrize("spread", [0.0, 0.2])
def test_visible_patches_count_too_where_all_are_asked_for(spread: float) -> None:
    """TIPSv2: the student still sees a part, and its answers at all sixteen places are compared with the teacher's."""
    recipe = small(patches="all", hidden=0.5, hidden_spread=spread, alpha=0.0)
    batch, model = doubled(batch_of(recipe)), made_model(recipe)
    assert 0 < batch.hidden_BP.sum() < batch.hidden_BP.numel()
    assert torch.equal(batch.hidden_BP, batch_of(replace(recipe, patches="hidden")).hidden_BP)
    f = recipe.features(model, batch)
    teacher = model.companions["teacher"]
    with torch.no_grad():
        target_BPK = teacher["patch_head"](teacher["image_tower"](batch.image_BCHW).tokens_BPD) / recipe.teacher_tau
    answer_BPK = model.patch_head(model.encoder.image_tower(batch.image_BCHW, batch.hidden_BP).tokens_BPD)
    places = [
        F.cross_entropy(answer_BPK[row, place] / recipe.student_tau, target_BPK[row, place].softmax(-1))
        for row in range(8)
        for place in range(16)
    ]
    torch.testing.assert_close(recipe.losses(f, batch)["masked"], recipe.beta * torch.stack(places).mean())
    recipe.after_update(model, f, batch, 0.0)
    torch.testing.assert_close(model.patch_centre_K, 0.1 * (target_BPK * recipe.teacher_tau).flatten(0, 1).mean(0))


def test_koleo_is_added_with_its_weight_and_reaches_the_image_tower() -> None:
    recipe = small(koleo=0.1, alpha=0.0, beta=0.0)
    batch, model = doubled(batch_of(recipe)), made_model(recipe)
    f = recipe.features(model, batch)
    losses = recipe.losses(f, batch)
    assert "koleo" not in small(alpha=0.0, beta=0.0).losses(f, batch)
    row = F.normalize(model.encoder.image_tower(batch.image_BCHW).pooled_BD, dim=-1)
    distance = torch.cdist(row, row).fill_diagonal_(math.inf).amin(1)
    torch.testing.assert_close(losses["koleo"], -0.1 * distance.log().mean(), rtol=1e-5, atol=1e-6)
    (grad,) = torch.autograd.grad(losses["koleo"], [model.encoder.image_tower.class_D])
    assert grad.abs().max() > 0


@pytest.mark.parametrize("changes", [{}, {"koleo": 0.1, "hidden": 0.5, "hidden_spread": 0.3}])
def test_cached_gradients_are_exact(changes: dict[str, Any]) -> None:
    recipe = small(**changes)
    batch, model = doubled(batch_of(recipe)), made_model(recipe)
    whole, cut = (gradients(recipe, model, batch, micro_batch=size) for size in (0, 3))
    torch.testing.assert_close(cut, whole, rtol=1e-8, atol=1e-11)


def stepped(rank: int, world: int) -> dict[str, Tensor]:
    """Gradients, model, teacher and the centres of its answers after one update."""
    recipe = small(koleo=0.1, hidden=0.5, hidden_spread=0.3)
    return updated(recipe, made_model(recipe), [doubled(batch_of(recipe))], rank, world)


def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    alone = stepped(0, 1)
    torch.testing.assert_close(on_two_processes(stepped, tmp_path), [alone, alone], rtol=1e-8, atol=1e-11)


def test_a_stop_changes_nothing_and_both_tokens_are_deployed(tmp_path: Path) -> None:
    recipe = small(tokenizer="data").prepare(rows())
    whole = fit(recipe, rows(), tmp_path / "whole", OPTIONS)
    run = stopped_and_resumed(recipe, rows(), tmp_path, OPTIONS, step=2)
    last = "checkpoints/step-00000004/model.safetensors"
    assert (run.path / last).read_bytes() == (whole.path / last).read_bytes()

    model = load(run.path)
    assert isinstance(model, PairEmbedder)
    assert isinstance(model, DenseEmbedder)
    images = [rows()[0].image, rows()[1].image]
    assert model.embed_dense(images).shape == (2, 4, 4, 64)
    first, second = model.reading("first"), model.reading("second")
    np.testing.assert_array_equal(model.embed_images(images), first.embed_images(images))
    assert np.abs(first.embed_images(images) - second.embed_images(images)).max() > 0.01
    assert first.fingerprint != second.fingerprint
    second.save(tmp_path / "second")
    np.testing.assert_array_equal(load(tmp_path / "second").embed_images(images), second.embed_images(images))
    pixels = model.preprocess([np.full((32, 32, 3), 255, np.uint8)])
    assert pixels.max() == 1, "numbers from 0 to 1, kept with the weights"


def test_the_teacher_starts_from_the_weights_that_the_run_starts_from(tmp_path: Path) -> None:
    recipe = small(tokenizer="data", steps=1, momentum=1.0).prepare(rows())
    torch.manual_seed(7)
    given = recipe.model().state_dict()
    given = {name: tensor for name, tensor in given.items() if not name.startswith("companions.")}
    save_file(given, tmp_path / "given.safetensors")
    run = fit(recipe, rows(), tmp_path / "run", replace(OPTIONS, init=str(tmp_path / "given.safetensors")))
    found = load_file(run.path / "checkpoints/step-00000001/model.safetensors")
    teacher = {name.removeprefix("companions.teacher."): p for name, p in found.items() if name.startswith("companions.teacher.")}
    assert teacher
    for name, p in teacher.items():  # momentum 1: it has not moved since
        assert torch.equal(p, given[f"encoder.{name}" if name.startswith("image_tower") else name]), name


def test_another_encoder_can_be_the_teacher() -> None:
    recipe = small()
    student, other = recipe.model(), recipe.model()
    sizes = {"width": 16, "two_tokens": True, "distilled": True, "masked": True, "prototypes": 12, "hidden": 8, "bottleneck": 6}
    model = DenseEncoder(student.encoder.image_tower, student.encoder.text_tower, **sizes, teacher=other)
    for name, p in other.image_side().state_dict().items():
        assert torch.equal(model.companions["teacher"].state_dict()[name], p)
    reset_(model)
    for name, p in model.image_side().state_dict().items():
        assert torch.equal(model.companions["teacher"].state_dict()[name], p)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"patches is 'some' \(expected hidden \| all\)"):
        small(patches="some")
    with pytest.raises(ConfigError, match="needs two_tokens"):
        small(token="second", two_tokens=False)
    with pytest.raises(ConfigError, match=r"hidden is 0.75 \+- 0.3"):
        small(hidden_spread=0.3)
    with pytest.raises(ConfigError, match="no second class token"):
        small(image_tower="vit_tiny").model()
    with pytest.raises(ConfigError, match="local_size 20"):
        small(local_size=20).model()


def test_the_paper_builds_with_its_parameter_count() -> None:
    paper = TIPS.paper()
    with torch.device("meta"):
        model = paper.model()
    block = 7_087_872
    image = 12 * (block + 2 * 768) + (3 * 14 * 14 * 768 + 768) + (256 + 1) * 768 + 3 * 768 + 2 * 768
    assert sum(p.numel() for p in model.encoder.image_tower.parameters()) == image
    head = (768 * 2048 + 2048) + (2048 * 2048 + 2048) + (2048 * 256 + 256) + 32_768 * 256
    text = 49_408 * 768 + 12 * block + 2 * 768  # places are waves: no parameters
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == image + text + 2 * head + 2
    assert sum(p.numel() for p in model.companions.parameters()) == image + 2 * head
    assert (paper.alpha, paper.beta, paper.hidden, paper.prototypes) == (1, 2, 0.75, 32_768)
