"""FIBER: shut gates leave the towers as they were; fused, unfused and writing it is the release; no row is its own wrong partner."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from invariants import on_two_processes, stopped_and_resumed
from torch import Tensor, nn

from diptych.api import load
from diptych.core.errors import ConfigError
from diptych.data.load.stream import batches
from diptych.models.fiber.fiber import Fiber
from diptych.models.fiber.gated_cross_attention import GatedCrossAttention
from diptych.models.fiber.image_encoder import FiberImageEncoder
from diptych.models.fiber.released import from_released, resized_tables
from diptych.models.fiber.text_encoder import FiberTextEncoder, self_attention_mask
from diptych.models.fiber.training import FLOOR, FiberTraining
from diptych.models.pairs.matching.matcher import MatcherOutput, sample_columns
from diptych.objectives.language.answer_scores import answer_scores
from diptych.objectives.language.captioning import caption_loss
from diptych.objectives.language.gold import gold_caption_loss, gold_weights
from diptych.objectives.language.masked_words import masked_words
from diptych.objectives.pairs.momentum_targets import momentum_contrast
from diptych.recipes._shared.fused_pairs import matching
from diptych.recipes.grounding.fiber import FIBER
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.scenes.questions import questions

RELEASED = Path(__file__).parents[2] / "parity" / "released" / "fiber_released.npz"
SOURCE = "microsoft/FIBER ca0f36b"
OPTIONS = TrainOptions(seed=1, progress=False, save_every=2, log_every=1)
IDS = torch.tensor([[0, 7, 9, 11, 2, 1, 1, 1], [0, 4, 5, 6, 8, 13, 30, 2], [0, 22, 2, 1, 1, 1, 1, 1]])
MASK = IDS.ne(1)
SMALL: dict[str, Any] = {
    "image_size": 32, "swin_width": 8, "swin_depths": (1, 2, 1), "swin_heads": (1, 2, 2), "swin_window": 4, "text_width": 32,
    "text_layers": 3, "text_heads": 2, "fused_layers": 2, "width": 32, "pieces": 320, "queue": 12, "batch_size": 8, "steps": 4,
    "warmup": 0.0, "caption": 0.0,
}  # fmt: skip


def small(**changes: Any) -> FIBER:
    return replace(FIBER.tiny(), **{**SMALL, **changes})


def fiber(**changes: Any) -> Fiber:
    image = FiberImageEncoder(
        image_size=64, width=8, depths=(1, 1, 18, 2), heads=(1, 1, 2, 4), drop_path=0.0, fused=6, text_width=16
    )
    widths = image.fused_widths
    text = FiberTextEncoder(vocab_size=40, mask_id=39, length=12, width=16, layers=12, heads=2, dropout=0.0, image_widths=widths)
    return Fiber(image, text, width=16, **{"writes": True, "answers": 5, "top_heads": 2, **changes}).double().eval()


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    """The numbers that a tensor of the release had when its outputs were stored."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    spread = 0.5 if len(shape) < 2 else 0.6 / np.sqrt(shape[-1])
    return torch.from_numpy(rng.standard_normal(shape) * spread + float("norm" in name.lower() and name.endswith("weight")))


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    found = np.load(RELEASED)
    return {name: found[name] if found[name].dtype.kind == "U" else torch.from_numpy(found[name]) for name in found}


@pytest.fixture(scope="module")
def released(stored: dict[str, Any]) -> Fiber:
    """Ours with the weights of the release."""
    shapes = {
        str(name): tuple(map(int, str(shape).split(","))) for name, shape in zip(stored["names"], stored["shapes"], strict=True)
    }
    tensors = {name: filled(name, shape) for name, shape in shapes.items()}
    ours = fiber()
    found = from_released(tensors, depths=(1, 1, 18, 2), text_layers=12, fused=6)
    ours.load_state_dict({name.removeprefix("fiber."): tensor for name, tensor in found.items()})
    return ours


def picture() -> Tensor:
    return torch.from_numpy(np.random.default_rng(5).standard_normal((3, 3, 64, 64)))


def randomised(model: nn.Module) -> None:
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype))


# ------------------------------------------------------------ the model


@torch.no_grad()
def test_every_reading_is_the_released_one(released: Fiber, stored: dict[str, Any], parity: Any) -> None:
    image, ours = picture(), released
    begun, words = ours.image_features(image), ours.text_features(IDS, MASK)
    fused = ours.fuse(begun, words, MASK)
    assert ours.fits is not None
    assert ours.answer is not None
    assert ours.guess is not None
    parity("fiber", "vectors of either side alone", SOURCE, [
        (ours.encode_image(image), stored["image"]), (ours.encode_text(IDS, MASK), stored["text"])
    ], tolerance=1e-9)  # fmt: skip
    parity("fiber", "both sides read together", SOURCE, [
        (fused.text_BLD[MASK], stored["fused_text"][MASK]), (fused.image_BPD, stored["fused_image"]),
        (fused.pooled_BD, stored["fused_pooled"]), (ours.fits(fused.pooled_BD), stored["itm"]),
        (ours.answer(fused.pooled_BD), stored["vqa"]),
    ], tolerance=1e-9)  # fmt: skip
    written = ours.write(ours.image_tokens(image), IDS, MASK)
    parity("fiber", "writing", SOURCE, [(written[MASK], stored["caption"][MASK])], tolerance=1e-9)


@torch.no_grad()
def test_losses_are_the_released_ones(released: Fiber, stored: dict[str, Any], parity: Any) -> None:
    image, ours = picture(), released
    begun, words = ours.image_features(image), ours.text_features(IDS, MASK)
    assert ours.fits is not None
    assert ours.answer is not None
    assert ours.guess is not None
    image_ND, text_ND = ours.encode_image(image), ours.encode_text(IDS, MASK)
    sides = ((image_ND, text_ND, stored["queue_text"]), (text_ND, image_ND, stored["queue_image"]))
    contrast = sum(momentum_contrast(a, a, other, queue, temperature=0.07, alpha=0.0) for a, other, queue in sides) / 2

    wrong = torch.tensor([2, 0, 1])
    pairs = ((begun, words, MASK), (begun, words[wrong], MASK[wrong]), (begun[wrong], words, MASK))
    answers = [ours.fits(ours.fuse(*pair).pooled_BD) for pair in pairs]
    matched = matching(MatcherOutput(image_ND, text_ND, torch.ones(1), *answers, torch.ones(3, dtype=torch.bool)))

    place, word = torch.tensor([[2, 0], [3, 5], [1, 0]]), torch.tensor([[9, -1], [6, 13], [22, -1]])
    masked = IDS.clone()
    for row, column in ((0, 2), (1, 3), (1, 5), (2, 1)):
        masked[row, column] = 39
    read = ours.fuse(begun, ours.text_features(masked, MASK), MASK).text_BLD
    guessed = ours.guess(read.gather(1, place[..., None].expand(-1, -1, 16)))

    written, worth = ours.write(ours.image_tokens(image), IDS, MASK), torch.zeros(3, 5, dtype=torch.float64)
    worth[0, 0], worth[0, 3], worth[1, 1] = 1.0, 0.3, 0.6
    asked = answer_scores(ours.answer(ours.fuse(begun, words, MASK).pooled_BD), worth, torch.ones(3, dtype=torch.bool))
    weight = gold_weights(stored["gold_copy_logits"], IDS, MASK)
    parity("fiber", "the losses of all terms", SOURCE, [
        (contrast, stored["itc_loss_released"]), (matched, stored["itm_loss"]), (masked_words(guessed, word), stored["mlm_loss"]),
        (caption_loss(written, IDS, MASK, over="tokens"), stored["caption_loss"]), (asked, stored["vqa_loss"]),
        (gold_caption_loss(written, weight, IDS, MASK, mean="released"), stored["gold_loss_released"]),
    ], tolerance=1e-6)  # fmt: skip


def test_shut_gates_leave_both_towers_as_they_were(parity: Any) -> None:
    torch.manual_seed(0)
    ours = fiber()
    image, words = picture(), ours.text_features(IDS, MASK)
    begun = ours.image_features(image)
    with torch.no_grad():
        shut_image, shut_text = ours.states(begun, words, MASK)
        alone_text = ours.text.finished(words, self_attention_mask(MASK))
        pairs = [
            (ours.image_tower.normed(shut_image), ours.image_tower.normed(ours.image_tower.finished(begun))),
            (ours.text.blocks[-1].norm_2(shut_text)[MASK], alone_text[MASK]),
            (ours.image_tower.finished(begun), ours.image_tower.net.layers(ours.image_tower.net.patch_embed(image))),
        ]
        parity("fiber", "both towers with gates shut", "the towers without gates, timm's Swin", pairs, tolerance=1e-6)
        ours.image_tower.gates[0].alpha_1.fill_(0.5)
        open_image, open_text = ours.states(begun, words, MASK)
    assert not torch.allclose(open_image, shut_image)
    assert torch.equal(ours.image_tower.finished(begun), pairs[2][0])
    assert torch.equal(open_text, shut_text), "text gates are shut, and the image gate opened after its last reading of the text"


def test_both_sides_read_what_the_other_was_before_the_block() -> None:
    """With one fused block and the gate of one side open, the other side is as if unfused."""
    image = FiberImageEncoder(image_size=32, width=8, depths=(1, 1), heads=(1, 2), drop_path=0.0, fused=1, text_width=16)
    text = FiberTextEncoder(vocab_size=40, length=12, width=16, layers=2, heads=2, dropout=0.0, image_widths=image.fused_widths)
    ours = Fiber(image, text, width=16).double().eval()
    randomised(ours)
    with torch.no_grad():
        begun, words = ours.image_features(picture()[..., :32, :32]), ours.text_features(IDS, MASK)
        before = ours.states(begun, words, MASK)
        image.gates[0].alpha_1.add_(1.0)
        after = ours.states(begun, words, MASK)
    assert not torch.allclose(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_a_gate_is_multi_head_attention(parity: Any) -> None:
    """Window by window as in a Swin block, every window on the whole text: `nn.MultiheadAttention` with copied weights."""
    torch.manual_seed(0)
    gate = GatedCrossAttention(8, 2, 12, normed=True).double()
    randomised(gate)
    theirs = nn.MultiheadAttention(8, 2, kdim=12, vdim=12, batch_first=True).double()
    with torch.no_grad():
        theirs.q_proj_weight.copy_(gate.query.weight)
        theirs.k_proj_weight.copy_(gate.key.weight)
        theirs.v_proj_weight.copy_(gate.value.weight)
        theirs.in_proj_bias.copy_(torch.cat([gate.query.bias, gate.key.bias, gate.value.bias]))
        theirs.out_proj.weight.copy_(gate.out.weight)
        theirs.out_proj.bias.copy_(gate.out.bias)
    map_BHWC, text_BLD = torch.randn(2, 4, 4, 8, dtype=torch.float64), torch.randn(2, 5, 12, dtype=torch.float64)
    mask_BL = torch.tensor([[True] * 5, [True, True, True, False, False]])
    windows = map_BHWC.view(2, 2, 2, 2, 2, 8).transpose(2, 3).reshape(8, 4, 8)  # four windows of two by two, image by image
    text, mask = text_BLD.repeat_interleave(4, 0), mask_BL.repeat_interleave(4, 0)
    by_window, _ = theirs(gate.norm(windows), text, text, key_padding_mask=~mask)
    whole = by_window.view(2, 2, 2, 2, 2, 8).transpose(2, 3).reshape(2, 16, 8)
    ours = gate.read(map_BHWC.flatten(1, 2), text_BLD, mask_BL)
    with gate.watching() as shares:
        watched = gate.read(map_BHWC.flatten(1, 2), text_BLD, mask_BL)
    _, weights = theirs(
        gate.norm(map_BHWC.flatten(1, 2)), text_BLD, text_BLD, key_padding_mask=~mask_BL, average_attn_weights=False
    )
    pairs = [(ours, whole), (watched, ours), (shares[0], weights), (gate(map_BHWC.flatten(1, 2), text_BLD), gate.alpha_1 * gate.read(
        map_BHWC.flatten(1, 2), text_BLD))]  # fmt: skip
    parity("fiber", "cross-attention of windows", "nn.MultiheadAttention", pairs, tolerance=1e-12)
    assert gate._watched is None


def test_the_paper_builds_with_its_parameter_count() -> None:
    """Swin-B and RoBERTa-base as timm and transformers count them, with gates, projections and heads beside them."""
    import timm
    import transformers

    with torch.device("meta"):
        ours = FIBER.paper().model().fiber
        swin = timm.create_model("swin_base_patch4_window12_384", num_classes=0)
        settings = transformers.RobertaConfig(vocab_size=49_408, max_position_embeddings=514, type_vocab_size=1)
        roberta = transformers.RobertaModel(settings, add_pooling_layer=False)

    def linear(source: int, target: int) -> int:
        return (source + 1) * target

    towers = sum(p.numel() for part in (swin, roberta) for p in part.parameters())
    towers += 768 * (1 - 2 - 1)  # a row for the mask; no positions of padding, no segment
    image = [2 * linear(c, c) + 2 * linear(768, c) + 2 * c + 1 for c in (512,) * 4 + (1024,) * 2]
    text = [2 * linear(768, 768) + 2 * linear(c, 768) + 1 for c in (512,) * 4 + (1024,) * 2]
    heads = 2 * (linear(1024, 768) + linear(768, 768)) + 4 * linear(768, 768) + linear(1536, 2)
    words = linear(768, 768) + 2 * 768 + linear(768, 49_409)
    assert sum(p.numel() for p in ours.parameters()) == towers + sum(image) + sum(text) + heads + words == 279_977_863
    paper = FIBER.paper()
    assert (paper.queue, paper.batch_size, paper.steps, paper.lr, paper.gate_scale) == (4096, 4096, 100_000, 1e-5, 5.0)
    assert FIBER.vqa().head_scale == 50.0
    assert FIBER.captions_gold().gold
    by_vectors, by_pairs = FIBER.retrieval(), FIBER.retrieval_fused()
    for kind, side, terms in ((by_vectors, 576, (1.0, 0.0, 0.0)), (by_pairs, 384, (0.0, 1.0, 0.0))):
        assert (kind.image_size, kind.batch_size, kind.epochs, kind.lr, kind.text_length) == (side, 1024, 10.0, 2e-5, 50)
        assert (kind.itc, kind.itm, kind.mlm, kind.head_scale, kind.augment) == (*terms, 5.0, "rand")
    assert [kind.measured_by for kind in (paper, by_pairs, FIBER.vqa(), FIBER.captions())] == [
        "retrieval:compare=vectors",
        "retrieval:compare=pairs",
        "vqa",
        "captions",
    ]


# ------------------------------------------------------------ training


def test_no_row_is_its_own_wrong_partner() -> None:
    """The contrast is sure of itself, so that nothing but the small number is left for the rest; the release then draws the partner."""
    logit_NN, own_NN = torch.eye(3, 7).repeat(400, 1) * 1000, torch.eye(3, 7, dtype=torch.bool).repeat(400, 1)
    torch.manual_seed(0)
    found_N = sample_columns(logit_NN, ~own_NN, floor=FLOOR)
    assert not own_NN[torch.arange(1200), found_N].any()
    assert set(found_N.tolist()) == set(range(7))
    shares_N = (logit_NN.softmax(1) * ~own_NN + FLOOR)[:1].expand(1000, -1)
    assert (torch.multinomial(shares_N, 1) == 0).any(), "the released order draws the partner, which is what the test is about"


@pytest.mark.parametrize(("partners", "likelier"), [("others", 0.88), ("all", 0.5)])
def test_alike_wrong_partners_are_drawn_more_often_however_sure_the_contrast_is(partners: Any, likelier: float) -> None:
    """The own pair leads by 40 and 42: 2 between the others are e^2 to 1, or, as released, nothing beside the small number."""
    torch.manual_seed(0)
    recipe = small().prepare(questions(24))
    model = replace(recipe, partners=partners, temperature=0.5).model()
    model.temperature_1.requires_grad_(False)
    side_ND = torch.tensor([[1.0, 0.0]]).expand(2000, 2)
    other_CD = torch.tensor([[21.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    may_NC = torch.tensor([[False, True, True]]).expand(2000, 3)
    partner_N = model._wrong(side_ND, other_CD[:2], other_CD[2:], may_NC)
    assert (partner_N > 0).all()
    assert (partner_N == 1).float().mean().item() == pytest.approx(likelier, abs=0.03)


def test_another_rule_draws_wrong_partners() -> None:
    """The least alike of those that may be drawn: a rule on plain tensors."""
    torch.manual_seed(0)
    recipe = small().prepare(questions(24))
    training = FiberTraining(
        recipe.model().fiber, queue=0, text_length=8, draw=lambda logit_NM, may_NM: logit_NM.masked_fill(~may_NM, 1e9).argmin(1)
    )
    side_ND, other_CD = torch.randn(5, 4), torch.randn(5, 4)
    may_NC = ~torch.eye(5, dtype=torch.bool)
    expected = [min((c for c in range(5) if c != n), key=lambda c, n=n: float(side_ND[n] @ other_CD[c])) for n in range(5)]
    assert training._wrong(side_ND, other_CD, other_CD[:0], may_NC).tolist() == expected


def test_an_image_side_has_the_mlp_ratio_that_it_is_given() -> None:
    image = FiberImageEncoder(image_size=32, width=8, depths=(1, 1), heads=(1, 2), fused=1, text_width=16, mlp_ratio=2.0)
    assert [block.mlp.fc1.out_features for stage in image.net.layers for block in stage.blocks] == [16, 32]
    again = FiberImageEncoder(**image.spec)
    assert {name: p.shape for name, p in again.named_parameters()} == {name: p.shape for name, p in image.named_parameters()}
    assert (
        FiberImageEncoder(image_size=32, width=8, depths=(1, 1), heads=(1, 2), fused=1)
        .net.layers[0]
        .blocks[0]
        .mlp.fc1.out_features
        == 32
    )


def test_wrong_partners_come_from_the_queue_with_their_inputs() -> None:
    torch.manual_seed(0)
    recipe = small().prepare(questions(24))
    model = recipe.model()
    (first, second) = batches(questions(24), recipe, seed=1, stop=2)
    features = recipe.features(model, first.batch)
    recipe.after_update(model, features, first.batch, 0.0)
    assert model.inputs is not None
    assert model.image_queue is not None
    assert len(model.image_queue) == 8
    assert torch.equal(model.inputs.image_QCHW[:8], first.batch.image_BCHW)
    place_N = torch.tensor([0, 8, 15, 3, 9, 1, 2, 4])
    images, (texts, masks) = model._images(place_N, second.batch.image_BCHW), model._texts(
        place_N, second.batch.text_BL, second.batch.text_mask_BL
    )  # fmt: skip
    assert torch.equal(images[1], first.batch.image_BCHW[0])
    assert torch.equal(images[2], first.batch.image_BCHW[7])
    assert torch.equal(texts[1], first.batch.text_BL[0])
    assert torch.equal(masks[3], second.batch.text_mask_BL[3])
    assert torch.equal(images[0], second.batch.image_BCHW[0])
    recipe.after_update(model, recipe.features(model, second.batch), second.batch, 0.5)
    assert torch.equal(model.inputs.image_QCHW[:4], second.batch.image_BCHW[4:]), "the ring of twelve wraps"
    held, group_K = model.image_queue.held()
    assert len(held) == 12
    assert torch.equal(group_K[8:], second.batch.group_B[:4])


def _remembered(rank: int, world: int) -> dict[str, Any]:
    """The queues after a step, of this process's share of the batch."""
    rows = questions(24)
    recipe = small(queue=20).prepare(rows)
    torch.manual_seed(0)
    model = recipe.model()
    (step,) = batches(rows, recipe, seed=1, stop=1)
    share = 8 // world
    batch = step.batch.rows(rank * share, (rank + 1) * share)
    recipe.after_update(model, recipe.features(model, batch), batch, 0.0)
    assert model.inputs is not None
    assert model.image_queue is not None
    assert model.text_queue is not None
    return {
        "image": model.image_queue.held()[0], "text": model.text_queue.held()[0], "group": model.image_queue.held()[1],
        "pixels": model.inputs.image_QCHW, "ids": model.inputs.text_QL, "mask": model.inputs.mask_QL,
    }  # fmt: skip


@pytest.mark.slow
def test_two_processes_remember_as_one(tmp_path: Path) -> None:
    whole, parts = _remembered(0, 1), on_two_processes(_remembered, tmp_path)
    for part in parts:
        for name, value in whole.items():
            torch.testing.assert_close(part[name], value, atol=1e-6, rtol=0)


def test_unfilled_places_are_left_out_unless_asked_for() -> None:
    torch.manual_seed(0)
    for unfilled, columns in (("left_out", 0), ("random", 12)):
        recipe = small(unfilled=unfilled).prepare(questions(24))
        (step,) = batches(questions(24), recipe, seed=1, stop=1)
        features = recipe.features(recipe.model(), step.batch)
        assert features.image_queue_KD.shape == (columns, 32)
        assert features.group_K.shape == (columns,)


def test_the_frozen_copy_is_renewed() -> None:
    recipe = small(caption=1.0, gold=True, gold_every=2).prepare(questions(24))
    torch.manual_seed(0)
    model = recipe.model()
    (step,) = batches(questions(24), recipe, seed=1, stop=1)
    assert model.old is not None
    kept = []
    for _ in range(3):
        with torch.no_grad():
            model.fiber.text.words.weight.add_(1.0)
        recipe.after_update(model, recipe.features(model, step.batch), step.batch, 0.0)
        kept.append(float(model.old["copy"].text.words.weight.detach().mean()))
    assert kept[0] == kept[1] != kept[2]
    assert kept[2] == pytest.approx(float(model.fiber.text.words.weight.detach().mean()))


def test_weights_of_words_equal_a_loop() -> None:
    rng = torch.Generator().manual_seed(0)
    logit, weight = torch.randn(3, 8, 40, generator=rng, dtype=torch.float64), []
    share = logit.softmax(-1)
    for row in range(3):
        length = int(MASK[row].sum())
        p = [float(share[row, t, IDS[row, t + 1]]) for t in range(length - 1)]
        weight += [max(p[t] * float(np.mean(p[t:])), 0.1) for t in range(length - 1)]
    found = gold_weights(logit, IDS, MASK)
    torch.testing.assert_close(found[MASK[:, 1:]], torch.tensor(weight, dtype=torch.float64))
    nll = F.cross_entropy(logit[:, :-1].flatten(0, 1), IDS[:, 1:].flatten(), reduction="none").view(3, -1) * found
    rows = [nll[row, : int(MASK[row].sum()) - 1].mean() for row in range(3)]
    torch.testing.assert_close(gold_caption_loss(logit, found, IDS, MASK), torch.stack(rows).mean())


def test_tables_of_relative_positions_are_resized_as_published() -> None:
    table = torch.randn(9, 4)
    other = torch.randn(1, 4)
    found = resized_tables({"a.relative_position_bias_table": table, "b.relative_position_bias_table": other, "c": other}, 3)
    plane = F.interpolate(table.T.reshape(1, 4, 3, 3), size=(5, 5), mode="bicubic")
    torch.testing.assert_close(found["a.relative_position_bias_table"], plane[0].permute(1, 2, 0).reshape(25, 4))
    assert found["b.relative_position_bias_table"] is other


def test_a_stop_changes_nothing(tmp_path: Path) -> None:
    rows, recipe = questions(24).to_pool(), small(caption=1.0, gold=True, gold_every=2, questions=1.0)
    whole = fit(recipe, rows, tmp_path / "whole", options=OPTIONS)
    stopped = stopped_and_resumed(recipe, rows, tmp_path / "two", OPTIONS, step=2)
    assert (whole.path / "model" / "model.safetensors").read_bytes() == (
        stopped.path / "model" / "model.safetensors"
    ).read_bytes()


def test_a_run_goes_on_with_questions_at_another_size(tmp_path: Path) -> None:
    rows = questions(24).to_pool()
    fit(small(), rows, tmp_path / "first", options=OPTIONS)
    made = small(itc=0.0, itm=0.0, mlm=0.0, questions=1.0, image_size=64, swin_window=8)
    before = load(tmp_path / "first")
    started = made.started(before)
    assert (started.swin_depths, started.image_size, started.tokenizer) == ((1, 2, 1), 64, "weights")
    found = replace(started, swin_window=8).prepare(rows)
    tensors = found.fitted(before.model.state_dict())
    own = found.model().state_dict()
    name = "fiber.image_tower.net.layers.0.blocks.0.attn.relative_position_bias_table"
    assert tensors[name].shape == own[name].shape == (225, 1)


def test_the_other_way_of_fusing_has_as_many_parameters_and_no_gates() -> None:
    recipe = small(fusion="top").prepare(questions(24))
    torch.manual_seed(0)
    model = recipe.model()
    (step,) = batches(questions(24), recipe, seed=1, stop=1)
    losses = recipe.losses(recipe.features(model, step.batch), step.batch)
    torch.stack(list(losses.values())).sum().backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert len(model.fiber.image_tower.gates) == 0
    assert model.fiber.top is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"itc": 0.0}, "itm is above 0 and itc is not"),
        ({"fusion": "top", "caption": 1.0}, "caption needs gates"),
        ({"gold": True}, "gold weighs captions"),
        ({"image_tower": "vit_tiny"}, "towers are vit_tiny"),
        ({"same_group": "positive"}, "same_group is 'positive'"),
        ({"itc": -1.0}, "weights of the terms"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**changes)


def test_training_module_is_what_the_recipe_says() -> None:
    recipe = small(itc=0.0, itm=0.0, mlm=0.0, questions=1.0).prepare(questions(24))
    model = recipe.model()
    assert isinstance(model, FiberTraining)
    assert model.image_queue is None
    assert model.fiber.fits is None
    (step,) = batches(questions(24), recipe, seed=1, stop=1)
    assert set(recipe.losses(recipe.features(model, step.batch), step.batch)) == {"questions"}


def test_as_released_each_word_is_hidden_by_its_own_chance_and_all_but_biases_and_norms_decays() -> None:
    counts = {}
    for masking in ("each", "share"):
        recipe = small(masking=masking, hidden=0.4, batch_size=24).prepare(questions(24))
        (step,) = batches(questions(24), recipe, seed=1, stop=1)
        words_B = step.batch.text_mask_BL.sum(1) - 2  # without the marks around a text
        asked_B = (step.batch.word_BM >= 0).sum(1)
        counts[masking] = [(int(words), int(asked)) for words, asked in zip(words_B, asked_B, strict=True)]
    of_length = [{asked for words, asked in pairs if words == counts["share"][0][0]} for pairs in counts.values()]
    assert [len(found) > 1 for found in of_length] == [True, False]
    paper = FIBER.paper()
    assert (paper.masking, paper.decay, paper.warmup_from) == ("each", "released", 0.0)
