"""M3I: mixtures that show each image's own half, terms that count what they have, and special cases by its fields."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from few_words import FEW_WORDS
from invariants import gradients, on_two_processes, stopped_and_resumed, updated
from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.objectives.pairs.info_nce import info_nce
from diptych.recipes.contrastive.m3i import M3I, MixedBatch
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.scenes.world import scenes

OPTIONS = TrainOptions(save_every=2, log_every=1, progress=False, precision="fp32")


@cache
def rows() -> Any:
    return scenes(24, size=32, lengths=("short",), paraphrases=0, negatives=False).to_pool()


def small(**changes: Any) -> M3I:
    settings = {
        "image_tower": "dense_micro",
        "text_tower": "text_micro",
        "width": 16,
        "image_size": 32,
        "text_length": 8,
        **FEW_WORDS,
    }
    recipe = replace(M3I.tiny(), **{**settings, "batch_size": 8, "steps": 4, "warmup": 1.0, "crop": (1.0, 1.0), **changes})
    return recipe.prepare(rows())


def batch_of(recipe: M3I, data: Any = None) -> MixedBatch:
    found: MixedBatch = next(batches(data or rows(), recipe, seed=0, stop=1)).batch
    return found


def doubled(batch: MixedBatch) -> MixedBatch:
    return replace(batch, image_BCHW=batch.image_BCHW.double(), mixed_BCHW=batch.mixed_BCHW.double())


def made_model(recipe: M3I) -> Any:
    torch.manual_seed(1)
    model = recipe.model().double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.startswith("companions."):
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name)), dtype=p.dtype))
    return model


def test_two_images_in_one_keep_half_of_their_patches_each() -> None:
    batch = batch_of(small())
    assert batch.own_BP.sum(1).tolist() == [8] * 8
    for row in range(8):
        other = row ^ 1
        assert torch.equal(batch.own_BP[row], ~batch.own_BP[other]), "the other shows what this one hides"
        assert (~batch.own_BP[row]).nonzero()[:, 0].tolist() == batch.place_BM[row].tolist()
        for place in range(16):
            y, x = 8 * (place // 4), 8 * (place % 4)
            source = row if batch.own_BP[row, place] else other
            part = (slice(None), slice(y, y + 8), slice(x, x + 8))
            assert torch.equal(batch.mixed_BCHW[row][part], batch.image_BCHW[source][part])


def test_with_texts_alone_and_no_mixing_it_is_clip(parity: Any) -> None:
    recipe = small(weight_class=0.0, weight_view=0.0, weight_patch=0.0, mixed=False)
    batch, model = batch_of(recipe), recipe.model()
    f = recipe.features(model, batch)
    losses = recipe.losses(f, batch)
    group = {"group_N": batch.group_B, "group_M": batch.group_B}
    expected, _ = info_nce(f.image_ND, f.text_ND, scale=f.scale, **group)
    assert set(losses) == {"text"}
    parity("m3i", "recipe with texts alone and unmixed images", "clip", [(losses["text"], expected)], tolerance=1e-6)
    assert torch.equal(batch.mixed_BCHW, batch.image_BCHW)
    torch.testing.assert_close(
        f.image_ND, model.encoder.encode_image(batch.image_BCHW), msg="an unmixed image is its deployed vector"
    )
    assert not [name for name in model.state_dict() if name.startswith(("companions", "view_", "patch_", "class_KD"))]


def test_with_labels_alone_it_is_a_classifier(parity: Any) -> None:
    recipe = small(weight_text=0.0, weight_view=0.0, weight_patch=0.0, mixed=False, worded=0.0)
    batch, model = batch_of(recipe), recipe.model()
    f = recipe.features(model, batch)
    expected = F.cross_entropy(f.scale * f.image_ND @ F.normalize(model.class_KD, dim=-1).T, batch.label_B)
    parity(
        "m3i",
        "recipe with labels alone",
        "torch's cross_entropy over class embeddings",
        [(recipe.losses(f, batch)["class"], expected)],
        tolerance=1e-6,
    )
    assert not batch.worded_B.any()


def test_classes_may_have_a_scale_of_their_own() -> None:
    recipe = small(weight_view=0.0, weight_patch=0.0, mixed=False, class_scale="own")
    batch, model = batch_of(recipe), recipe.model()
    with torch.no_grad():
        model.log_class_scale.fill_(1.5)
    f = recipe.features(model, batch)
    losses = recipe.losses(f, batch)
    cosine_NK = f.image_ND @ F.normalize(model.class_KD, dim=-1).T
    expected = F.cross_entropy(torch.exp(torch.tensor(1.5)) * cosine_NK, batch.label_B)
    assert losses["class"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert f.scale.item() == pytest.approx(1 / 0.07, rel=1e-6), "the texts keep theirs"
    losses["class"].backward()
    assert model.encoder.log_scale.grad is None
    assert model.log_class_scale.grad.abs() > 0
    with torch.no_grad():
        model.log_class_scale.fill_(9.0)
    recipe.after_update(model, f, batch, 0.5)
    assert model.log_class_scale.exp().item() == pytest.approx(100.0)
    assert "log_class_scale" not in small().model().state_dict()


def test_both_images_of_a_mixture_are_asked_for() -> None:
    recipe = small()
    batch, model = doubled(batch_of(recipe)), made_model(recipe)
    batch = replace(batch, group_B=torch.tensor([0, 1, 2, 3, 4, 5, 6, 0]))  # 0 and 7 are of one group, as images 1 and 6 are not
    f = recipe.features(model, batch)
    losses = recipe.losses(f, batch)
    assert set(losses) == {"text", "class", "view", "patch"}
    other = torch.arange(8) ^ 1
    both = [(f.image_ND, f.text_ND, batch.group_B), (f.other_ND, f.text_ND[other], batch.group_B[other])]
    texts = [info_nce(x, t, scale=f.scale, group_N=g, group_M=g)[0] for x, t, g in both]
    assert losses["text"].item() == pytest.approx((sum(texts) / 2).item(), abs=1e-10)
    logits = [f.scale * x @ f.class_KD.T for x in (f.image_ND, f.other_ND)]
    expected = (F.cross_entropy(logits[0], batch.label_B) + F.cross_entropy(logits[1], batch.label_B[other])) / 2
    assert losses["class"].item() == pytest.approx(expected.item(), abs=1e-10)
    assert losses["patch"].item() == pytest.approx(F.mse_loss(f.patch_NMD, f.target_patch_NMD).item(), abs=1e-10)
    same = (batch.group_B[:, None] == batch.group_B).fill_diagonal_(False)
    views = [F.cross_entropy((5 * v @ t.T).masked_fill(m, -torch.inf), torch.arange(8)) for v, t, m in (
        (f.view_ND, f.target_ND, same), (f.other_view_ND, f.target_ND[other], same[other][:, other])
    )]  # fmt: skip
    assert losses["view"].item() == pytest.approx((sum(views) / 2).item(), abs=1e-10)


def test_an_images_vector_is_read_from_its_own_patches() -> None:
    """With attention between patches switched off, what the other image shows does not matter."""
    recipe = small()
    batch, model = doubled(batch_of(recipe)), made_model(recipe)
    for block in model.encoder.image_tower.blocks:
        block.scale_1_D.data.zero_()
    first = recipe.features(model, batch)
    changed = torch.where(batch.own_BP.reshape(8, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3), batch.mixed_BCHW, 0)
    second = recipe.features(model, replace(batch, mixed_BCHW=changed))
    torch.testing.assert_close(first.image_ND, second.image_ND)
    assert not torch.allclose(first.other_ND, second.other_ND, atol=1e-3)


def test_the_teacher_sees_the_whole_image_and_moves_after_the_update() -> None:
    recipe = small()
    batch, model = doubled(batch_of(recipe)), made_model(recipe)
    f = recipe.features(model, batch)
    other = recipe.features(model, replace(batch, mixed_BCHW=torch.zeros_like(batch.mixed_BCHW)))
    assert torch.equal(f.target_ND, other.target_ND)
    assert torch.equal(f.target_patch_NMD, other.target_patch_NMD)
    assert not f.target_ND.requires_grad
    assert not f.target_patch_NMD.requires_grad
    before = {name.removeprefix("encoder."): p.detach().clone() for name, p in model.named_parameters()}
    recipe.after_update(model, f, batch, 0.0)
    for name, p in model.companions["teacher"].named_parameters():
        expected = 0.99 * before[f"companions.teacher.{name}"] + 0.01 * before[name]
        torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=1e-15)


def elsewhere(**changes: Any) -> M3I:
    return small(teacher_view="other", crop=(0.3, 0.9), flip=True, **changes)


def with_other_view(batch: MixedBatch) -> MixedBatch:
    return replace(doubled(batch), teacher_BCHW=batch.teacher_BCHW.double())


def test_the_other_view_changes_nothing_that_the_student_sees() -> None:
    same, other = batch_of(small(crop=(0.3, 0.9), flip=True)), batch_of(elsewhere())
    assert same.teacher_BCHW is None
    assert same.box_BP4 is None
    for name in ("image_BCHW", "mixed_BCHW", "own_BP", "place_BM", "text_BL"):
        assert torch.equal(getattr(same, name), getattr(other, name)), name
    assert (other.teacher_BCHW != other.image_BCHW).flatten(1).any(1).all()
    assert other.box_BP4.shape == (8, 16, 4)


def test_the_teacher_sees_another_view_and_all_of_its_patches_are_guessed() -> None:
    recipe = elsewhere()
    batch, model = with_other_view(batch_of(recipe)), made_model(recipe)
    f = recipe.features(model, batch)
    tower, head = model.companions["teacher"]["image_tower"], model.companions["teacher"]["view_projection"]
    with torch.no_grad():
        seen = tower(batch.teacher_BCHW)
        torch.testing.assert_close(f.target_ND, F.normalize(head(seen.pooled_BD), dim=-1))
        torch.testing.assert_close(f.target_patch_NMD, F.layer_norm(seen.tokens_BPD, seen.tokens_BPD.shape[-1:]))
    assert f.patch_NMD.shape == f.target_patch_NMD.shape
    assert f.patch_NMD.shape[1] == 16
    assert recipe.losses(f, batch)["patch"].item() == pytest.approx(F.mse_loss(f.patch_NMD, f.target_patch_NMD).item(), abs=1e-10)
    unseen = recipe.features(model, replace(batch, image_BCHW=torch.zeros_like(batch.image_BCHW)))
    assert torch.equal(f.target_ND, unseen.target_ND), "the teacher does not see the student's crop"


def test_a_guess_depends_on_its_place_and_on_the_images_own_patches_alone() -> None:
    recipe = elsewhere()
    batch, model = with_other_view(batch_of(recipe)), made_model(recipe)
    for block in model.encoder.image_tower.blocks:
        block.scale_1_D.data.zero_()
    first = recipe.features(model, batch).patch_NMD
    own_B1HW = batch.own_BP.reshape(8, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    hidden = recipe.features(model, replace(batch, mixed_BCHW=torch.where(own_B1HW, batch.mixed_BCHW, 0))).patch_NMD
    torch.testing.assert_close(first, hidden)
    shown = recipe.features(model, replace(batch, mixed_BCHW=torch.where(own_B1HW, 0, batch.mixed_BCHW))).patch_NMD
    assert not torch.allclose(first, shown, atol=1e-4)
    box_BP4 = batch.box_BP4.clone()
    box_BP4[:, 5] += 0.2
    moved = recipe.features(model, replace(batch, box_BP4=box_BP4)).patch_NMD
    changed = (moved - first).abs().amax(-1)
    assert (changed[:, 5] > 1e-4).all()
    with pytest.raises(ConfigError, match="needs box_BP4"):
        recipe.features(model, replace(batch, box_BP4=None))


def test_samples_have_a_label_or_a_text_or_neither_always_the_same_ones() -> None:
    data = rows()
    without = Pool.from_samples([replace(data[row], texts=() if row < 6 else data[row].texts) for row in range(24)], name="some")
    recipe = small(labelled=0.3, worded=0.6, batch_size=24)
    batch, again = batch_of(recipe, without), batch_of(recipe, without)
    assert torch.equal(batch.label_B, again.label_B)
    assert 0 < int((batch.label_B >= 0).sum()) < 24
    assert 0 < int(batch.worded_B.sum()) < 24
    model = recipe.model()
    f = recipe.features(model, batch)
    known = batch.label_B >= 0
    other = torch.arange(24) ^ 1
    logits = [f.scale * x @ f.class_KD.T for x in (f.image_ND, f.other_ND)]
    expected = F.cross_entropy(logits[0][known], batch.label_B[known])
    expected = (expected + F.cross_entropy(logits[1][known[other]], batch.label_B[other][known[other]])) / 2
    assert recipe.losses(f, batch)["class"].item() == pytest.approx(expected.item(), rel=1e-5)
    nobody = replace(batch, worded_B=torch.zeros(24, dtype=torch.bool), label_B=torch.full((24,), -1))
    assert recipe.losses(f, nobody)["text"].item() == 0
    assert recipe.losses(f, nobody)["class"].item() == 0


def test_cached_gradients_are_exact() -> None:
    recipe = small()
    batch, model = doubled(batch_of(recipe)), made_model(recipe)
    whole, cut = (gradients(recipe, model, batch, micro_batch=size) for size in (0, 3))
    torch.testing.assert_close(cut, whole, rtol=1e-8, atol=1e-11)


def test_cached_gradients_are_exact_with_another_view() -> None:
    recipe = elsewhere()
    batch, model = with_other_view(batch_of(recipe)), made_model(recipe)
    whole, cut = (gradients(recipe, model, batch, micro_batch=size) for size in (0, 3))
    torch.testing.assert_close(cut, whole, rtol=1e-8, atol=1e-11)
    assert all(whole[name].abs().max() > 0 for name in ("place_projection.weight", "hidden_D"))


def stepped(rank: int, world: int) -> dict[str, Tensor]:
    """Gradients, model and teacher after one update; a share is of whole pairs of mixed images."""
    recipe = small()
    return updated(recipe, made_model(recipe), [doubled(batch_of(recipe))], rank, world)


def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    alone = stepped(0, 1)
    torch.testing.assert_close(on_two_processes(stepped, tmp_path), [alone, alone], rtol=1e-8, atol=1e-11)


def test_a_stop_changes_nothing(tmp_path: Path) -> None:
    recipe = small(tokenizer="data")
    whole = fit(recipe, rows(), tmp_path / "whole", OPTIONS)
    run = stopped_and_resumed(recipe, rows(), tmp_path, OPTIONS, step=2)
    last = "checkpoints/step-00000004/model.safetensors"
    assert (run.path / last).read_bytes() == (whole.path / last).read_bytes()


def test_a_stop_changes_nothing_with_another_view(tmp_path: Path) -> None:
    recipe = elsewhere(tokenizer="data")
    whole = fit(recipe, rows(), tmp_path / "whole", OPTIONS)
    run = stopped_and_resumed(recipe, rows(), tmp_path, OPTIONS, step=2)
    last = "checkpoints/step-00000004/model.safetensors"
    assert (run.path / last).read_bytes() == (whole.path / last).read_bytes()


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="teacher_view is 'none'"):
        small(teacher_view="none")
    with pytest.raises(ConfigError, match="class_scale is 'mine'"):
        small(class_scale="mine")
    with pytest.raises(ConfigError, match="expected an even number"):
        small(batch_size=7)
    with pytest.raises(ConfigError, match="labelled is 2"):
        small(labelled=2.0)
    with pytest.raises(ConfigError, match="at least one weight"):
        small(weight_text=0.0, weight_class=0.0, weight_view=0.0, weight_patch=0.0)
    with pytest.raises(DataError, match="no column 'sort'"):
        small(label="sort")


def test_the_paper_builds_with_its_parameter_count() -> None:
    paper = replace(M3I.paper(), classes=tuple(f"c{n}" for n in range(1000)))
    with torch.device("meta"):
        model = paper.model()
    block, tower, width = 7_087_872, 768, 512
    image = 12 * (block + 2 * tower) + (3 * 16 * 16 * tower + tower) + (196 + 1) * tower + 3 * tower + 2 * tower
    text = 49_408 * 512 + 77 * 512 + 12 * 3_152_384 + 2 * 512
    views = (tower * tower + tower) + (tower * width + width)
    predictor = (width * tower + tower) + (tower * width + width)
    assert paper.teacher_view == "other"
    patches = tower + (tower * tower + tower) + block + (tower * tower + tower)
    total = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert total == image - tower + text + (tower + 512) * width + 1 + 1000 * width + views + predictor + patches
    assert sum(p.numel() for p in model.companions.parameters()) == image + views
