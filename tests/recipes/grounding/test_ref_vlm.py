"""REF-VLM: its grammar, matching within phrases, decoders and region prompts against the release; training, use, and answers cut off."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from transformers.models.maskformer.modeling_maskformer import pair_wise_dice_loss, pair_wise_sigmoid_focal_loss

from diptych.api import load
from diptych.core.errors import ConfigError, DataError, ShapeError
from diptych.core.grounding import PhraseQuery
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region
from diptych.data.load.stream import batches
from diptych.data.media.square_frame import SquareFrame, region_mask
from diptych.data.text.prompts.layout import ImageSlots
from diptych.data.text.prompts.referring_turns import AnswerForm, draw_turn, referring_row
from diptych.data.text.prompts.triplets import (
    PHRASE,
    PHRASE_END,
    REFERENCE,
    UNIT,
    UNIT_END,
    PhraseTargets,
    PhraseTriplet,
    read_answer,
    reasoning_block,
    reference_groups,
    task_command,
    write_answer,
)
from diptych.data.text.tokenize import Tokenizer
from diptych.models.detection.backbone import detection_backbone
from diptych.models.referring.referring_bridge import ReferringBridge, ReferringFeatures
from diptych.models.referring.region_prompts import RegionPrompts
from diptych.models.referring.released import own_name, take_backbone_, take_ref_vlm_
from diptych.models.referring.target_decoders import DecoderSize, TargetBoxDecoder, TargetMaskDecoder
from diptych.objectives.boxes.boxes import cxcywh_from_xyxy
from diptych.objectives.boxes.grouped_targets import (
    assign_in_groups,
    box_losses,
    mask_losses,
    pairwise_dice,
    pairwise_mask_focal,
)
from diptych.recipes.grounding.ref_vlm import ReferringBatch, RefVLM, _with_marks
from diptych.worlds.scenes.world import scenes

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "ref_vlm_released.json").read_text())
RELEASE = "released code, REF-VLM at cdfecce"
DATA = scenes(12, seed=3, max_objects=5)
RECIPE = replace(
    RefVLM.tiny(), image_weights="", image_tower="vit_micro", image_size=64, small_steps=2, steps=8, batch_size=4,
    instruct_batch_size=4, text_length=400, max_tokens=12,
)  # fmt: skip
MARKS = (".", REFERENCE, UNIT, UNIT_END, PHRASE, PHRASE_END)
DOG = "I see <Phrase>dog</Phrase>(<Unit>box</Unit>[0]<REF>[1]<REF>) and <Phrase>cat</Phrase>(<Unit>box</Unit>[0]<REF>) here."


def decoding_stage() -> RefVLM:
    recipe = RECIPE.prepare(DATA).stages()[1].recipe
    assert isinstance(recipe, RefVLM)
    return recipe


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    value = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * 0.1
    value = np.abs(value) + 1 if name.endswith("weight") and len(shape) == 1 else value
    return torch.from_numpy(np.asarray(value))


def fill(module: torch.nn.Module, prefix: str, own: str, names: list[Any]) -> Any:
    """The module in double precision with the weights that the release was run with, by the name table."""
    module = module.double().eval()
    needed, done = module.state_dict(), set()
    for name, shape in names:
        if ours := own_name(prefix + name).removeprefix(own):
            needed[ours].copy_(filled(name, tuple(shape)))
            done.add(ours)
    assert done == needed.keys()
    return module


# ---------------------------------------------------------------- grammar


def test_answers_and_commands_are_the_released_ones(parity: Any) -> None:
    text = "I see dog and cat here."
    written = write_answer(text, [PhraseTargets(6, 9, 2), PhraseTargets(14, 17, 1)], "box")
    command = task_command("detection", ["phrase"], "box")
    plain = RELEASED["plain"][0]
    pairs = [
        (written, RELEASED["conversation"][0]["output"]),
        (command, RELEASED["conversation"][0]["system"]),
        (reasoning_block([], "") + "A dog.", plain["output"]),
        (task_command("vqa", ["sentence"]), plain["system"]),
    ]
    assert all(one == other for one, other in pairs)
    codes = [tuple(torch.tensor([ord(letter) for letter in side], dtype=torch.float64) for side in pair) for pair in pairs]
    parity("ref_vlm", "answers and commands", RELEASE, codes, tolerance=0)


def test_groups_are_the_released_ones(parity: Any) -> None:
    """Of whole, cut and senseless sequences; [0, 0] is a pair that is missing."""
    pairs = []
    for tokens, expected in RELEASED["groups"]:
        made = reference_groups([MARKS[int(token)] for token in tokens])
        rows = [[list(one.phrase or (0, 0)), list(one.unit or (0, 0)), list(one.references)] for one in made]
        assert rows == expected, tokens
        pairs.append((torch.tensor(float(len(rows))), torch.tensor(float(len(expected)))))
    parity("ref_vlm", "groups of references in 200 sequences", RELEASE, pairs, tolerance=0)


def test_what_was_written_is_read() -> None:
    read = read_answer(write_answer("I see dog and cat here.", [PhraseTargets(6, 9, 2), PhraseTargets(14, 17, 1)], "mask"))
    assert read.text == "I see dog and cat here."
    assert read.triplets == (PhraseTriplet("dog", "mask", (0, 1)), PhraseTriplet("cat", "mask", (2,)))
    assert read.problems == ()
    with pytest.raises(DataError, match="in order that do not overlap"):
        write_answer("a dog", [PhraseTargets(2, 9, 1)], "box")


@pytest.mark.parametrize(
    ("answer", "triplets", "problem"),
    [
        ("<Task>\nUnit decode (True). Class name, target un", 0, "cut off in the block"),
        (DOG[: DOG.index("</Phrase>")], 0, "1 of <Phrase> and 0 of </Phrase>"),
        (DOG[: DOG.index("[1]")], 1, ""),
        (DOG[: DOG.index("[0]")], 0, "the last unit has no reference"),
        (reasoning_block([("dog", 2), ("cat", 1)], "box") + DOG[: DOG.index("[1]")], 1, r"announces \[2, 1\] targets"),
        (DOG.replace("[1]", "[3]"), 2, "not numbered"),
        (DOG.replace("<Unit>box</Unit>", ""), 2, "without a unit"),
    ],
)
def test_an_answer_cut_in_the_middle_keeps_what_is_whole(answer: str, triplets: int, problem: str) -> None:
    read = read_answer(answer)
    assert len(read.triplets) == triplets
    if not problem:
        assert read.problems == ()
        return
    with pytest.raises(DataError, match=problem):
        read_answer(answer, strict=True)


def test_marks_go_to_a_vocabulary_of_the_model_alone() -> None:
    size = Tokenizer.from_spec("clip").vocab_size
    assert _with_marks("clip").vocab_size > size == Tokenizer.from_spec("clip").vocab_size


def test_a_prompt_row_has_slots_for_image_and_regions() -> None:
    row = referring_row("{image} {command}: {prompt}", "C", "is [VPT] left of [VPT]?", 4, 10)
    assert [piece.count if isinstance(piece, ImageSlots) else piece.text for piece in row] == [  # type: ignore[union-attr]
        4, " C: is ", 10, " left of ", 10, "?",
    ]  # fmt: skip


def test_turns_name_all_regions_of_a_phrase() -> None:
    sample, rng = DATA[0], np.random.default_rng(0)
    turn = draw_turn(sample, ["detection"], {"mask": 8}, AnswerForm(), rng)
    assert turn is not None
    named = [triplet.phrase for triplet in read_answer(turn.answer).triplets]
    assert {label: sorted(numbers) for label, numbers in zip(named, turn.targets, strict=True)} == {
        label: [n for n, region in enumerate(sample.regions) if region.label == label]
        for label in {r.label for r in sample.regions}
    }
    assert draw_turn(sample, ["detection"], {"box": 0}, AnswerForm(), rng) is None
    boxed = replace(sample, regions=tuple(replace(region, mask=None) for region in sample.regions))
    assert draw_turn(boxed, ["detection"], {"mask": 8}, AnswerForm(), rng) is None
    spoken = replace(boxed, extras={"grounding": [{"text": "a b", "phrases": [{"spans": [[2, 3]], "regions": [1, 0]}]}]})
    turn = draw_turn(spoken, ["caption"], {"box": 8}, AnswerForm(reasoning=False), rng)
    assert turn is not None
    assert turn.answer == "a <Phrase>b</Phrase>(<Unit>box</Unit>[0]<REF>[1]<REF>)"
    assert turn.targets == ((1, 0),)


# ---------------------------------------------------------------- matching and losses


def test_matching_is_that_of_the_full_matrix_with_walls(parity: Any) -> None:
    rng = torch.Generator().manual_seed(0)
    cost = torch.rand(6, 7, 7, generator=rng, dtype=torch.float64)
    group = torch.tensor([[0, 0, 0, 1, 1, 2, -1]]).repeat(6, 1)
    index = assign_in_groups(cost, group)
    walls = torch.where(group[:, :, None] == group[:, None], cost, cost + 1e6)
    for row in range(6):
        queries, targets = linear_sum_assignment(walls[row, :6, :6])
        assert index[row, targets].tolist() == queries.tolist()
        parts = [linear_sum_assignment(cost[row, a:b, a:b]) for a, b in ((0, 3), (3, 5), (5, 6))]
        apart = sum(float(cost[row, a:, a:][p].sum()) for (a, _), p in zip(((0, 3), (3, 5), (5, 6)), parts, strict=True))
        pair = (cost[row, index[row, :6], torch.arange(6)].sum(), torch.tensor(apart, dtype=torch.float64))
        parity("ref_vlm", f"cost of matching {row}", "scipy, one group at a time", [pair], tolerance=1e-9)
    assert index[:, 6].eq(6).all()
    whole = assign_in_groups(cost, group, matching="row")
    assert (cost.gather(1, whole[:, None])[..., :6].sum() < cost.gather(1, index[:, None])[..., :6].sum()).all()
    assert assign_in_groups(cost, group, matching="none").eq(torch.arange(7)).all()
    with pytest.raises(ShapeError, match=r"costs must be \[B, R, R\]"):
        assign_in_groups(cost[:, :5], group)


def test_costs_of_masks_are_those_of_maskformer(parity: Any) -> None:
    logit, truth = filled("logit", (1, 3, 4, 5)) * 9, (filled("truth", (1, 2, 4, 5)) > 0).double()
    pairs = [
        (pairwise_mask_focal(logit, truth)[0], pair_wise_sigmoid_focal_loss(logit[0].flatten(1), truth[0].flatten(1))),
        (pairwise_dice(logit, truth)[0], pair_wise_dice_loss(logit[0].flatten(1), truth[0].flatten(1))),
    ]
    parity("ref_vlm", "costs of masks", "MaskFormer of transformers", pairs, tolerance=1e-9)


# ---------------------------------------------------------------- parts


SIZE = DecoderSize(box_queries=5, mask_queries=5, width=16, heads=2, mlp_width=12, layers=2, dropout=0.0, mask_width=32)
MAPS = [filled("m0", (2, 4, 8, 8)), filled("m1", (2, 8, 4, 4)), filled("m2", (2, 9, 6)).mT.unflatten(2, (3, 3))]
OPEN = torch.tensor([[True] * 4, [True] * 3 + [False]])
STATE = filled("s", (2, 4, 6)) * 5
GROUP = torch.tensor([[0, 0, 0, 1], [0, 1, 1, -1]])


def padded(rows: list[Any], value: float = 0.0) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.float64) for row in rows], True, value)


def test_boxes_and_their_loss_are_the_released_ones(parity: Any) -> None:
    expected = RELEASED["box"]
    decoder = fill(TargetBoxDecoder((4, 8, 6), 6, SIZE), "visual_decoder.box.", "boxes.", expected["names"])
    box = decoder(MAPS, STATE, OPEN)
    theirs = torch.tensor(expected["boxes"], dtype=torch.float64)[:, :4]
    parity("ref_vlm", "boxes", RELEASE, [(box[OPEN], theirs[OPEN])], tolerance=1e-6)  # the release casts boxes to float32
    terms = box_losses(box, padded(expected["targets"]), GROUP)
    pairs = [(terms["l1"] / 5, expected["terms"]["loss_bbox"]), (terms["giou"] / 2, expected["terms"]["loss_giou"])]
    pairs.append((sum(terms.values(), torch.zeros(())), expected["loss"]))
    parity("ref_vlm", "box loss", RELEASE, [(one.detach(), torch.tensor(other).double()) for one, other in pairs], tolerance=1e-6)


def test_masks_and_their_loss_are_the_released_ones(parity: Any) -> None:
    expected = RELEASED["mask"]
    decoder = fill(TargetMaskDecoder((4, 8, 6), 6, SIZE), "visual_decoder.mask.", "masks.", expected["names"])
    logit = decoder([one.clone() for one in MAPS], STATE, OPEN)
    theirs = [torch.tensor(row, dtype=torch.float64) for row in expected["preds"]]
    pairs = [(logit[row, : len(one)].sigmoid().flatten(1), one) for row, one in enumerate(theirs)]
    parity("ref_vlm", "masks", RELEASE, pairs, tolerance=1e-6)
    truth = torch.zeros(2, 4, 12, 12)
    for row, masks in enumerate(expected["targets"]):
        truth[row, : len(masks)] = torch.tensor(masks)
    shown = torch.ones(2, 12, 12, dtype=torch.bool)
    shown[1, :3] = shown[1, 9:] = False
    terms = mask_losses(logit, truth, GROUP, shown)
    numbers = [(terms["focal"] / 20, expected["terms"]["loss_mask"]), (terms["dice"], expected["terms"]["loss_dice"])]
    numbers.append((sum(terms.values(), torch.zeros(())), expected["loss"]))
    parity("ref_vlm", "mask loss", RELEASE, [(a.detach(), torch.tensor(b).double()) for a, b in numbers], tolerance=1e-6)


def test_padding_is_read_unless_it_is_closed() -> None:
    decoder = TargetBoxDecoder((4, 8, 6), 6, replace(SIZE, open_padding=False)).double().eval()
    alone = decoder([one[1:] for one in MAPS], STATE[1:, :3], OPEN[1:, :3])
    torch.testing.assert_close(decoder(MAPS, STATE, OPEN)[1, :3], alone[0])
    other = decoder(MAPS, STATE.masked_fill(~OPEN[..., None], 7.0), OPEN)
    torch.testing.assert_close(other[1, :3], alone[0])
    with pytest.raises(ShapeError, match="6 references of a row for a decoder of 5"):
        decoder(MAPS, torch.zeros(2, 6, 6).double(), torch.ones(2, 6, dtype=torch.bool))


def region_weights(prompts: RegionPrompts) -> RegionPrompts:
    return fill(prompts, "vpt_encoder.model.", "regions.", RELEASED["regions"]["names"])  # type: ignore[no-any-return]


def test_region_bands_are_the_released_ones_and_the_grid_is_a_grid(parity: Any) -> None:
    feature, masks = filled("x", (2, 36, 5)), torch.tensor(RELEASED["regions"]["masks"])
    bands = region_weights(RegionPrompts(5, cells="bands"))(feature, masks)
    parity("ref_vlm", "region prompts", RELEASE, [(bands, torch.tensor(RELEASED["regions"]["out"]).double())], tolerance=1e-8)
    grid = region_weights(RegionPrompts(5))(feature, masks)
    weights = (torch.nn.functional.interpolate(masks.double(), size=(6, 6), mode="bilinear") > 0).double()
    weights /= weights.sum((2, 3), keepdim=True)
    position = filled("position_embedding.weight", (10, 5))
    for cell in range(9):
        rows, columns = (slice(2 * n, 2 * n + 2) for n in divmod(cell, 3))
        inner = weights[..., rows, columns].flatten(2) @ feature.unflatten(1, (6, 6))[:, rows, columns].flatten(1, 2)
        torch.testing.assert_close(grid[:, :, cell], inner + position[cell])
    torch.testing.assert_close(grid[:, :, 9], bands[:, :, 9])
    with pytest.raises(ShapeError, match="cannot be cut into 3 x 3"):
        RegionPrompts(5)(torch.zeros(1, 16, 5), torch.ones(1, 1, 4, 4))


def test_a_region_outside_the_picture_is_refused() -> None:
    assert region_mask((3, 4), 40, 60).sum() == sum((x - 3) ** 2 + (y - 4) ** 2 <= 100 for x in range(60) for y in range(40))
    assert region_mask((2, 3, 7, 9), 40, 60).sum() == 30
    outside: list[Any] = [(61, 3), (2, 3, 7, 41), (-1, 0, 5, 5), np.ones((60, 40)), np.zeros((40, 60)), (1, 2, 3)]
    for region in outside:
        with pytest.raises(DataError, match=r"outside the picture|pixels, 0 of them|a mask of"):
            region_mask(region, 40, 60)
    with pytest.raises(DataError, match="contains no pixel"):
        region_mask((5, 5, 5, 9), 40, 60)


@pytest.mark.parametrize("sides", [(40, 60), (60, 40)])
@pytest.mark.parametrize("resize", ["squash", "square"])
def test_boxes_and_masks_go_to_the_square_and_back(resize: Any, sides: tuple[int, int]) -> None:
    frame = SquareFrame(*sides, resize)
    box = np.array([[6.0, 10.0, 30.0, 20.0]], np.float32)
    if resize == "square":
        left, top = (0, 10) if sides == (40, 60) else (10, 0)
        np.testing.assert_allclose(frame.to_square(box)[0] * 60, [6 + left, 10 + top, 30 + left, 20 + top], atol=1e-4)
    np.testing.assert_allclose(frame.to_pixels(frame.to_square(box)), box, atol=1e-4)
    mask = region_mask(box[0], *sides)
    x0, y0, x1, y1 = (frame.to_square(box)[0] * 60).round().astype(int)
    shown = frame.mask_to_square(mask, 60)
    assert shown[y0:y1, x0:x1].all() and shown.sum() == (x1 - x0) * (y1 - y0)  # noqa: PT018
    assert (frame.mask_to_pixels(shown.astype(np.float32)) == mask).all()
    assert frame.shown(60).mean() == (1.0 if resize == "squash" else pytest.approx(2 / 3))


# ---------------------------------------------------------------- recipe


def test_stages_learn_and_cut_answers_lose_their_last_references() -> None:
    torch.manual_seed(0)
    recipe = RECIPE.prepare(DATA)
    first, second = (stage.recipe for stage in recipe.stages())
    assert isinstance(second, RefVLM)
    model = second.model()
    learned = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert learned == {"connector", "language", "regions", "backbone", "boxes", "masks"}
    assert {name.split(".")[0] for name, p in first.model().named_parameters() if p.requires_grad} == {"connector"}
    (step,) = batches(DATA, replace(second, tasks=("detection",)), seed=0, stop=1)
    batch = step.batch
    assert isinstance(batch, ReferringBatch)
    (marked,) = second.words().pieces(REFERENCE)
    assert torch.eq(batch.id_BL, marked).sum(1).tolist() == (batch.group_BR >= 0).sum(1).tolist()
    whole = second.features(model, batch)
    assert isinstance(whole, ReferringFeatures)
    assert torch.equal(whole.open_BR, batch.group_BR >= 0)
    last = max(int((row == marked).nonzero()[-1]) for row in batch.id_BL)
    cut = replace(
        batch, places=None, **{name: getattr(batch, name)[:, :last] for name in ("id_BL", "slot_BL", "mask_BL", "answer_BL")}
    )
    features = second.features(model, cut)
    assert isinstance(features, ReferringFeatures)
    assert features.open_BR.sum() == whole.open_BR.sum() - 1
    row = int((features.open_BR != whole.open_BR).nonzero()[0, 0])
    only = replace(whole, open_BR=features.open_BR)
    trimmed = replace(batch, group_BR=batch.group_BR.masked_fill(~features.open_BR, -1))
    torch.testing.assert_close(second.losses(only, batch)["box_l1"], second.losses(whole, trimmed)["box_l1"])
    assert int((trimmed.group_BR[row] >= 0).sum()) == int((batch.group_BR[row] >= 0).sum()) - 1


def test_states_are_read_at_the_reference() -> None:
    """A box changes with its own token's state and with that of tokens before it, and not with what follows."""
    torch.manual_seed(0)
    second = replace(decoding_stage(), tasks=("detection",), units=("box",))
    model = second.model().eval()
    assert isinstance(model, ReferringBridge)
    (step,) = batches(DATA, second, seed=0, stop=1)
    batch = step.batch
    assert isinstance(batch, ReferringBatch)
    with torch.no_grad():
        before = model.refer(batch.image_BCHW, batch.large_BCHW, batch.layout, 1, batch.region_BNHW, batch.given_BN)
        place = int((batch.id_BL[0] == model.reference_id).nonzero()[0])
        for shift, changes in ((-1, True), (1, False)):
            id_BL = batch.id_BL.clone()
            id_BL[0, place + shift] = 7
            layout = replace(batch, id_BL=id_BL).layout
            after = model.refer(batch.image_BCHW, batch.large_BCHW, layout, 1, batch.region_BNHW, batch.given_BN)
            assert torch.allclose(before.box_BR4[0, 0], after.box_BR4[0, 0], atol=1e-7) != changes


def test_a_score_is_the_probability_that_a_reference_was_written_with() -> None:
    torch.manual_seed(0)
    second = replace(decoding_stage(), tasks=("detection",), units=("box",))
    model = second.model().eval()
    assert isinstance(model, ReferringBridge)
    (step,) = batches(DATA, second, seed=0, stop=1)
    batch = step.batch
    assert isinstance(batch, ReferringBatch)
    layout = replace(batch, answer_BL=batch.id_BL == model.reference_id, places=None).layout
    with torch.no_grad():
        made = model.refer(batch.image_BCHW, batch.large_BCHW, layout, batch.group_BR.shape[1])
    log_BR = made.chance_BR.log().masked_fill(~made.open_BR, 0)
    torch.testing.assert_close(-log_BR.sum(1), made.nll_B)


def test_targets_are_learned_by_the_decoder_of_their_unit() -> None:
    """Boxes weigh a half, masks a half; rows of masks have no loss of boxes, and the other way round."""
    torch.manual_seed(0)
    second = replace(decoding_stage(), tasks=("detection",), units=("mask",))
    (step,) = batches(DATA, second, seed=0, stop=1)
    batch = step.batch
    assert isinstance(batch, ReferringBatch)
    model = second.model().eval()
    with torch.no_grad():
        features = second.features(model, batch)
        assert isinstance(features, ReferringFeatures)
        assert features.mask_BRHW is not None
        for masked in (True, False):
            losses = second.losses(features, replace(batch, masked_B=torch.full_like(batch.masked_B, masked)))
            boxes = box_losses(features.box_BR4, batch.box_BR4, batch.group_BR)
            masks = mask_losses(features.mask_BRHW, batch.mask_BRXY, batch.group_BR, batch.shown_BXY)
            for name, term in boxes.items():
                torch.testing.assert_close(losses[f"box_{name}"], term * 0 if masked else 0.5 * term)
            for name, term in masks.items():
                torch.testing.assert_close(losses[f"mask_{name}"], 0.5 * term if masked else term * 0)


def test_regions_change_the_rows_that_have_them() -> None:
    torch.manual_seed(0)
    second = replace(decoding_stage(), tasks=("region", "detection"))
    model = second.model().eval()
    assert isinstance(model, ReferringBridge)
    (step,) = batches(DATA, replace(second, batch_size=12), seed=0, stop=1)
    batch = step.batch
    assert isinstance(batch, ReferringBatch)
    asked = batch.given_BN.any(1)
    assert asked.any()
    assert not asked.all()
    with torch.no_grad():
        own, other = (
            model.refer(batch.image_BCHW, batch.large_BCHW, batch.layout, 1, region, batch.given_BN).nll_B
            for region in (batch.region_BNHW, batch.region_BNHW.flip(-1))
        )
    torch.testing.assert_close(own[~asked], other[~asked])
    assert (own[asked] - other[asked]).abs().max() > 1e-4


def test_a_model_answers_grounds_and_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    second = decoding_stage()
    model: Any = second.deploy(second.model().eval())
    images = [DATA[row].image for row in (0, 1)]
    box_4 = torch.tensor([0.5, 0.5, 0.5, 0.25])
    model.bridge.boxes.forward = lambda maps, state, there: box_4.expand(*there.shape, 4)
    written = iter(["circle<Phrase>circle</Phrase>(<Unit>mask</Unit>[0]<REF>[1]<REF>)", "nothing"] * 9)
    model.bridge.language.write = lambda *a, **k: [next(written) for _ in range(len(a[0]))]
    graphs = model.detect(images, objects=["circle"], unit="mask", threshold=-1.0)
    assert [[region.box for region in graph.regions] for graph in graphs] == [[(16, 24, 48, 40)] * 2, []]
    answer, other = model.refer(images, [model.form.detection(["circle"], "mask")] * 2)
    assert answer.box_R4.shape == (2, 4) and other.box_R4.shape == (0, 4)  # noqa: PT018
    assert [mask.shape for mask in answer.masks if mask is not None] == [(64, 64)] * 2
    assert [row[0].box_N4.shape[0] for row in model.ground(images, [PhraseQuery.of(["a circle"])] * 2)] == [2, 0]
    (told,) = model.refer(images[:1], [model.form.region()], regions=[[(3, 4, 20, 30)]])
    assert told.written
    with pytest.raises(DataError, match="outside the picture"):
        model.refer(images[:1], [model.form.region()], regions=[[(3, 4, 20, 300)]])
    with pytest.raises(ConfigError, match=r"0 regions for 1 \[VPT\]"):
        model.refer(images[:1], [model.form.region()])
    with pytest.raises(ConfigError, match="does not predict relations"):
        model.detect(images, objects=["circle"], relations=["above"])
    del model.bridge.language.write, model.bridge.boxes.forward
    model.save(tmp_path / "model")
    again: Any = load(tmp_path / "model")
    assert again.fingerprint == model.fingerprint
    assert again.generate(images, ["", ""], max_tokens=3) == model.generate(images, ["", ""], max_tokens=3)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="targets would be cut off"):
        replace(RefVLM.tiny(), resize="crop")
    with pytest.raises(ConfigError, match="expected some of detection"):
        replace(RefVLM.tiny(), tasks=("depth",))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="weights_from is 'hf:llava'"):
        replace(RefVLM.tiny(), weights_from="hf:llava")
    with pytest.raises(ConfigError, match="conv_tiny does not learn and has no weights"):
        replace(RECIPE, backbone_trained=False).prepare(DATA)
    with pytest.raises(ConfigError, match="a multiple of 32"):
        DecoderSize(mask_width=48)
    sample = Sample("a", DATA[0].image, regions=(Region((0, 0, 5, 5), "dot"),))
    recipe = replace(RECIPE, instruct=True, tasks=("caption",))
    with pytest.raises(DataError, match="sample 'a' has no annotation for a question"):
        recipe.load(sample, np.random.default_rng(0))


# ---------------------------------------------------------------- published sizes and names


def released_names() -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint of the second stage, written down from the release: Vicuna-7B with ten more words."""
    names: dict[str, tuple[int, ...]] = {"llm.model.embed_tokens.weight": (32010, 4096), "llm.lm_head.weight": (32010, 4096)}
    names["llm.model.norm.weight"] = (4096,)
    for layer in range(32):
        start = f"llm.model.layers.{layer}."
        names |= {f"{start}self_attn.{part}_proj.weight": (4096, 4096) for part in "qkvo"}
        names |= {f"{start}mlp.{part}_proj.weight": (11008, 4096) for part in ("gate", "up")}
        names |= {f"{start}mlp.down_proj.weight": (4096, 11008)}
        names |= {f"{start}{norm}_layernorm.weight": (4096,) for norm in ("input", "post_attention")}
    linear: dict[str, tuple[int, ...]] = {"projector.model.0": (4096, 1024), "projector.model.2": (4096, 4096)}
    linear["vpt_encoder.model.mask_embedding"] = (1024, 1)
    names["vpt_encoder.model.position_embedding.weight"] = (10, 1024)
    for kind, decoder, queries in (("box", "decoder", 100), ("mask", "query_decoder", 30)):
        start = f"visual_decoder.{kind}."
        names[f"{start}query_position_embeddings.weight"] = (queries, 256)
        linear[f"{start}in_proj_queries"] = (256, 4096)
        for layer in range(6):
            inner = f"{start}{decoder}.layers.{layer}."
            linear |= {
                f"{inner}{a}.{part}_proj": (256, 256) for a in ("self_attn", "encoder_attn") for part in ("k", "v", "q", "out")
            }
            linear |= {f"{inner}fc1": (2048, 256), f"{inner}fc2": (256, 2048)}
            linear |= {f"{inner}{norm}_layer_norm": (256,) for norm in ("self_attn", "encoder_attn", "final")}
        linear[f"{start}{decoder}.layernorm"] = (256,)
    linear["visual_decoder.box.in_proj_visual_feats"] = (256, 192 + 384 + 768 + 1024)
    linear |= {f"visual_decoder.box.predictor.layers.{n}": (4 if n == 2 else 256, 256) for n in range(3)}
    linear |= {f"visual_decoder.mask.mask_embedder.{n}.0": (256, 256) for n in range(3)}
    linear["visual_decoder.mask.in_proj_visual_feats"] = (256, 1024, 1, 1)
    names["visual_decoder.mask.queries_embedder.weight"] = (30, 256)
    pixels = "visual_decoder.mask.pixel_decoder."
    linear[f"{pixels}mask_projection"] = (256, 256, 3, 3)
    names[f"{pixels}fpn.stem.0.weight"] = (256, 1024, 3, 3)
    linear[f"{pixels}fpn.stem.1"] = (256,)
    for number, width in enumerate((768, 384, 192)):
        names[f"{pixels}fpn.layers.{number}.proj.0.weight"] = (256, width, 1, 1)
        names[f"{pixels}fpn.layers.{number}.block.0.weight"] = (256, 256, 3, 3)
        linear |= {f"{pixels}fpn.layers.{number}.{part}.1": (256,) for part in ("proj", "block")}
    for name, shape in linear.items():
        names |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return names


def test_the_published_sizes_take_every_released_tensor(parity: Any, tmp_path: Path) -> None:
    folder = tmp_path / "vicuna"
    folder.mkdir()
    config = {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096, "tie_word_embeddings": False,
    }  # fmt: skip
    from diptych.models.bridges.language_model import LanguageModel
    from diptych.models.referring.referring_model import ReferringShape

    recipe = RefVLM.paper()
    steps = [(one.recipe.batch_size, one.recipe.rows_a_mean) for one in recipe.stages()]
    assert steps == [(8 * 32, 32), (8 * 15, 15)], "batch_size of xtuner is a process's, and the released commands start eight"
    shape = ReferringShape({"kind": "mlp"}, {}, {"name": recipe.backbone, "strides": (4, 8, 16)}, recipe.decoders, True, 32009)
    with torch.device("meta"):
        language = LanguageModel(config={**config, "vocab_size": 32010})
        bridge = shape.build(recipe._fresh_encoder(), language)
    own = {name: tuple(p.shape) for name, p in bridge.state_dict().items() if not name.startswith(("encoder.", "backbone."))}
    made = {own_name(name): shape for name, shape in released_names().items() if own_name(name)}
    assert made == own
    trained = sum(p.numel() for part in (bridge.boxes, bridge.masks, bridge.regions) if part for p in part.parameters())
    counted = sum(int(np.prod(s)) for n, s in released_names().items() if n.startswith(("visual_decoder.", "vpt_"))) - 30 * 256
    parity(
        "ref_vlm",
        "parameters of decoders and regions",
        "names of the release",
        [(torch.tensor(float(trained)), torch.tensor(float(counted)))],
        tolerance=0,
    )
    assert bridge.backbone.channels == (192, 384, 768)
    with pytest.raises(DataError, match=r"tensor visual_decoder\.pose\.x is unknown"):
        own_name("visual_decoder.pose.x")


def test_released_weights_are_taken_whole(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from diptych.models.referring.released import PARTS

    torch.manual_seed(0)
    second = decoding_stage()
    model = second.model()
    assert isinstance(model, ReferringBridge)

    def theirs(name: str) -> str:
        begins = next((their, our) for their, our in PARTS.items() if name.startswith(our))
        return begins[0] + name.removeprefix(begins[1])

    weights = {
        theirs(name): torch.randn_like(p)
        for name, p in model.state_dict().items()
        if not name.startswith(("encoder.", "backbone."))
    }
    save_file(weights, tmp_path / "stage2.safetensors")
    take_ref_vlm_(model, f"hf:{tmp_path / 'stage2.safetensors'}")
    assert all(torch.equal(model.state_dict()[own_name(name)], value) for name, value in weights.items())
    weights.pop("projector.model.2.bias")
    save_file(weights, tmp_path / "cut.safetensors")
    with pytest.raises(DataError, match=r"tensor connector.linear_2.bias is missing"):
        take_ref_vlm_(model, f"hf:{tmp_path / 'cut.safetensors'}")


def test_boxes_are_centre_and_sides() -> None:
    torch.testing.assert_close(cxcywh_from_xyxy(torch.tensor([0.1, 0.2, 0.5, 0.4])), torch.tensor([0.3, 0.3, 0.4, 0.2]))


@pytest.mark.parametrize("prefix", ["", "visual.trunk."])
def test_a_backbone_starts_from_a_whole_network(prefix: str, tmp_path: Path) -> None:
    """With the weights the pyramid's maps are those of the network's own stages."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    whole = timm.create_model("convnext_atto", pretrained=False).eval()
    tensors = {prefix + name: torch.randn_like(tensor) * 0.1 for name, tensor in whole.state_dict().items()}
    whole.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    save_file(tensors, tmp_path / "clip.safetensors")
    pyramid = detection_backbone("timm:convnext_atto", strides=(4, 8, 16)).eval()
    take_backbone_(pyramid, str(tmp_path / "clip.safetensors"))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        x = whole.stem(image)
        for stage, made in zip(whole.stages, pyramid(image), strict=False):
            x = stage(x)
            torch.testing.assert_close(made, x)
    tensors.pop(f"{prefix}stem.0.bias")
    save_file(tensors, tmp_path / "cut.safetensors")
    with pytest.raises(DataError, match=r"tensor stem_0\.bias is missing"):
        take_backbone_(pyramid, str(tmp_path / "cut.safetensors"))


def test_pictures_are_shown_to_their_edges() -> None:
    """A target may lie where an image encoder with a margin cuts; the frame of boxes has none."""
    recipe = replace(RECIPE, instruct=True)
    cut = replace(recipe.preprocess, margin=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RefVLM, "_trained", lambda self: (None, cut))
        assert replace(recipe, image_weights="clip").preprocess.margin == 0


def test_a_picture_without_a_pixel_in_the_square_has_a_loss() -> None:
    """So narrow a picture that nothing of it is left when it is resized."""
    shown = torch.from_numpy(SquareFrame(1, 400, "square").shown(32))[None]
    assert not shown.any()
    logit = torch.randn(1, 1, 8, 8, requires_grad=True)
    terms = mask_losses(logit, torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, dtype=torch.long), shown)
    sum(terms.values(), torch.zeros(())).backward()
    assert logit.grad is not None
    assert logit.grad.isfinite().all()
