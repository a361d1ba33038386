"""UniPT: pseudo texts by rule, the maximum over tokens, guessed patches and words, semi-hard negatives; against the released parts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from invariants import stopped_and_resumed
from scipy.special import softmax
from torch import Tensor

from diptych.api import load
from diptych.cli import main
from diptych.core.config import with_changes
from diptych.core.errors import ConfigError, DataError
from diptych.curate.operators.pseudo_texts import conquer
from diptych.data.dataset import Pool
from diptych.data.load.stream import batches
from diptych.data.text.persons.descriptions import combine
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.people.part_encoder import PartDecoder, PartEncoder
from diptych.models.people.patch_regressor import PatchRegressor, RegressorBlock, sine_positions
from diptych.models.people.person_embedder import PersonEmbedder
from diptych.models.people.unified_encoder import UnifiedPairs
from diptych.objectives.pairs.info_nce import info_nce
from diptych.objectives.pairs.ranking import semi_hard_ranking
from diptych.recipes._shared.texts.pseudo_texts import PSEUDO
from diptych.recipes._shared.unified_batch import UnifiedBatch
from diptych.recipes.domains.unipt import UniPT
from diptych.train.fit import fit
from diptych.train.optimise import build_optimiser, learning_rate
from diptych.train.options import TrainOptions
from diptych.worlds.people.world import pedestrians

FIXTURES = Path(__file__).parents[2] / "models/towers/fixtures"
PARTS = json.loads((FIXTURES / "lgur_parts_released.json").read_text())
RELEASED = json.loads((FIXTURES / "unipt_regressor_released.json").read_text())


@cache
def drawn(count: int = 16) -> Any:
    return pedestrians(count).remembering()


@cache
def vocabulary() -> str:
    return (
        replace(UniPT.tiny(), guessed_patches=replace(UniPT.tiny().guessed_patches, weight_patches=0.0))
        .prepare(drawn())
        .vocabulary
    )


def recipe(**changes: Any) -> UniPT:
    return with_changes(UniPT.tiny(), {"batch_size": 8, "vocabulary": vocabulary(), "weight_patches": 0.0, **changes})


def one_batch(made: UniPT, rows: Any = None) -> UnifiedBatch:
    (step,) = batches(drawn() if rows is None else rows, made, seed=0, stop=1)
    batch: UnifiedBatch = step.batch
    return batch


# ---------------------------------------------------------------- divide, conquer, combine


def test_optional_attributes_need_certainty_and_required_ones_do_not(parity: Any) -> None:
    required, optional = (
        {"gender": ("man", "woman")},
        {"bag": ("carrying a backpack", "carrying a handbag"), "hat": ("wearing a cap", "wearing a hat")},
    )
    cosine = {"gender": np.array([0.2101, 0.2100]), "bag": np.array([0.230, 0.205]), "hat": np.array([0.22, 0.21])}
    shares = {name: math.exp(100 * c.max()) / sum(math.exp(100 * x) for x in c) for name, c in cosine.items()}
    assert shares["bag"] > 0.9 > shares["hat"] > 0.7
    found = conquer(cosine, required, optional, sure=0.9, scale=100.0)
    assert found == {"gender": "man", "bag": "carrying a backpack"}
    edge = math.log(9) / 100  # two phrases this far apart have shares of exactly .9 and .1
    just = {"bag": np.array([0.2 + edge * 1.001, 0.2])}
    below = {"bag": np.array([0.2 + edge * 0.999, 0.2])}
    assert conquer(just, {}, {"bag": optional["bag"]}, sure=0.9, scale=100.0)
    assert not conquer(below, {}, {"bag": optional["bag"]}, sure=0.9, scale=100.0)
    by_hand = [math.exp(100 * x) / sum(math.exp(100 * y) for y in cosine["bag"]) for x in cosine["bag"]]
    parity(
        "unipt",
        "optional attributes: share of each phrase",
        "softmax by hand",
        [(softmax(100 * cosine["bag"]), by_hand)],
        tolerance=1e-12,
    )
    absent = {"bag": np.array([0.2, 0.2, 0.3])}
    assert not conquer(absent, {}, {"bag": optional["bag"]}, sure=0.5, scale=100.0), "the third phrase is that of no bag"


def test_a_sentence_is_drawn_anew_each_epoch() -> None:
    column = [
        "gender: man",
        "upper: wearing a red coat",
        "hair: with short black hair",
        "action: walking",
        "lower: wearing blue trousers",
    ]
    rows = Pool.from_samples([replace(s, extras={**s.extras, PSEUDO: column}) for s in drawn().to_pool()], name="pseudo")
    made = recipe(vocabulary="", batch_size=16).prepare(rows)
    first, second = (step.batch.strings for step in batches(rows, made, seed=0, stop=2))
    assert len({*first, *second}) > 20, "32 pictures of one description"
    (step,) = batches(rows, made, seed=0, stop=1)
    plain = replace(made, sentences=replace(made.sentences, exchanged=0.0))
    (same,) = batches(rows, plain, seed=0, stop=1)
    assert torch.equal(step.batch.template_B, same.batch.template_B), "template and synonyms are drawn one after the other"
    found = dict(entry.split(": ", 1) for entry in column)
    rng = np.random.default_rng(0)
    wanted = [combine(found, number, rng, exchanged=0.0) for number in same.batch.template_B.tolist()]
    assert list(same.batch.strings or ()) == wanted
    assert one_batch(recipe()).template_B.tolist() == [-1] * 8, "captions have none"
    assert all("red" in text and "coat" in text for text in first)
    with pytest.raises(DataError, match=r"field 'pseudo_attributes'.*diptych curate pseudo_texts"):
        one_batch(recipe(texts="pseudo"))


# ---------------------------------------------------------------- towers and guesses


def test_the_regressor_is_the_released_one(parity: Any) -> None:
    block = RegressorBlock(8, 2).double()
    ours = {
        "norm1_q": block.norm_q, "norm1_k": block.norm_k, "norm1_v": block.norm_v, "norm2_cross": block.norm, "cross_attn.q": block.q,
        "cross_attn.k": block.k, "cross_attn.v": block.v, "cross_attn.proj": block.out, "mlp_cross.fc1": block.mlp_in,
        "mlp_cross.fc2": block.mlp_out,
    }  # fmt: skip
    for number, name in enumerate(RELEASED["names"]):
        if "gamma" in name:
            continue
        head, _, tail = name.rpartition(".")
        parameter = {"q_bias": block.q.bias, "v_bias": block.v.bias}.get(tail)
        parameter = getattr(ours[head], tail) if parameter is None else parameter
        wave = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) * 0.7311 + number) * 0.4
        parameter.data.copy_((wave + (1.0 if "norm" in name and tail == "weight" else 0.0)).view_as(parameter))

    def made(*shape: int, seed: int) -> Tensor:
        return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 0.37 + seed).view(*shape)

    found = block(made(2, 3, 8, seed=1), made(2, 7, 8, seed=2), made(2, 3, 8, seed=3), made(2, 7, 8, seed=4))
    places = sine_positions((4, 2), 8, "released")
    pairs = [(found, torch.tensor(RELEASED["out"], dtype=torch.float64))]
    parity("unipt", "block that guesses patches", "RegressorBlock of UniPT (e90159b)", pairs, tolerance=1e-9)
    released = [(places, torch.tensor(RELEASED["sincos_4_2_8"]))]
    parity(
        "unipt",
        "places of patches, released order",
        "build_2d_sincos_position_embedding of UniPT (e90159b)",
        released,
        tolerance=1e-6,
    )


def test_hidden_patches_are_guessed_from_visible_ones_alone() -> None:
    made = recipe(weight_patches=1.0, small_steps=1).prepare(drawn())
    batch, model = one_batch(made), made.model()
    assert batch.kept_BK.shape == batch.lost_BJ.shape == (8, 16), "half of 8 x 4"
    for kept, lost in zip(batch.kept_BK.tolist(), batch.lost_BJ.tolist(), strict=True):
        assert sorted(kept + lost) == list(range(32))
    found = made.features(model, batch)
    assert found.target_hidden_NJE is not None
    assert not found.target_hidden_NJE.requires_grad
    assert found.hidden_NJE is not None
    assert model.teacher is not None
    torch.testing.assert_close(found.target_hidden_NJE[0], model.teacher(batch.image_BCHW)[0, batch.lost_BJ[0]])
    blind = batch.image_BCHW.clone()
    for row, place in enumerate(batch.lost_BJ.tolist()):
        for p in place:
            blind[row, :, p // 4 * 16 : p // 4 * 16 + 16, p % 4 * 16 : p % 4 * 16 + 16] = 0
    torch.testing.assert_close(made.features(model, replace(batch, image_BCHW=blind)).hidden_NJE, found.hidden_NJE)
    losses = made.losses(found, batch)
    wanted = sum(
        F.mse_loss(a, b) for a, b in ((found.hidden_NJE, found.target_hidden_NJE), (found.visible_NKE, found.target_visible_NKE))
    )
    torch.testing.assert_close(losses["patches"], wanted)
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert "teacher" not in trained
    assert not made.stored("teacher.tower.position_PD")
    regressor = PatchRegressor(64, (8, 4), 7, layers=1, heads=4)
    assert [tuple(x.shape) for x in regressor(torch.randn(2, 17, 64), batch.kept_BK[:2], batch.lost_BJ[:2])] == [
        (2, 16, 7),
        (2, 16, 7),
    ]


def test_without_temperature_the_loss_cannot_fall_below_its_floor(parity: Any) -> None:
    """N unit vectors cannot all be opposite: with texts at their images the other cosines are -1 / (N - 1) at best."""
    for count, floor in ((64, 3.17), (512, 5.24)):
        simplex = F.normalize(torch.eye(count, dtype=torch.float64) - 1 / count, dim=-1)
        loss, _ = info_nce(simplex, simplex, scale=1.0)
        exact = math.log1p((count - 1) * math.exp(-1 / (count - 1) - 1))
        parity(
            "unipt",
            "floor of the loss without temperature",
            "log(1 + (N - 1) exp(-N / (N - 1)))",
            [(loss, exact)],
            tolerance=1e-12,
        )
        assert loss.item() == pytest.approx(floor, abs=0.01)
    made = recipe(learned_scale=False)
    batch, model = one_batch(made), made.model()
    found = made.features(model, batch)
    assert found.scale.item() == 1.0
    similarity = found.image_ND @ found.text_ND.T
    same = (batch.group_B[:, None] == batch.group_B) & ~torch.eye(8, dtype=torch.bool)
    label = torch.arange(8)
    logits = similarity.masked_fill(same, -torch.inf), similarity.T.masked_fill(same, -torch.inf)
    wanted = sum(F.cross_entropy(x, label) for x in logits) / 2
    torch.testing.assert_close(made.losses(found, batch)["contrastive"], wanted)


# ---------------------------------------------------------------- fine-tuning


@pytest.mark.parametrize(("reduction", "cells"), [("mean", "paper"), ("sum", "paper"), ("sum", "released")])
def test_ranking_draws_semi_hard_negatives_of_other_persons(reduction: Any, cells: Any, parity: Any) -> None:
    image, text = (
        torch.randn(7, 4, generator=torch.Generator().manual_seed(s), dtype=torch.float64, requires_grad=True) for s in (0, 1)
    )
    group, draw = (
        torch.tensor([0, 0, 1, 2, 3, 3, 4]),
        torch.rand(7, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64),
    )
    margin = 0.6
    ours = semi_hard_ranking(image, text, group, draw, margin=margin, reduction=reduction, cells=cells)
    total, met = torch.zeros((), dtype=torch.float64), 0
    for side, (anchors, keys) in enumerate(((image, text), (text, image))):
        for i in range(7):
            a = anchors[i] / anchors[i].norm()
            cosine = [(a * keys[j] / keys[j].norm()).sum() for j in range(7)]
            fits = [j for j in range(7) if group[j] != group[i] and 0 < margin - cosine[i] + cosine[j] < margin]
            if fits:
                met += 1
                j = fits[int(draw[i, side] * len(fits))]
                charged = cosine[j] if cells == "paper" else (image[i] / image[i].norm() * text[j] / text[j].norm()).sum()
                total = total + (margin - cosine[i] + charged).relu()
    assert 4 <= met < 14, "some anchors have none"
    wanted = total if reduction == "sum" else total / 7
    leaves = (image, text)
    pairs = [(ours, wanted), *zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(wanted, leaves), strict=True)]
    parity("unipt", "ranking by semi-hard negatives: loss and gradients", "loop over anchors", pairs, tolerance=1e-12)


def test_fine_tuning_starts_from_a_run_and_shares_one_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = "world:pedestrians?n=32&test=16"
    options = ["--batch-size", "8", "--workers", "0", "--steps", "2", "--preset", "tiny"]
    first = ["train", "unipt", "--data", data, "--out", str(tmp_path / "first"), "--small-steps", "2", *options]
    assert main(first) == 0
    second = ["train", "unipt", "--data", data, "--out", str(tmp_path / "second"), "--init", str(tmp_path / "first"), *options]
    assert main([*second, "--phase", "finetune"]) == 0
    assert main(["eval", str(tmp_path / "second"), "person_search", "--data", data, "--split", "test"]) == 0
    assert "minp" in capsys.readouterr().out
    config = json.loads((tmp_path / "second" / "model" / "config.json").read_text())
    assert config["biometric"] is True
    assert load(str(tmp_path / "second")).embed_texts(["a man"]).shape == (1, 128)


def test_prototypes_and_their_losses_are_the_released_ones(parity: Any) -> None:
    size = PARTS["shape"]
    count, width, each, persons = (size[name] for name in ("prototypes", "width", "part_width", "persons"))
    sizes = {name: size[name] for name in ("prototypes", "part_width", "layers", "heads", "head_width", "mlp_width")}
    reader = PartDecoder(width, **sizes).double()

    def wave(shape: tuple[int, ...], seed: int, scale: float = 0.4) -> Tensor:
        return (torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 0.7311 + seed) * scale).view(shape)

    for number, name in enumerate(PARTS["names"]):
        layer = reader.layers[int(name.split(".")[2])]
        block, parameter = name.split(".", 3)[3].rsplit(".", 1)
        if block == "0.fn.fn.to_kv":
            given = wave((2 * layer.read.k.out_features, width), number)
            layer.read.k.weight.data, layer.read.v.weight.data = given.chunk(2)
            continue
        own = {
            "0.fn.norm": layer.norm_read, "0.fn.fn.to_q": layer.read.q, "0.fn.fn.to_out.0": layer.read.out,
            "1.fn.norm": layer.norm_mlp, "1.fn.fn.net.0": layer.mlp_in, "1.fn.fn.net.3": layer.mlp_out,
        }[block]  # fmt: skip
        tensor = getattr(own, parameter)
        tensor.data.copy_(wave(tuple(tensor.shape), number) + (1.0 if name.endswith("norm.weight") else 0.0))
    reader.prototype_QD.data.copy_(wave((1, count, width), 100, 1.0)[0])
    for at, matrix in enumerate(reader.out):
        matrix.weight.data.copy_(wave((each, width), 200 + at))
    long = torch.tensor([7, 3, 5, 2, 7, 4])
    image, text = wave((6, 9, width), 1, 1.0), wave((6, 7, width), 2, 1.0)
    parts = [reader(image, torch.ones(6, 9).bool()), reader(text, torch.arange(7) < long[:, None])]
    read = [torch.tensor(PARTS[name], dtype=torch.float64) for name in ("image_parts", "text_parts")]
    wanted = [torch.stack([x[:, at] @ m.weight.T for at, m in enumerate(reader.out)], 1) for x in read]
    released = "decoder of LGUR (c203cc7)"
    parity("unipt", "what prototypes read of images and texts", released, list(zip(parts, wanted, strict=True)), tolerance=1e-9)

    label = torch.tensor([0, 1, 1, 2, 3, 0])
    logits = [
        torch.stack([x[:, at] @ wave((persons, each), 300 + at).T + wave((persons,), 400 + at) for at in range(count)], 1)
        for x in parts
    ]
    made = replace(recipe(), phase="finetune", person_losses=replace(recipe().person_losses, margin=0.3, ranked="released"))
    features = UnifiedPairs(
        image_ND=parts[0][:, 0], text_ND=parts[1][:, 0], scale=torch.ones(1), image_part_NQE=parts[0], text_part_NQE=parts[1],
        image_part_person_NQG=logits[0], text_part_person_NQG=logits[1],
    )  # fmt: skip
    first = torch.zeros(6, 4, dtype=torch.float64)
    found = made.unified(features, cast("UnifiedBatch", SimpleNamespace(person_B=label, group_B=label, draw_B4=first)))
    pairs = [(found["part_persons"], PARTS["persons"]), (found["part_ranking"], PARTS["ranking"])]
    parity("unipt", "both losses on prototypes' parts", "Id_Loss and RankingLoss of LGUR (c203cc7)", pairs, tolerance=1e-9)
    half = replace(made, prototype_parts=replace(made.prototype_parts, weight_unified=0.5)).unified(
        features, cast("UnifiedBatch", SimpleNamespace(person_B=label, group_B=label, draw_B4=first))
    )
    torch.testing.assert_close(half["part_ranking"] * 2, found["part_ranking"])


def test_a_fine_tuned_model_embeds_by_its_parts_or_by_the_whole(tmp_path: Path) -> None:
    made = recipe(phase="finetune").prepare(drawn())
    batch, model = one_batch(made), made.model()
    found = made.features(model, batch)
    assert found.image_part_NQE is not None
    assert found.image_part_NQE.shape == (8, made.prototype_parts.prototypes, made.prototype_parts.part_width)
    encoder = model.encoder
    assert isinstance(encoder, PartEncoder)
    flat = F.normalize(found.image_part_NQE.flatten(1), dim=-1)
    torch.testing.assert_close(encoder.eval().encode_image(batch.image_BCHW), flat)
    other = batch.text_BL.masked_fill(~batch.text_mask_BL, 7)
    torch.testing.assert_close(
        encoder.encode_text(other, batch.text_mask_BL), encoder.encode_text(batch.text_BL, batch.text_mask_BL)
    )
    whole = replace(made, prototype_parts=replace(made.prototype_parts, searched="whole")).deploy(model)
    torch.testing.assert_close(whole.model.encode_image(batch.image_BCHW), found.image_ND)
    assert type(whole.model) is DualEncoder
    by_parts = made.deploy(model)
    by_parts.save(tmp_path / "model")
    again = PersonEmbedder.load(tmp_path / "model")
    np.testing.assert_array_equal(again.embed_texts(["a man in red"]), by_parts.embed_texts(["a man in red"]))
    assert again.embed_texts(["a man in red"]).shape == (1, made.prototype_parts.prototypes * made.prototype_parts.part_width)
    started = UniPT.tiny().started(again)
    assert started.width == made.width, "of the towers, not of all parts together"
    with pytest.raises(ConfigError, match=r"parts \| whole"):
        recipe(searched="half")
    with pytest.raises(ConfigError, match="1 or more"):
        recipe(prototypes=0)


def test_fine_tuning_losses() -> None:
    made = recipe(phase="finetune", weight_unified=0.0).prepare(drawn())
    assert len(made.persons) == 2
    batch, model = one_batch(made), made.model()
    found = made.features(model, batch)
    losses = made.losses(found, batch)
    assert {*losses} == {"persons", "ranking"}
    assert model.persons is not None
    image = model.encoder.image_tower(batch.image_BCHW).pooled_BD
    text = model.encoder.text_tower(batch.text_BL, batch.text_mask_BL).pooled_BD
    wanted = sum(F.cross_entropy(model.persons(side), batch.person_B) for side in (image, text))
    torch.testing.assert_close(losses["persons"], wanted)
    with pytest.raises(DataError, match="not a person of the training rows"):
        one_batch(made, pedestrians(8, split="test"))


def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    options = TrainOptions(seed=1, progress=False, save_every=2, log_every=1, workers=0)
    whole = fit(recipe(steps=4), drawn(), tmp_path / "whole", options)
    again = stopped_and_resumed(recipe(steps=4), drawn(), tmp_path, options, step=2)
    one, other = (safetensors_of(run.checkpoints) for run in (whole, again))
    assert one == other, "of the whole training module, not only of what is deployed"


def safetensors_of(checkpoints: Path) -> bytes:
    return (sorted(checkpoints.glob("step-*"))[-1] / "model.safetensors").read_bytes()


def test_paper_has_the_published_parts() -> None:
    paper = replace(UniPT.paper(), guessed_patches=replace(UniPT.paper().guessed_patches, weight_patches=0.0))
    with torch.device("meta"):
        tuned = replace(paper, phase="finetune", persons=tuple(map(str, range(11_003)))).model()
    assert isinstance(tuned.encoder, PartEncoder)
    inside, d = 6 * 512, 768
    layer = 4 * d + 4 * inside * d + d + 2 * 512 * d + 512 + d
    assert sum(p.numel() for p in tuned.encoder.reader.parameters()) == 6 * d + 2 * layer + 6 * 512 * d
    assert tuned.encoder.width == 6 * 512
    with torch.device("meta"):
        model = paper.model()
        regressor = PatchRegressor(768, (24, 8), 512, layers=8, heads=16)
    inner = model.encoder.image_tower.inner
    assert inner.grid == (24, 8)
    vit_b16 = 85_798_656 + (192 - 196) * 768  # ViT-B/16 of timm without its head at 224 pixels, other positions
    assert sum(p.numel() for p in inner.parameters()) == vit_b16
    block = 4 * 2 * 768 + 3 * 768**2 + 2 * 768 + 768**2 + 768 + 2 * 4 * 768**2 + 5 * 768
    assert sum(p.numel() for p in regressor.parameters()) == 8 * block + 768 + 2 * (768 * 512 + 512 + 2 * 512)
    assert model.encoder.log_scale.requires_grad is False
    assert (paper.deployed_preprocess.height, paper.deployed_preprocess.size, paper.batch_size, paper.lr) == (384, 128, 512, 1e-5)
    assert (paper.deployed_preprocess.mean, paper.deployed_preprocess.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), (
        "its inception_normalize"
    )
    spec = paper.optimiser()
    assert [learning_rate(spec, step, 1000) for step in (0, 50, 100)] == pytest.approx([0, 5e-6, 1e-5])
    decayed = {id(p) for group in build_optimiser(model, spec).param_groups if group["weight_decay"] for p in group["params"]}
    spared = {name for name, p in model.named_parameters() if p.requires_grad and id(p) not in decayed}
    assert {"encoder.image_tower.inner.norm_after.weight", "encoder.text_tower.inner.net.embeddings.LayerNorm.weight"} <= spared
    assert "words.2.weight" in spared, "transform.LayerNorm of its MLMHead"
    assert all("bias" in name or "norm" in name.lower() for name in spared - {"words.2.weight"}), "as set_schedule names them"


def test_as_released_the_frozen_model_sees_our_pixels_and_padding_is_drawn_with_the_words() -> None:
    made = recipe(weight_patches=1.0, small_steps=1, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)).prepare(drawn())
    for sees in ("ours", "theirs"):
        teacher = replace(made, guessed_patches=replace(made.guessed_patches, teacher_sees=sees)).model().teacher
        assert teacher is not None
        image_BCHW = torch.randn(2, 3, *(side * 16 for side in teacher.tower.grid))
        given = image_BCHW
        if sees == "theirs":
            mean, std = (torch.tensor(x).view(3, 1, 1) for x in (teacher.theirs.mean, teacher.theirs.std))
            given = (image_BCHW * 0.5 + 0.5 - mean) / std
        expected = teacher.projection(teacher.tower.states(given)[:, 1:])
        torch.testing.assert_close(teacher(image_BCHW), expected, rtol=1e-4, atol=1e-5)
    drawn_padding = replace(made, text_length=48, hidden_words=replace(made.hidden_words, padding_counts=True))
    plain = replace(drawn_padding, hidden_words=replace(drawn_padding.hidden_words, padding_counts=False))
    asked, asked_plain = ((one_batch(each).word_BM >= 0).sum(1) for each in (drawn_padding, plain))
    assert asked.max() > asked_plain.max(), "15 % of 48 places, of which some are padding"


def test_norms_of_the_decoder_decay_as_released() -> None:
    """set_schedule spares what is called norm1.weight and norm2.weight; the decoder's are called norm1_q, norm2_cross, norm_mask."""
    made = recipe(weight_patches=1.0, small_steps=1, decay="named").prepare(drawn())
    model = made.model()
    optimiser = build_optimiser(model, made.optimiser())
    decays = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    found = {name: decays[id(p)] for name, p in model.named_parameters() if id(p) in decays}
    for name, decay in found.items():
        inside = name.startswith("regressor.") and not name.endswith("bias")
        spared = "bias" in name or ("norm" in name.lower() and not inside) or name in ("words.2.weight", "encoder.log_scale")
        assert (decay == 0) == spared, name
    assert found["regressor.blocks.0.norm_q.weight"] > 0
    assert found["regressor.hidden.1.weight"] > 0


def test_targets_of_patches_are_a_token_behind_as_released() -> None:
    """forward_clip_cae gathers by the numbers of patches among all tokens, of which the class token is the first."""
    made = recipe(weight_patches=1.0, small_steps=1).prepare(drawn())
    own, behind = (
        replace(made, guessed_patches=replace(made.guessed_patches, targets=targets)).model().teacher
        for targets in ("own", "released")
    )
    assert own is not None
    assert behind is not None
    image_BCHW = torch.randn(2, 3, *(side * 16 for side in own.tower.grid))
    ours_BPE, theirs_BPE = own(image_BCHW), behind(image_BCHW)
    torch.testing.assert_close(theirs_BPE[:, 1:], ours_BPE[:, :-1])
    shown = image_BCHW * torch.tensor(own.shown.std).view(3, 1, 1) + torch.tensor(own.shown.mean).view(3, 1, 1)
    shown = (shown - torch.tensor(own.theirs.mean).view(3, 1, 1)) / torch.tensor(own.theirs.std).view(3, 1, 1)
    tokens_BPE = own.projection(own.tower.states(shown))
    lost_BJ = torch.tensor([[0, 3], [5, 1]])
    wanted = tokens_BPE.gather(1, lost_BJ[..., None].expand(-1, -1, tokens_BPE.shape[2]))
    torch.testing.assert_close(theirs_BPE.gather(1, lost_BJ[..., None].expand(-1, -1, tokens_BPE.shape[2])), wanted)


def test_pairs_of_a_gpu_are_compared_among_themselves(parity: Any) -> None:
    """compute_cl on each GPU's pairs, averaged: by hand; one part of all pairs is the loss of the batch."""
    torch.manual_seed(0)
    image, text = (F.normalize(torch.randn(10, 6, dtype=torch.float64), dim=1) for _ in range(2))
    one, groups = torch.ones(1, dtype=torch.float64), torch.arange(10)
    made = recipe(compared=4, same_group="negative")
    found = made.compare(image, text, one, groups)
    rows = []
    for begin in (0, 4, 8):
        cosine = image[begin : begin + 4] @ text[begin : begin + 4].T
        truth = torch.arange(len(cosine))
        rows += [F.cross_entropy(s, truth, reduction="none") for s in (cosine, cosine.T)]
    pairs = [(found, torch.cat(rows).sum() / 20)]
    parity("unipt", "contrast within the pairs of a GPU", "compute_cl by hand, GPU by GPU", pairs, tolerance=1e-12)
    torch.testing.assert_close(
        replace(made, compared=10).compare(image, text, one, groups), replace(made, compared=0).compare(image, text, one, groups)
    )


def test_what_is_new_starts_and_is_dropped_as_released() -> None:
    """objectives.init_weights: deviation 0.02 and biases of 0; drop_rate 0.1 in the image tower and in the decoder; its norms' epsilon."""
    assert (UniPT.paper().image_dropout, UniPT.paper().guessed_patches.regressor_eps, UniPT.paper().hidden_words.words_std) == (
        0.1,
        1e-6,
        0.02,
    )
    assert (UniPT.paper().guessed_patches.targets, UniPT.paper().compared) == ("released", 64)
    made = recipe(weight_patches=1.0, small_steps=1, image_dropout=0.5, regressor_eps=1e-6, words_std=0.02).prepare(drawn())
    model = made.model()
    assert model.words is not None
    assert model.regressor is not None
    assert model.regressor.blocks[0].norm_q.eps == 1e-6
    assert not model.words[0].bias.any()
    assert 0.018 < model.words[0].weight.std() < 0.022
    block = model.encoder.image_tower.inner.transformer.blocks[0]
    x = torch.randn(2, 5, block.norm_1.normalized_shape[0])
    torch.manual_seed(1)
    block.train()
    dropped = block(x)
    torch.manual_seed(1)
    y = x + F.dropout(block.attention(block.norm_1(x)), 0.5)
    y = y + F.dropout(block.mlp_out(F.dropout(block.act(block.mlp_in(block.norm_2(y))), 0.5)), 0.5)
    torch.testing.assert_close(dropped, y)
    torch.testing.assert_close(block.eval()(x), block(x))
