"""CTP: its terms by hand, its memory step by step, processes that agree, and a stop anywhere that changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from few_words import FEW_WORDS, WORDS
from invariants import gradients, on_two_processes, stopped_and_resumed, updated
from safetensors.torch import load_file
from torch import Tensor

from diptych.api import evaluate, load
from diptych.core.config import with_changes
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_uniforms
from diptych.core.run_folder import RunFolder
from diptych.data.load.stream import batches
from diptych.recipes._shared.continual_config import ReplayConfig, TaskSplit
from diptych.recipes._shared.masked_pairs import MaskedPairBatch
from diptych.recipes.contrastive.ctp import CTP
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.train.stages import total_steps
from diptych.worlds.scenes.world import scenes

ROWS, SIDE, LENGTH = 8, 16, 8


def small(**changes: Any) -> CTP:
    settings = {**FEW_WORDS, "image_size": SIDE, "text_length": LENGTH, "width": 16, "queue": 20, **changes}
    settings = {"image_tower": "vit_micro", "text_tower": "text_micro", "fusion_heads": 4, **settings}
    return with_changes(CTP.tiny(), settings)


def made_batch(seed: int = 3) -> MaskedPairBatch:
    chance = torch.Generator().manual_seed(seed)
    text_BL = torch.randint(3, WORDS, (ROWS, LENGTH), generator=chance)
    word_BM = torch.tensor([[text_BL[row, 1], -1 if row % 3 else text_BL[row, 3]] for row in range(ROWS)])
    hidden_BL = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    hidden_BL[:, 1] = True
    return MaskedPairBatch(
        image_BCHW=torch.randn(ROWS, 3, SIDE, SIDE, generator=chance, dtype=torch.float64),
        text_BL=text_BL,
        text_mask_BL=torch.ones(ROWS, LENGTH, dtype=torch.bool),
        group_B=torch.tensor([0, 1, 2, 3, 4, 5, 6, 0]),
        masked_BL=text_BL,
        hidden_BL=hidden_BL,
        place_BM=torch.tensor([[1, 3]] * ROWS),
        word_BM=word_BM,
    )


def made_model(recipe: CTP) -> Any:
    """The reference and the momentum model differ from the trained one."""
    torch.manual_seed(1)
    model = recipe.model().double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.startswith("companions."):
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name)), dtype=p.dtype))
    return model


def contrast_by_hand(anchor: Tensor, key: Tensor, queue: Tensor, group: Tensor, queue_group: Tensor, scale: Tensor) -> Tensor:
    logits = torch.cat([anchor @ key.T, anchor @ queue.T], 1) * scale
    same = group[:, None] == torch.cat([group, queue_group])
    same.fill_diagonal_(False)
    return F.cross_entropy(logits.masked_fill(same, float("-inf")), torch.arange(len(anchor)))


def test_momentum_contrast_is_cross_entropy_over_batch_and_queue(parity: Any) -> None:
    recipe, batch = small(), made_batch()
    model = made_model(recipe)
    for seed in (4, 5, 6):  # 24 rows into 20 places
        keys = F.normalize(torch.randn(2, ROWS, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)
        model.remember_(keys[0], keys[1], torch.arange(seed, seed + ROWS))
    f = recipe.features(model, batch)
    assert f.queue_text_KD.shape == (20, 16)
    assert f.scale.item() == pytest.approx(1 / 0.07)
    assert not f.queue_text_KD.requires_grad
    assert not f.momentum_text_ND.requires_grad
    one = contrast_by_hand(f.image_ND, f.momentum_text_ND, f.queue_text_KD, batch.group_B, f.queue_group_K, f.scale)
    other = contrast_by_hand(f.text_ND, f.momentum_image_ND, f.queue_image_KD, batch.group_B, f.queue_group_K, f.scale)
    parity(
        "ctp",
        "momentum contrast over batch and queue",
        "torch's cross_entropy",
        [(recipe.losses(f, batch)["momentum"], (one + other) / 2)],
        tolerance=1e-12,
    )


def test_topology_is_zero_at_the_start_of_a_task_and_not_later(parity: Any) -> None:
    recipe, batch = small(task=1), made_batch()
    model = made_model(recipe)
    assert recipe.losses(recipe.features(model, batch), batch)["topology"].item() > 1e-4
    model.begin_task_()
    loss = recipe.losses(recipe.features(model, batch), batch)["topology"]
    parity("ctp", "topology term where model and reference are one", "zero", [(loss, 0.0)], tolerance=0.0)
    for name in ("momentum", "reference"):
        own = dict(model.named_parameters())
        assert all(torch.equal(p, own[key]) for key, p in model.companions[name].named_parameters())


@pytest.mark.parametrize("task", [0, 1])
def test_the_momentum_model_moves_by_the_published_shares(task: int, parity: Any) -> None:
    recipe, batch = small(task=task), made_batch()
    model = made_model(recipe)
    own = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    recipe.after_update(model, recipe.features(model, batch), batch, 0.1)
    pairs = []
    for name, found in model.companions["momentum"].named_parameters():
        before, source = own[f"companions.momentum.{name}"], own[name]
        expected = 0.995 * before + 0.005 * source if task == 0 else 0.9 * before + 0.05 * source
        if task:
            expected = expected + 0.05 * own[f"companions.reference.{name}"]
            assert torch.equal(
                model.companions["reference"].get_parameter(name), torch.tensor(own[f"companions.reference.{name}"])
            )
        torch.testing.assert_close(found.detach(), torch.tensor(expected), rtol=1e-13, atol=1e-15)
        pairs.append((found, expected))
    assert "reader.mask_D" in dict(model.companions["momentum"].named_parameters()), "heads are included"
    assert len(model.queue_image) == ROWS
    parity(
        "ctp",
        "the momentum model after a step of the first and of a later task",
        "the published shares in numpy",
        pairs,
        tolerance=1e-13,
    )


def test_without_its_terms_it_is_fine_tuning_and_keeps_no_copies() -> None:
    plain = small(weight_momentum=0.0, weight_topology=0.0, weight_distilled=0.0, fusion_layers=0, task=1)
    model = plain.model()
    assert set(plain.losses(plain.features(model, made_batch_32()), made_batch_32())) == {"contrastive"}
    assert not [name for name in model.state_dict() if name.startswith(("companions", "queue", "reader"))]


def made_batch_32() -> MaskedPairBatch:
    batch = made_batch()
    return replace(batch, image_BCHW=batch.image_BCHW.float())


def test_cached_gradients_are_exact() -> None:
    recipe, batch = small(task=1), made_batch()
    model = made_model(recipe)
    recipe.after_update(model, recipe.features(model, batch), batch, 0.1)
    whole, cut = (gradients(recipe, model, batch, micro_batch=size) for size in (0, 3))
    torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- processes


def stepped(rank: int, world: int, keys: str) -> dict[str, Tensor]:
    """Gradients, queues and momentum model of the second of two steps on this process's share."""
    recipe = small(task=1, keys=keys)
    return updated(recipe, made_model(recipe), [made_batch(3), made_batch(4)], rank, world)


def stepped_both_ways(rank: int, world: int) -> dict[str, dict[str, Tensor]]:
    return {keys: stepped(rank, world, keys) for keys in ("gathered", "own")}


def test_two_processes_agree_with_one_unless_keys_are_each_ones_own(tmp_path: Path) -> None:
    alone = stepped(0, 1, "gathered")
    for found in on_two_processes(stepped_both_ways, tmp_path):
        torch.testing.assert_close(found["gathered"], alone, rtol=1e-8, atol=1e-11)
        released = found["own"]["grad encoder.image_projection.weight"]
        assert not torch.allclose(released, alone["grad encoder.image_projection.weight"], rtol=1e-3), (
            "fewer keys, another gradient"
        )
        assert torch.equal(found["own"]["queue_image.row_QD"], found["gathered"]["queue_image.row_QD"])


# ---------------------------------------------------------------- whole runs


@cache
def rows() -> Any:
    return scenes(40, size=32, lengths=("short",), paraphrases=0, negatives=False).to_pool()


def of_scenes(**changes: Any) -> CTP:
    settings = {"image_size": 32, "batch_size": 8, "steps": 12, "warmup": 1.0, "pieces": 300, "tokenizer": "data", **changes}
    return small(**settings).prepare(rows())


OPTIONS = TrainOptions(save_every=2, log_every=1, progress=False, precision="fp32")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(of_scenes(), rows(), tmp_path_factory.mktemp("whole") / "run", OPTIONS).path


def test_each_task_trains_on_its_own_rows_and_the_queue_goes_on(whole: Path) -> None:
    recipe = of_scenes()
    assert sum(recipe.sizes) == 40
    assert len(recipe.stages()) == 3
    for stage in recipe.stages():
        kept = [row for row in range(40) if stage.keep(rows()[row])]
        assert len(kept) == stage.share
        assert all(rows()[row].extras["predicate"] in recipe.tasks[stage.recipe.task] for row in kept)
    run = RunFolder.open(whole)
    lines = [line for line in run.metrics() if line["kind"] == "train"]
    assert "topology" not in lines[0]
    starts = [n for n in range(1, 12) if lines[n].get("topology") == 0]
    assert len(starts) == 2, "the first step of either later task: the model is its reference"
    names = sorted(path.name for path in run.snapshots.iterdir() if path.is_dir())
    assert [name[:2] for name in names] == ["00", "01", "02", "03"]
    assert (run.snapshots / names[-1] / "model.safetensors").read_bytes() == (run.model / "model.safetensors").read_bytes()
    result = evaluate(load(run.path), "continual", rows(), snapshots=run.snapshots, stream=str(run.snapshots / "stream.json"))
    assert {"average", "forgetting", "union_loss", "r[3,1]"} <= set(result.metrics)


def test_a_buffer_replays_samples_of_the_earlier_tasks_and_none_of_later_ones() -> None:
    data, size = rows(), 6
    recipe = of_scenes(buffer=size, buffer_seed=2)
    task_of = [recipe.stream.task_of(data[row]) for row in range(len(data))]
    number = keyed_uniforms(data.uids, "reservoir", 2)
    for task, stage in enumerate(recipe.stages()):
        kept = {row for row in range(40) if stage.keep(data[row])}
        own = {row for row in range(40) if task_of[row] == task}
        earlier = [row for row in range(40) if task_of[row] < task]
        assert own <= kept
        assert kept - own == set(sorted(earlier, key=lambda row: number[row])[:size])
        assert stage.share == len(kept)
    assert of_scenes().held_below == ()
    added = of_scenes(buffer=size, replays="added", epochs=3.0, steps=0)
    sizes = added.sizes
    replayed = min(size, sizes[0]) + min(size, sizes[0] + sizes[1])
    assert added.epochs == pytest.approx(3 * (40 + replayed) / 40)
    assert added.prepare(data) == added, "prepared once, the epochs stay"
    assert total_steps(added, data, TrainOptions()) == math.ceil(3 * (40 + replayed) / 8)
    assert of_scenes(buffer=size, epochs=3.0, steps=0).epochs == 3
    with pytest.raises(ConfigError, match="buffer is -1"):
        small(buffer=-1)


def test_a_buffer_and_a_bias_go_through_a_run_and_a_stop(tmp_path: Path) -> None:
    recipe = of_scenes(buffer=6, projection_bias=True)
    whole = fit(recipe, rows(), tmp_path / "whole" / "run", OPTIONS)
    run = stopped_and_resumed(recipe, rows(), tmp_path, OPTIONS, step=6)
    last = "model/model.safetensors"
    assert (run.path / last).read_bytes() == (whole.path / last).read_bytes()
    tensors = load_file(whole.path / last)
    assert tensors["text_projection.bias"].abs().max() > 0
    assert tensors["image_projection.bias"].abs().max() > 0
    found = load(whole.path)
    x = found.model.image_tower(torch.zeros(1, 3, 32, 32)).pooled_BD
    wanted = F.normalize(x @ tensors["image_projection.weight"].T + tensors["image_projection.bias"], dim=-1)
    torch.testing.assert_close(found.model.encode_image(torch.zeros(1, 3, 32, 32)), wanted)


@pytest.mark.parametrize("step", [2, 6, *(pytest.param(n, marks=pytest.mark.slow) for n in range(12) if n not in (2, 6))])
def test_a_stop_anywhere_changes_nothing(step: int, whole: Path, tmp_path: Path) -> None:
    """In the middle of a task, at its last step, and right after the next one began."""
    run = stopped_and_resumed(of_scenes(), rows(), tmp_path, OPTIONS, step=step)
    last = "checkpoints/step-00000012"
    for file in ("model.safetensors", "optimiser.safetensors"):
        assert (run.path / last / file).read_bytes() == (whole / last / file).read_bytes()
    for path in whole.glob("snapshots/*/model.safetensors"):
        assert (run.path / path.relative_to(whole)).read_bytes() == path.read_bytes(), path.parent.name


def test_masks_are_part_of_the_batch_and_pure() -> None:
    recipe = of_scenes()
    (one,), (other,) = (list(batches(rows(), recipe, seed=2, stop=1)) for _ in range(2))
    assert torch.equal(one.batch.masked_BL, other.batch.masked_BL)
    assert (one.batch.word_BM[:, 0] >= 0).all(), "every text is asked for a word"
    asked = one.batch.word_BM >= 0
    assert torch.equal(one.batch.text_BL.gather(1, one.batch.place_BM)[asked], one.batch.word_BM[asked])


def test_data_without_the_column_are_refused() -> None:
    with pytest.raises(DataError, match="no column industry_name"):
        replace(small(), split=TaskSplit(column=("industry_name",))).prepare(rows())


def test_the_paper_builds_with_its_parameter_count() -> None:
    paper = CTP.paper()
    with torch.device("meta"):
        model = replace(paper, task=1).model()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    bert_layer, cross_attention, vit_b16, words = 7_087_872, 2_363_904, 85_798_656, 49_408
    assert sum(p.numel() for p in model.reader.blocks.parameters()) == 6 * (bert_layer + cross_attention)
    text = 6 * bert_layer + (words + 512 + 2 + 2) * 768
    head = 768 + (768 * 768 + 768) + 2 * 768 + words  # mask, dense layer, norm, bias; the word table is the tower's
    assert trained == vit_b16 + text + 6 * (bert_layer + cross_attention) + head + 2 * (768 * 256 + 256) + 1
    assert trained == 224_414_209
    for name in ("momentum", "reference"):
        assert sum(p.numel() for p in model.companions[name].parameters()) == trained
    assert (paper.albef, paper.fusion.class_token, paper.memory.queue_start, paper.text_length) == (True, True, "random", 30)
    assert (paper.augment, paper.resize, model.encoder.image_tower.norm_after.eps) == ("rand", "squash", 1e-6)
    assert CTP.preset("paper_er") == replace(paper, replay=ReplayConfig(buffer=10_000, replays="added"))
    assert (paper.tau, paper.memory.queue, paper.memory.momentum, paper.memory.compatible) == (
        0.07,
        1024,
        0.995,
        (0.9, 0.05, 0.05),
    )


def test_hidden_words_are_guessed_from_the_class_token_too() -> None:
    """ALBEF's fusion reads the image encoder's whole output: the class token first, then the patches."""
    recipe = small(class_token=True, albef=True).prepare(rows())
    torch.manual_seed(0)
    model = recipe.model().eval()
    one = next(iter(batches(rows(), recipe, seed=0, stop=1)))
    read: list[torch.Tensor] = []
    model.reader.blocks[0].register_forward_pre_hook(lambda module, given: read.append(given[2]))
    with torch.no_grad():
        recipe.features(model, one.batch)
        seen = model.encoder.image_tower(one.batch.image_BCHW)
    torch.testing.assert_close(read[0], torch.cat([seen.pooled_BD[:, None], seen.tokens_BPD], 1))
