"""DCD: whom the lists hold, what the teacher says of them, and runs that a stop, a second process or a foreign teacher do not change."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from few_words import FEW_WORDS, WORDS
from invariants import on_two_processes, stopped_and_resumed, updated
from safetensors.torch import load_file
from torch import Tensor

from diptych.api import load
from diptych.core.errors import ConfigError
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.models.pairs.encoders.distilled_encoder import DistilledEncoder
from diptych.models.pairs.matching.matcher import match_matrix
from diptych.recipes.contrastive.dcd import DCD, DistilledBatch, start_from
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.small_pairs import small_pairs

OPTIONS = TrainOptions(seed=1, progress=False, save_every=2, log_every=1)
N = 8


def small(**changes: Any) -> DCD:
    settings = {
        "image_tower": "vit_micro",
        "text_tower": "text_micro",
        "image_size": 48,
        "text_length": 16,
        "width": 16,
        "pieces": 300,
    }
    settings |= {"batch_size": N, "fusion_layers": 1, "fusion_heads": 4, "candidates": 3, "warmup": 1.0, **changes}
    return replace(DCD.tiny(), **settings)


def rows(count: int = 24) -> Pool:
    return small_pairs(count).to_pool()


def made(recipe: DCD, data: Pool) -> tuple[DistilledEncoder, DistilledBatch]:
    torch.manual_seed(3)
    model = recipe.model()
    (step,) = batches(data, recipe, seed=1, stop=1)
    return model, step.batch


def sides(model: DistilledEncoder, batch: DistilledBatch) -> tuple[Any, Any, Tensor]:
    with torch.no_grad():
        image = model.teacher.read_images(batch.teacher_image_BCHW)
        text = model.teacher.read_texts(batch.teacher_text_BL, batch.teacher_mask_BL)
        return image, text, match_matrix(model.teacher, image, text)


@pytest.mark.parametrize("negatives", ["teacher", "student", "both"])
@pytest.mark.parametrize("exact", [False, True])
def test_lists_hold_the_hardest_of_other_groups(negatives: Any, exact: bool) -> None:
    recipe = small(negatives=negatives, exact=exact).prepare(rows())
    model, batch = made(recipe, rows())
    batch = replace(batch, group_B=torch.tensor([0, 1, 2, 3, 4, 5, 6, 0]))
    features = recipe.features(model, batch)
    image, text, match_NN = sides(model, batch)
    vector_NN = image.vector_ND @ text.vector_ND.T
    student_NN = (features.image_ND @ features.text_ND.T).detach()
    teacher_NN = match_NN if exact else vector_NN
    for places, transpose in ((features.text_place_NK, False), (features.image_place_NK, True)):
        for i in range(N):
            may = [j for j in range(N) if j != i and batch.group_B[j] != batch.group_B[i]]
            by = {name: (x.T if transpose else x)[i] for name, x in (("teacher", teacher_NN), ("student", student_NN))}
            if negatives == "both":
                first = sorted(may, key=lambda j: -float(by["teacher"][j]))[:2]
                expected = first + sorted(set(may) - set(first), key=lambda j: -float(by["student"][j]))[:1]
            else:
                expected = sorted(may, key=lambda j: -float(by[negatives][j]))[:3]
            assert places[i].tolist() == [i, *expected]


def test_scores_of_the_lists_are_the_teachers(parity: Any) -> None:
    recipe = small().prepare(rows())
    model, batch = made(recipe, rows())
    features = recipe.features(model, batch)
    image, text, match_NN = sides(model, batch)
    own_NK = torch.arange(N)[:, None].expand_as(features.text_place_NK)
    pairs = [
        (features.by_image_NK, match_NN[own_NK, features.text_place_NK]),
        (features.by_text_NK, match_NN[features.image_place_NK, own_NK]),
    ]
    parity("dcd", "the teacher's scores of both lists", "reading every pair of the batch", pairs, tolerance=1e-5)
    model.scores, model.teacher_scale = "contrast", 5.0
    contrast = recipe.features(model, batch)
    cosine_NN = 5 * image.vector_ND @ text.vector_ND.T
    torch.testing.assert_close(contrast.by_image_NK, cosine_NN[own_NK, contrast.text_place_NK])
    torch.testing.assert_close(contrast.by_text_NK, cosine_NN[contrast.image_place_NK, own_NK])
    assert not contrast.by_image_NK.requires_grad


def test_with_the_whole_batch_in_every_list_it_is_distillation_in_the_batch(parity: Any) -> None:
    """k = B - 1, equal weights: the mean of both directions' half contrast and half distillation."""
    recipe = small(candidates=N - 1, weighting="constant", drop_margin=None, tau=1.5, same_group="negative").prepare(rows())
    model, batch = made(recipe, rows())
    features = recipe.features(model, batch)
    _, _, match_NN = sides(model, batch)
    student_NN = features.scale * features.image_ND @ features.text_ND.T
    expected = []
    for z_NN, y_NN in ((student_NN, match_NN), (student_NN.T, match_NN.T)):
        alone = -z_NN.log_softmax(1).diagonal().mean()
        soft = (y_NN / 1.5).log_softmax(1)
        follow = 1.5**2 * (soft.exp() * (soft - (z_NN / 1.5).log_softmax(1))).sum(1).mean()
        expected.append((alone + follow) / 2)
    loss = recipe.losses(features, batch)["distilled"]
    parity("dcd", "lists of whole batches", "distillation in the batch, by hand", [(loss, sum(expected) / 2)], tolerance=1e-6)


def test_groups_larger_than_the_batch_leave_short_lists() -> None:
    recipe = small().prepare(rows())
    model, batch = made(recipe, rows())
    batch = replace(batch, group_B=torch.tensor([0] * (N - 1) + [1]))
    features = recipe.features(model, batch)
    assert features.kept_image_NK[0].tolist() == [True, True, False, False]
    loss = recipe.losses(features, batch)["distilled"]
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.encoder.parameters())


def test_the_teacher_is_frozen_and_the_guess_is_of_its_vectors() -> None:
    recipe = small(feature_weight=0.5).prepare(rows())
    model, batch = made(recipe, rows())
    features = recipe.features(model, batch)
    losses = recipe.losses(features, batch)
    image, text, _ = sides(model, batch)
    with torch.no_grad():
        fused_ND = model.teacher.match(image, text)[1]
    torch.testing.assert_close(features.fused_ND, fused_ND, atol=1e-6, rtol=0)
    assert losses["features"].item() == pytest.approx(0.5 * (features.guessed_ND - fused_ND).pow(2).mean().item(), abs=1e-6)
    torch.stack(list(losses.values())).sum().backward()
    for name, p in model.named_parameters():
        assert (p.grad is None) == name.startswith("companions."), name
    model.train()
    assert not model.companions["teacher"].training


def test_the_student_starts_from_every_nth_layer() -> None:
    recipe = small(layers=1, teacher_layers=3, from_teacher=True).prepare(rows())
    torch.manual_seed(0)
    student, teacher = recipe.model(), recipe.fused().model()
    recipe.carry(teacher, student)
    few, many = student.encoder, teacher.matcher.encoder
    for side in ("image_tower", "text_tower"):
        ours, theirs = (getattr(m, side).transformer.blocks for m in (few, many))
        assert (len(ours), len(theirs)) == (1, 3)
        assert torch.equal(ours[0].attention.qkv.weight, theirs[2].attention.qkv.weight)
    assert torch.equal(few.image_projection.weight, many.image_projection.weight)
    other = small(width=8, layers=1).prepare(rows()).model()
    with pytest.raises(ConfigError, match="expected all: equal widths"):
        start_from(other.encoder, many)


def made_batch() -> DistilledBatch:
    chance = torch.Generator().manual_seed(3)
    text_BL = torch.randint(3, WORDS, (N, 16), generator=chance)
    real_BL = torch.arange(16) < torch.tensor([16, 3, 5, 9, 2, 7, 12, 4])[:, None]
    image_BCHW = torch.randn(N, 3, 48, 48, generator=chance, dtype=torch.float64)
    group_B = torch.tensor([0, 1, 2, 3, 4, 5, 6, 0])
    return DistilledBatch(
        image_BCHW, text_BL, real_BL, group_B, teacher_image_BCHW=image_BCHW, teacher_text_BL=text_BL, teacher_mask_BL=real_BL
    )


def stepped(rank: int, world: int) -> dict[str, Tensor]:
    found = {}
    for name in ("teacher", "both"):
        recipe = small(**FEW_WORDS, negatives=name, exact=name == "both", feature_weight=0.3)
        torch.manual_seed(1)
        found |= {f"{name} {key}": x for key, x in updated(recipe, recipe.model().double(), [made_batch()], rank, world).items()}
    return found


def test_two_processes_choose_from_the_whole_batch(tmp_path: Path) -> None:
    alone = stepped(0, 1)
    for found in on_two_processes(stepped, tmp_path):
        for name, tensor in alone.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("step", [1, 4])
def test_a_stop_in_either_phase_changes_nothing(step: int, tmp_path: Path) -> None:
    recipe = small(steps=6, negatives="random")
    whole = fit(recipe, rows(), tmp_path / "whole", OPTIONS)
    again = stopped_and_resumed(recipe, rows(), tmp_path, OPTIONS, step=step)
    assert (whole.model / "model.safetensors").read_bytes() == (again.model / "model.safetensors").read_bytes()
    stages = {line["stage"] for line in whole.metrics() if line.get("kind") == "train" and "stage" in line}
    assert len(stages) in (0, 2)


def both_ways(rank: int, world: int) -> dict[str, Tensor]:
    """On two processes: whole, and stopped in the middle of either phase."""
    os.environ["WORLD_SIZE"], os.environ["RANK"], os.environ["LOCAL_RANK"] = str(world), str(rank), str(rank)
    folder, options = Path(os.environ["DCD_FOLDER"]), replace(OPTIONS, shard="ddp")
    recipe = small(steps=6, negatives="random")
    one = fit(recipe, rows(), folder / "one" / "run", options).model / "model.safetensors"
    for step in (1, 4):
        (folder / str(step)).mkdir(exist_ok=True)
        other = stopped_and_resumed(recipe, rows(), folder / str(step), options, step=step).model / "model.safetensors"
        assert one.read_bytes() == other.read_bytes()
    return load_file(one)


@pytest.mark.slow
def test_a_stop_on_two_processes_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCD_FOLDER", str(tmp_path))
    one, other = on_two_processes(both_ways, tmp_path)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_teacher_by_address_is_read_again_and_not_stored(tmp_path: Path) -> None:
    data = rows()
    teacher = small().prepare(data).fused()
    torch.manual_seed(5)
    teacher.deploy(teacher.model().eval()).save(tmp_path / "fused")
    recipe = small(steps=4, teacher=str(tmp_path / "fused"), width=12, image_size=32, tokenizer="clip")
    assert not recipe.stages()
    model, batch = made(recipe.prepare(data), data)
    assert batch.teacher_image_BCHW.shape[-1] == 48
    assert batch.image_BCHW.shape[-1] == 32
    weights = load_file(tmp_path / "fused" / "model.safetensors")
    assert all(torch.equal(model.companions["teacher"].state_dict()[name], tensor) for name, tensor in weights.items())
    whole = fit(recipe, data, tmp_path / "whole", OPTIONS)
    again = stopped_and_resumed(recipe, data, tmp_path, OPTIONS, step=2)
    assert (whole.model / "model.safetensors").read_bytes() == (again.model / "model.safetensors").read_bytes()
    stored = [name for path in whole.path.rglob("checkpoints/**/*.safetensors") for name in load_file(path)]
    assert stored
    assert not any("companions" in name for name in stored)
    assert load(whole.path).model.width == 12


def test_the_paper_builds() -> None:
    with torch.device("meta"):
        model = DCD.paper().model()
    student, teacher = model.encoder, model.companions["teacher"]
    assert len(student.image_tower.transformer.blocks) == len(student.text_tower.transformer.blocks) == 4
    count = [sum(p.numel() for p in module.parameters()) for module in (student, teacher)]
    block = [12 * width * width + 13 * width for width in (768, 512)]
    clip_b16 = 149_620_737
    assert count[0] == clip_b16 - 8 * sum(block)
    cross = (
        4 * 512 * 512
        + 4 * 512
        + 2 * 512
        + (512 * 512 + 2 * 768 * 512 + 3 * 512 + 512 * 512 + 512)
        + 4 * 512
        + 8 * 512 * 512
        + 5 * 512
    )
    assert count[1] == clip_b16 + 6 * cross + 2 * 512 + 2 * 512 + 2


def test_refused() -> None:
    with pytest.raises(ConfigError, match="teacher_share is 1"):
        DCD(teacher_share=1)
    with pytest.raises(ConfigError, match="candidates must be 1 or more"):
        DCD(candidates=0)
    with pytest.raises(ConfigError, match="negatives is 'hard'"):
        small(negatives="hard", tokenizer="clip").model()
