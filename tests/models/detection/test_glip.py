"""GLIP's detector, whose maps and text meet in the dynamic head: the released numbers on waves for weights, and the published layout."""

from __future__ import annotations

import json
import math
import re
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import Tensor

from diptych.core.errors import ConfigError, DataError, ShapeError
from diptych.data.graphs.grounded import DenseRegions, TokenTargets, moved_anchors
from diptych.models.detection.backbone import detection_backbone
from diptych.models.detection.dense.dense_detector import DenseDetector, top_phrase_boxes
from diptych.models.detection.dense.dense_grounding import DenseHead, DenseHeadConfig
from diptych.models.detection.frozen_stages import freeze_stages
from diptych.models.detection.token_head import phrase_scores
from diptych.models.glip.opened import MODEL
from diptych.models.glip.released import from_glip, is_glip
from diptych.models.towers.towers import text_tower
from diptych.objectives.boxes.boxes import cxcywh_from_xyxy
from diptych.objectives.boxes.dense_tokens import DenseTokenLoss
from diptych.recipes.grounding.desco import DesCo
from diptych.train.optimise import build_optimiser

FIXTURES = Path(__file__).parents[1] / "fixtures"
RELEASED = json.loads((FIXTURES / "glip_released.json").read_text())
SOURCE = "liunian-harold-li/DesCo 13b7793, SwinTransformer, FPN, BertEncoder, VLDyHeadModule"
SIZES = {"embed_dim": 16, "depths": [1, 2, 2, 1], "num_heads": [1, 2, 4, 8], "window_size": 4}
SHAPE = DenseHeadConfig(
    head_width=16, rounds=2, head_groups=4, meeting_width=32, meeting_heads=4, word_heads=4, word_mlp=96, meeting_dropout=0.0,
    drop_block=0.0,
)  # fmt: skip
TEXT = {
    "model_type": "bert", "vocab_size": 40, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
    "max_position_embeddings": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def layout() -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released checkpoint."""
    found: dict[str, tuple[int, ...]] = {}
    for line in (FIXTURES / "glip_release_names.txt").read_text().splitlines():
        name, shape, places = line.split()
        size = () if shape == "-" else tuple(map(int, shape.split("x")))
        for place in places.split(","):
            found[name.replace("*", place)] = size
    return found


def wave(name: str, shape: tuple[int, ...]) -> Tensor:
    count = math.prod(shape)
    phase = zlib.crc32(name.encode()) % 1000
    wave_X = torch.sin(torch.arange(count, dtype=torch.float64) * 0.7 + phase).view(shape)
    if "gamma_" in name:
        return 0.6 + 0.2 * wave_X
    if "projection_text.weight" in name:
        return wave_X
    if len(shape) > 1:
        return wave_X * 1.5 * (count / shape[0]) ** -0.5
    return wave_X * 0.1 + (1.0 if name.endswith(("scale", "weight")) else 0.0)


def small_shape(name: str, full: tuple[int, ...]) -> tuple[int, ...]:
    """Of a tensor at the sizes of `SIZES`, `SHAPE` and `TEXT`."""
    if "relative_position_bias_table" in name:
        return (49, full[1] // 3)
    if name.startswith("backbone.body."):
        return tuple(size // 6 if size >= 96 else size for size in full)
    if name.startswith("backbone.fpn."):
        return tuple({256: 16, 192: 32, 384: 64, 768: 128}.get(size, size) for size in full)
    if name.startswith("language_backbone."):
        return tuple({30522: 40, 512: 32, 768: 48, 3072: 96}.get(size, size) for size in full)
    return tuple({256: 16, 64: 4, 1024: 64, 768: 48, 2048: 32, 3072: 96}.get(size, size) for size in full)


def small_released(*, met: bool = True) -> dict[str, Tensor]:
    """The released layout at small sizes; `met` False: as of GLIP-T (A), whose head is of rounds alone."""
    found = {}
    for name, full in layout().items():
        place = [int(part) for part in name.split(".") if part.isdigit()]
        deep = ".layers." in name and "blocks" in name and place[1] >= SIZES["depths"][place[0]]  # type: ignore[index]
        if deep or ("encoder.layer." in name and place[0] >= 2) or ("dyhead_tower" in name and place[0] >= 6):
            continue
        if name.endswith("relative_position_index") or "cell_anchors" in name or "cls_logits" in name:
            found[name] = torch.zeros(1)
        elif met or "dyhead_tower" not in name:
            found[name] = wave(name, small_shape(name, full))
        elif place[0] % 3 == 2:
            alone = name.replace(f"dyhead_tower.{place[0]}.", f"dyhead_tower.{place[0] // 3}.")
            found[alone] = wave(alone, small_shape(name, full))
    return found


@cache
def detector(*, met: bool = True) -> DenseDetector:
    backbone = detection_backbone("timm:swin_tiny_patch4_window7_224", sizes=SIZES)
    text = text_tower("hf", config=TEXT, pooling="cls", length=32)
    shape = SHAPE if met else DenseHeadConfig(head_width=16, rounds=2, head_groups=4, drop_block=0.0)
    made = DenseDetector(backbone, text, shape).double().eval()
    made.load_state_dict(from_glip(small_released(met=met)))
    return made


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    image = torch.sin(torch.arange(2 * 3 * 64 * 96).double() * 0.37).view(2, 3, 64, 96)
    ids = (torch.arange(12).view(2, 6) * 7) % 36 + 4
    mask = torch.ones(2, 6, dtype=torch.bool)
    ids[1, 4:], mask[1, 4:] = 0, False
    return image.flip(1), ids, mask


def pixels() -> Tensor:
    """Pictures of 64 x 96 and 56 x 80 (height and width) in one batch."""
    found = torch.ones(2, 64, 96, dtype=torch.bool)
    found[1, 56:], found[1, :, 80:] = False, False
    return found


def true_boxes(size_B2: Tensor) -> TokenTargets:
    boxes = torch.tensor(
        [[[3, 5, 40, 50], [30, 10, 90, 60], [60, 2, 70, 12]], [[10, 8, 60, 40], [0, 0, 0, 0], [0, 0, 0, 0]]]
    ).double()
    positive = torch.zeros(2, 3, 6, dtype=torch.bool)
    positive[0, 0, 1] = positive[0, 1, 2] = positive[0, 1, 3] = positive[0, 2, 2] = positive[1, 0, 1] = True
    valid = torch.tensor([[True, True, True], [True, False, False]])
    return TokenTargets(cxcywh_from_xyxy(boxes / size_B2.flip(1).repeat(1, 2)[:, None]), positive, valid)


def wanted(name: str) -> Tensor:
    return torch.tensor(RELEASED[name], dtype=torch.float64)


@torch.no_grad()
def test_tokens_boxes_centres_and_logits_are_the_released_ones(parity: Any) -> None:
    made, (image, ids, mask) = detector(), inputs()
    found = made(image, ids, mask)
    tokens = made.head.met(made.backbone(image), made.text(ids, mask).tokens_BPD, mask)[1]
    parity("desco", "GLIP's detector: tokens, boxes, centres, logits", SOURCE, [
        (tokens[:, :4, ::7].flatten(), wanted("tokens")),
        (found.change_BA4[:, ::9].flatten(), wanted("change")),
        (found.centre_BA[:, ::5].flatten(), wanted("centre")),
        (found.token_logit_BAL[:, ::9, :4].flatten(), wanted("logit")),
    ], tolerance=1e-9)  # fmt: skip
    assert found.counts == (96, 24, 6, 2, 1)
    other = made(image, ids.roll(1, 0), mask.roll(1, 0))
    assert (found.change_BA4 - other.change_BA4).abs().max() > 0.01  # boxes depend on what is asked


@torch.no_grad()
def test_where_they_meet_in_the_token_head_alone_it_is_the_released_one(parity: Any) -> None:
    made, (image, ids, mask) = detector(met=False), inputs()
    found = made(image, ids, mask)
    parity("desco", "GLIP-T (A)'s detector: boxes, logits", SOURCE, [
        (found.change_BA4[:, ::19].flatten(), wanted("apart_change")),
        (found.token_logit_BAL[:, ::19, :4].flatten(), wanted("apart_logit")),
    ], tolerance=1e-9)  # fmt: skip


def test_losses_and_gradients_are_the_released_ones(parity: Any) -> None:
    made, (image, ids, mask) = detector(), inputs()
    found: DenseRegions = made(image, ids, mask, pixel_BHW=pixels())
    targets = true_boxes(found.size_B2)
    losses, _ = DenseTokenLoss()(found, targets)
    made.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    own = {name: parameter.grad for name, parameter in made.named_parameters() if parameter.grad is not None}
    pairs = [(losses[name].detach(), torch.tensor(RELEASED["losses"][name], dtype=torch.float64)) for name in losses]
    for name, values in RELEASED["gradients"].items():
        gradient_N = of_released(name, own)
        step = max(1, len(gradient_N) // 6)
        pairs.append((gradient_N[::step][:6], torch.tensor(values, dtype=torch.float64)))
    parity("desco", "GLIP's detector: losses and gradients", SOURCE, pairs, tolerance=1e-7)
    last, _ = DenseTokenLoss(nothing=6)(found, targets)  # a text of as many tokens as are read: its last one means "no object"
    assert float(last["tokens"].detach()) == pytest.approx(RELEASED["losses_last_token"]["tokens"], abs=1e-7)
    assert float(last["tokens"].detach()) > float(losses["tokens"].detach()) + 0.01


def of_released(name: str, ours: dict[str, Tensor]) -> Tensor:
    """The numbers of `ours` that lie where those of the released tensor would, in its order."""
    marked = {key: torch.zeros_like(tensor) for key, tensor in small_released().items()}
    marked[name] = torch.arange(1.0, marked[name].numel() + 1).view(marked[name].shape)
    ((key, place),) = [(key, tensor.flatten()) for key, tensor in from_glip(marked).items() if tensor.any()]
    inside = place > 0
    return ours[key].flatten()[inside][place[inside].argsort()]


@torch.no_grad()
def test_boxes_that_are_kept_are_the_released_ones(parity: Any) -> None:
    made, (image, ids, mask) = detector(), inputs()
    found = made(image, ids, mask)
    positive = torch.zeros(2, 6, dtype=torch.bool)
    positive[0, 1] = positive[1, 2] = positive[1, 3] = True
    pairs = []
    for row, size in enumerate(((64, 96), (56, 80))):
        score = phrase_scores(found.token_logit_BAL[row] + 2, positive)
        box = moved_anchors(found.anchor_A4, found.change_BA4[row])
        kept = top_phrase_boxes(score, found.centre_BA[row].sigmoid(), box, found.counts, size, SHAPE)
        rows = [
            [*box, number, phrase + 1]
            for phrase, (boxes, scores) in enumerate(kept)
            for box, number in zip((boxes - torch.tensor([0, 0, 1, 1])).tolist(), scores.tolist(), strict=True)
        ]
        assert len(rows) == RELEASED["found_count"][row]
        rows.sort(key=lambda each: -each[4])
        pairs.append((torch.tensor(rows[:12], dtype=torch.float64), torch.tensor(RELEASED["found"][row], dtype=torch.float64)))
    parity("desco", "GLIP's detector: boxes that are kept", SOURCE, pairs, tolerance=1e-5)


def grown() -> tuple[Any, Any]:
    """The first meeting and layer among words, with weights so large that numbers are kept within bounds."""
    found = from_glip(small_released())
    for name, tensor in found.items():
        if "meetings.0." in name and name.endswith("_score.weight"):
            tensor *= 900
        if name == "head.tower.words.0.attention.qkv.weight":
            tensor[:96] *= 900
        if name == "head.tower.words.0.mlp_in.weight":
            tensor *= 1e5
        if name == "head.tower.words.0.norm_2.weight":
            tensor *= 6e4
    backbone, text = (
        detection_backbone("timm:swin_tiny_patch4_window7_224", sizes=SIZES),
        text_tower("hf", config=TEXT, pooling="cls", length=32),
    )
    made = DenseDetector(backbone, text, SHAPE).double().eval()
    made.load_state_dict(found)
    tower: Any = made.head.tower
    return tower.meetings[0], tower.words[0]


def test_large_numbers_are_kept_within_the_released_bounds(parity: Any) -> None:
    meet, among = grown()
    maps = [torch.sin(torch.arange(2 * 16 * s * s).double() * 0.31 + s).view(2, 16, s, s) for s in (4, 2, 1, 1, 1)]
    token = torch.cos(torch.arange(2 * 6 * 48).double() * 0.23).view(2, 6, 48).requires_grad_()
    mask = inputs()[2]
    with torch.no_grad():
        place, met = meet(torch.cat([each.flatten(2).mT for each in maps], 1), token, label_mask_BT=mask)
    words = among(token, mask)
    (gradient,) = torch.autograd.grad(words.square().sum() / 1e9, token)
    parity("desco", "GLIP's bounds of 50,000: a meeting and a layer among words", SOURCE, [
        (place.mT[:, ::5].flatten(), wanted("clamped_maps")),
        (met[:, :, ::11].flatten(), wanted("clamped_met")),
        (words.detach()[:, :, ::11].flatten() / 50_000, wanted("clamped_words") / 50_000),
        (gradient[:, ::2, ::13].flatten(), wanted("clamped_gradient")),
    ], tolerance=1e-8)  # fmt: skip
    assert float(words.detach().abs().max()) == 50_000
    meet.limit = among.limit = None
    with torch.no_grad():
        assert (meet(torch.cat([each.flatten(2).mT for each in maps], 1), token, label_mask_BT=mask)[1] - met).abs().max() > 0.01
        assert among(token, mask).abs().max() > 50_000


@torch.no_grad()
def test_squares_that_go_from_finer_maps_are_the_released_ones(parity: Any) -> None:
    shape = DenseHeadConfig(head_width=16, rounds=2, head_groups=4, meeting_width=32, meeting_heads=4, word_heads=4, word_mlp=96)
    backbone, text = detector().backbone, detector().text
    made = DenseDetector(backbone, text, shape).double()
    made.load_state_dict(from_glip(small_released()))
    maps = {
        str(n): torch.sin(torch.arange(2 * c * h * w).double() * 0.31 + h).view(2, c, h, w)
        for n, (c, h, w) in enumerate(((32, 8, 12), (64, 4, 6), (128, 2, 3)))
    }
    made.head.train()
    torch.manual_seed(3)
    found = made.head.pyramid(maps)
    parity("desco", "the pyramid in training: DropBlock from seed 3", SOURCE, [
        (each[:, ::7, ::2, ::3].flatten(), torch.tensor(values, dtype=torch.float64))
        for each, values in zip(found.values(), RELEASED["dropped"], strict=True)
    ], tolerance=1e-9)  # fmt: skip
    made.head.eval()
    whole = made.head.pyramid(maps)
    assert [bool(torch.equal(found[name], whole[name])) for name in found] == [False, False, True, True, True]


def published() -> dict[str, Tensor]:
    """The tensors of a released checkpoint, without their numbers."""
    return {name: torch.empty(shape, device="meta") for name, shape in layout().items()}


def test_the_published_configuration_has_a_place_for_every_released_tensor() -> None:
    """745 tensors; 231.8 million parameters, of which 80 classes of 256 channels answer no words."""
    recipe = DesCo.glip_tiny()
    assert (recipe.batch_size, recipe.steps, recipe.lr, recipe.lr * recipe.rates.text_lr, recipe.frozen) == (
        64,
        330_000,
        1e-4,
        1e-5,
        0,
    )
    with torch.device("meta"):
        model: Any = recipe.model()
    released = published()
    assert len(released) == 745
    assert is_glip(released)
    assert is_glip({f"module.{name}": tensor for name, tensor in released.items()})
    found = dict(recipe.fitted(released))
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == own
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert parts["text"] == 108_891_648
    pyramid = sum(p.numel() for p in model.head.pyramid.parameters())
    assert parts["backbone"] + pyramid == 30_815_738
    assert parts["head"] - pyramid == 92_072_836 - (80 * 256 + 80)
    tower = {name: sum(p.numel() for p in part.parameters()) for name, part in model.head.tower.named_children()}
    assert tower == {"meetings": 6 * 6_303_744, "words": 6 * 7_087_872, "blocks": 11_503_656}
    assert DesCo.paper().dense == recipe.dense


def test_rates_decay_and_what_stays_are_those_of_the_released_solver() -> None:
    """The shipped configuration of DesCo: the text encoder has a fifth of the rate, what is called a bias twice and no decay, and the patch
    embedding and the first stage stay."""
    recipe = DesCo.paper()
    with torch.device("meta"):
        model = recipe.model()
    spec = recipe.optimiser()
    assert (spec.lr, spec.weight_decay, spec.clip_norm, recipe.rates.average) == (5e-5, 1e-4, 1.0, 0.999)
    groups = build_optimiser(model, spec).param_groups
    of = {id(p): (group["scale"] * spec.lr, group["weight_decay"]) for group in groups for p in group["params"]}
    parameters = dict(model.named_parameters())
    names = [name for name in layout() if not re.search("relative_position_index|cell_anchors|cls_logits", name)]
    marked = {name: torch.full((1, 1, 1, 1), float(number)) for number, name in enumerate(names)}
    found = [(key, names[int(number)]) for key, tensor in from_glip(marked).items() for number in tensor.flatten()]
    checked, still = 0, 0
    for ours, name in found:
        if name.startswith(("backbone.body.patch_embed.", "backbone.body.layers.0.")):
            still += 1
            assert not parameters[ours].requires_grad, name
            continue
        rate = 1e-5 if "language_backbone" in name else 5e-5
        assert of[id(parameters[ours])] == pytest.approx((2 * rate, 0.0) if "bias" in name else (rate, 1e-4)), name
        checked += 1
    assert (checked, still) == (693, 33)


def test_what_stays_skips_no_block_and_needs_a_swin() -> None:
    net = detection_backbone("timm:swin_tiny_patch4_window7_224", sizes={**SIZES, "depths": [2, 2, 2, 2]}, drop_path=0.2)
    before = {name: module.drop_prob for name, module in net.named_modules() if isinstance(module, DropPath)}
    freeze_stages(net, 0)
    assert all(p.requires_grad for p in net.parameters())
    freeze_stages(net, 2)
    after = {name: module.drop_prob for name, module in net.named_modules() if isinstance(module, DropPath)}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"net.layers_0.blocks.1.drop_path{n}" for n in (1, 2)}
    still = {name.split(".blocks")[0].removeprefix("net.") for name, p in net.named_parameters() if not p.requires_grad}
    assert {name.split(".norm")[0].split(".proj")[0].split(".reduction")[0] for name in still} == {
        "patch_embed", "layers_0", "layers_1.downsample",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"frozen is 2 on a backbone without stages of Swin \(expected 0\)"):
        freeze_stages(detection_backbone("conv_tiny"), 2)


def test_what_has_no_place_is_named() -> None:
    tensors = small_released()
    with pytest.raises(DataError, match=r"tensor rpn.head.mlm_head.bias does not belong to the detector"):
        from_glip({**tensors, "rpn.head.mlm_head.bias": torch.zeros(1)})
    with pytest.raises(DataError, match=r"tensor roi_heads.mask.weight does not belong to the detector"):
        from_glip({**tensors, "roi_heads.mask.weight": torch.zeros(1)})
    del tensors["rpn.head.dyhead_tower.4.attention.self.value.bias"]
    with pytest.raises(DataError, match=r"dyhead_tower.4.attention.self.value.bias is missing .*GLIP"):
        from_glip(tensors)
    assert not is_glip({"fusion_backbone.language_backbone.body.model.a": torch.zeros(1), "rpn.head.bias_lang": torch.zeros(1)})
    with pytest.raises(ShapeError, match="2 images but 1 texts"):
        detector()(inputs()[0], inputs()[1][:1], inputs()[2][:1])


@torch.no_grad()
def test_a_meeting_starts_as_published() -> None:
    """A share of 1 / rounds a channel; layers among words start as plain layers, within 1 / sqrt(width)."""
    head = DenseHead((8, 8), (8, 16), 24, replace(SHAPE, rounds=3))
    tower: Any = head.tower
    for meet, among in zip(tower.meetings, tower.words, strict=True):
        assert meet.place_gate.gate.tolist() == pytest.approx([1 / 3] * 16)
        assert meet.label_gate.gate.tolist() == pytest.approx([1 / 3] * 24)
        for layer in (among.attention.qkv, among.attention.out, among.mlp_in):
            assert 0.15 < float(layer.weight.abs().max()) <= 24**-0.5
            assert float(layer.bias.abs().max()) > 0.05


@pytest.mark.parametrize("authors", [False, True])
def test_a_classifier_brings_its_stages(authors: bool) -> None:
    """timm's names, and those of the authors' file, where the merging behind a stage is counted to it."""
    sizes: dict[str, Any] = {name: tuple(size) if isinstance(size, list) else size for name, size in SIZES.items()}
    theirs = timm.create_model("swin_tiny_patch4_window7_224", **sizes, num_classes=3)
    tensors = dict(theirs.state_dict())
    if authors:
        moved = re.compile(r"layers\.(\d+)\.downsample")
        tensors = {moved.sub(lambda m: f"layers.{int(m[1]) - 1}.downsample", name): tensor for name, tensor in tensors.items()}
    recipe = replace(DesCo.paper(), tokenizer="clip")
    backbone = detection_backbone("timm:swin_tiny_patch4_window7_224", sizes=SIZES)
    found = {name.removeprefix("backbone."): tensor for name, tensor in recipe.fitted(tensors).items()}
    absent, unknown = backbone.load_state_dict(found, strict=False)
    assert (unknown, {name.split(".")[0] for name in absent}) == ([], {"norms"})
    stages = {name: tensor for name, tensor in theirs.state_dict().items() if name.startswith("layers.1.downsample")}
    for name, tensor in stages.items():
        torch.testing.assert_close(backbone.state_dict()[f"net.{name.replace('layers.1', 'layers_1')}"], tensor)
    assert len(found) == len(theirs.state_dict()) - 4  # the last norm and the classifier


def test_sizes_of_the_large_one_are_built() -> None:
    """GLIP-L: windows of 12 places, larger than the last map of 224 pixels."""
    with torch.device("meta"):
        net = detection_backbone(
            MODEL, sizes={"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "window_size": 12}
        )
    tables = [tuple(p.shape) for name, p in net.named_parameters() if name.endswith("blocks.0.attn.relative_position_bias_table")]
    assert tables == [(529, heads) for heads in (6, 12, 24, 48)]
    assert net.channels == (384, 768, 1536)
