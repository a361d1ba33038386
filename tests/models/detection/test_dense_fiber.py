"""FIBER's second stage as released: the released numbers on waves for weights, the published layout, boxes, training and a folder."""

from __future__ import annotations

import json
import math
import re
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer as WordLevelTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from diptych import api
from diptych.core.contracts import Detector, Grounder
from diptych.core.errors import ConfigError, DataError, ShapeError
from diptych.core.grounding import PhraseQuery
from diptych.data.graphs.grounded import TokenTargets, moved_anchors
from diptych.data.load.stream import batches
from diptych.models.detection.dense.dense_detector import top_phrase_boxes
from diptych.models.detection.dense.dense_grounding import DenseHeadConfig
from diptych.models.detection.frozen_stages import freeze_stages
from diptych.models.detection.token_head import phrase_scores
from diptych.models.fiber.dense import DenseFiberDetector, DenseFiberPhraseDetector
from diptych.models.fiber.fine_released import from_fine, is_fine
from diptych.models.fiber.grounding import FiberConfig
from diptych.objectives.boxes.boxes import cxcywh_from_xyxy
from diptych.objectives.boxes.dense_tokens import DenseTokenLoss, adaptive_assignment
from diptych.recipes.grounding.desco import DesCo
from diptych.worlds.scenes.world import scenes

FIXTURES = Path(__file__).parents[1] / "fixtures"
RELEASED = json.loads((FIXTURES / "fiber_fine_released.json").read_text())
SIZES = FiberConfig(
    gate_norm=False,
    text_places=30,
    swin_width=16,
    swin_heads=(1, 2, 4, 8),
    swin_window=4,
    text_width=48,
    text_heads=4,
    text_dropout=0.0,
)
SHAPE = DenseHeadConfig(head_width=16, rounds=2, head_groups=4)


def layout() -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released checkpoint."""
    found: dict[str, tuple[int, ...]] = {}
    for line in (FIXTURES / "fiber_fine_release_names.txt").read_text().splitlines():
        name, shape, places = line.split()
        size = () if shape == "-" else tuple(map(int, shape.split("x")))
        for place in places.split(","):
            found[name.replace("*", place)] = size
    return found


def wave(name: str, shape: tuple[int, ...]) -> Tensor:
    if "alpha" in name:
        return torch.full(shape, 0.6, dtype=torch.float64)
    count = math.prod(shape)
    phase = zlib.crc32(name.encode()) % 1000
    wave_X = torch.sin(torch.arange(count, dtype=torch.float64) * 0.7 + phase).view(shape)
    if len(shape) > 1:
        return wave_X * 1.5 * (count / shape[0]) ** -0.5
    return wave_X * 0.1 + (1.0 if name.endswith(("scale", "weight")) else 0.0)


def small_released(vocabulary: int = 40) -> dict[str, Tensor]:
    """The released layout at the sizes of `SIZES` and `SHAPE`, its head of classes as it is."""
    found = {}
    for name in layout():
        if name.startswith("rpn.head.dyhead_tower.") and int(name.split(".")[3]) >= SHAPE.rounds:
            continue
        if name.endswith(("relative_position_index", "position_ids")) or "cell_anchors" in name or "cls_logits" in name:
            found[name] = torch.zeros(1)
            continue
        found[name] = wave(name, released_shape(name, vocabulary))
    return found


def released_shape(name: str, vocabulary: int) -> tuple[int, ...]:
    full = layout()[name]
    if "dyhead_tower" in name or name.startswith(("rpn.head.bbox", "rpn.head.center")) or ".fpn." in name:
        head = {256: 16, 512: 64, 1024: 64 if "relu.fc" in name else 128, 64: 4}
        lateral = {256: 32, 512: 64, 1024: 128}
        if "fpn_inner" in name and len(full) > 1:
            return (16, lateral[full[1]], 1, 1)
        return tuple(head.get(size, size) for size in full)
    if "relative_position_bias_table" in name:
        return (49, {4: 1, 8: 2, 16: 4, 32: 8}[full[1]])
    if name.endswith("dot_product_projection_text.weight"):
        return (16, 48)
    if name.endswith("dot_product_projection_text.bias"):
        return (16,)
    if name.startswith("rpn.head."):
        return tuple(48 if size == 768 else size for size in full)
    if ".language_backbone." in name:
        scale = {50265: vocabulary, 514: 32, 3072: 192, 768: 48, 512: 64, 1024: 128}
        return tuple(scale.get(size, size) for size in full)
    return tuple(
        48 if "text_i2t" in name and size == 768 and place else size // 8 if size > 8 else size for place, size in enumerate(full)
    )


@cache
def detector() -> DenseFiberDetector:
    image, text = SIZES.sides(image_size=128, drop_path=0.0, vocab_size=40, mask_id=39)
    made = DenseFiberDetector(image, text, SHAPE).double().eval()
    found = from_fine(small_released(), depths=SIZES.swin_depths, text_layers=SIZES.text_layers, fused=SIZES.fused_layers)
    made.load_state_dict(found)
    return made


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    image = torch.sin(torch.arange(2 * 3 * 64 * 96).double() * 0.37).view(2, 3, 64, 96)
    ids = (torch.arange(12).view(2, 6) * 7) % 36 + 4
    mask = torch.ones(2, 6, dtype=torch.bool)
    ids[1, 4:], mask[1, 4:] = 1, False
    return image.flip(1), ids, mask


def pixels() -> Tensor:
    """Pictures of 64 x 96 and 56 x 80 (height and width) in one batch."""
    found = torch.ones(2, 64, 96, dtype=torch.bool)
    found[1, 56:], found[1, :, 80:] = False, False
    return found


@torch.no_grad()
def test_tokens_boxes_centres_and_logits_are_the_released_ones(parity: Any) -> None:
    made, (image, ids, mask) = detector(), inputs()
    found = made(image, ids, mask)
    tokens = made.backbone.met(image, made.text, ids, mask)[1]
    wanted = {name: torch.tensor(RELEASED[name], dtype=torch.float64) for name in ("tokens", "change", "centre", "logit")}
    logit, tried = found.token_logit_BAL[:, ::9, :4], wanted["logit"].view(2, -1, 4)
    parity("fiber", "the second stage: tokens, boxes, centres, logits", "microsoft/FIBER ca0f36b, fine-grained", [
        (tokens[:, :4, ::7].flatten(), wanted["tokens"]),
        (found.change_BA4[:, ::9].flatten(), wanted["change"]),
        (found.centre_BA[:, ::5].flatten(), wanted["centre"]),
        (logit, tried),
    ], tolerance=1e-8)  # fmt: skip
    assert found.counts == (96, 24, 6, 2, 1)


@torch.no_grad()
def test_losses_and_anchors_are_the_released_ones(parity: Any) -> None:
    made, (image, ids, mask) = detector(), inputs()
    found = made(image, ids, mask, pixel_BHW=pixels())
    assert found.size_B2.tolist() == [[64, 96], [56, 80]]
    boxes = torch.tensor(
        [[[3, 5, 40, 50], [30, 10, 90, 60], [60, 2, 70, 12]], [[10, 8, 60, 40], [0, 0, 0, 0], [0, 0, 0, 0]]]
    ).double()
    positive = torch.zeros(2, 3, 6, dtype=torch.bool)
    positive[0, 0, 1] = positive[0, 1, 2] = positive[0, 1, 3] = positive[0, 2, 2] = positive[1, 0, 1] = True
    valid = torch.tensor([[True, True, True], [True, False, False]])
    share = boxes / found.size_B2.flip(1).repeat(1, 2)[:, None]
    losses, parts = DenseTokenLoss()(found, TokenTargets(cxcywh_from_xyxy(share), positive, valid))
    assigned = [adaptive_assignment(found.anchor_A4.double(), found.counts, boxes[n, valid[n]]) for n in range(2)]
    assert [(each >= 0).nonzero()[:, 0].tolist() for each in assigned] == RELEASED["assigned"]
    assert float(parts["anchors_a_box"]) == pytest.approx(28 / 4)
    parity("fiber", "the second stage: losses", "microsoft/FIBER ca0f36b, fine-grained", [
        (losses[name], torch.tensor(RELEASED["losses"][name], dtype=torch.float64)) for name in ("tokens", "boxes", "centres")
    ], tolerance=1e-7)  # fmt: skip


@torch.no_grad()
def test_boxes_that_are_kept_are_the_released_ones(parity: Any) -> None:
    made, (image, ids, mask) = detector(), inputs()
    found = made(image, ids, mask)
    positive = torch.zeros(2, 6, dtype=torch.bool)
    positive[0, 1] = positive[1, 2] = positive[1, 3] = True
    pairs = []
    for row, size in enumerate(((64, 96), (56, 80))):
        score = phrase_scores(found.token_logit_BAL[row] + 4, positive)
        kept = top_phrase_boxes(
            score,
            found.centre_BA[row].sigmoid(),
            moved_anchors(found.anchor_A4, found.change_BA4[row]),
            found.counts,
            size,
            SHAPE,
        )
        rows = [
            [*box, number, phrase + 1]
            for phrase, (boxes, scores) in enumerate(kept)
            for box, number in zip((boxes - torch.tensor([0, 0, 1, 1])).tolist(), scores.tolist(), strict=True)
        ]
        assert len(rows) == RELEASED["found_count"][row]
        rows.sort(key=lambda each: -each[4])
        pairs.append((torch.tensor(rows[:12], dtype=torch.float64), torch.tensor(RELEASED["found"][row], dtype=torch.float64)))
    parity("fiber", "the second stage: boxes that are kept", "microsoft/FIBER ca0f36b, fine-grained", pairs, tolerance=1e-5)


def test_the_published_configuration_has_a_place_for_every_released_tensor() -> None:
    recipe, names = DesCo.fiber_boxes(), layout()
    assert (len(names), recipe.boxes_by, recipe.batch_size, recipe.steps) == (806, "places", 64, 800_000)
    with torch.device("meta"):
        image, text = recipe.fiber.sides(image_size=384, drop_path=0.4, vocab_size=50265, mask_id=50264)
        model = DenseFiberDetector(image, text, recipe.dense, recipe.fiber.swin_strides)
        released = {name: torch.empty(shape) for name, shape in names.items()}
    assert is_fine(released)
    found = dict(recipe.fitted(released))
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == own
    freeze_stages(model.backbone, recipe.frozen)
    still = [name for name, p in model.named_parameters() if not p.requires_grad]
    first = re.compile(r"fusion_backbone.backbone.body.(patch_embed|layers.0)\..*(weight|bias|table)")
    assert len(still) == len([name for name in names if first.fullmatch(name)]) == 33
    assert {name.split(".blocks")[0] for name in still if "blocks" in name} == {"backbone.image.net.layers.0"}
    unused = 80 * 256 + 80 + 768  # a head of classes and a segment vector, which goes into the words
    trained = sum(
        math.prod(shape) for name, shape in names.items() if "index" not in name and "ids" not in name and "anchors" not in name
    )
    assert sum(p.numel() for p in model.parameters()) == trained - unused - 2 * 768


def test_what_has_no_place_is_named() -> None:
    tensors = small_released()
    with pytest.raises(DataError, match=r"tensor rpn.head.mlm_head.bias does not belong to the detector"):
        from_fine({**tensors, "rpn.head.mlm_head.bias": torch.zeros(1)}, depths=(2, 2, 18, 2), text_layers=12, fused=6)
    del tensors["fusion_backbone.language_backbone.body.model.encoder.layer.3.attention.self.value.bias"]
    with pytest.raises(DataError, match=r"layer.3.attention.self.value.bias is missing .*fine-grained"):
        from_fine(tensors, depths=(2, 2, 18, 2), text_layers=12, fused=6)
    with pytest.raises(ConfigError, match=r"meeting_width is 128 over FIBER.s towers"):
        DenseFiberDetector(*TINY.sides(image_size=64, drop_path=0.0, vocab_size=9), DesCo.tiny().dense, (8, 16))
    with pytest.raises(ShapeError, match="2 images but 1 texts"):
        detector()(inputs()[0], inputs()[1][:1], inputs()[2][:1])


TINY = FiberConfig(
    swin_width=8, swin_depths=(1, 1, 1), swin_heads=(1, 2, 2), swin_window=4, swin_strides=(8, 16), fused_layers=2, text_width=32,
    text_layers=3, text_heads=2, text_places=64, text_dropout=0.0,
)  # fmt: skip


def test_it_learns_and_is_found_again(tmp_path: Path) -> None:
    rows = scenes(8, seed=0)
    recipe = replace(
        DesCo.tiny(), backbone="fiber", boxes_by="places", fiber=TINY, dense=replace(SHAPE, least=0.0, anchor=3.0), batch_size=4
    ).prepare(rows)
    model = recipe.model()
    (step,) = batches(rows, recipe, seed=0, stop=1)
    torch.stack(list(recipe.losses(recipe.features(model, step.batch), step.batch).values())).sum().backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    deployed = recipe.deploy(model.eval())
    assert isinstance(deployed, DenseFiberPhraseDetector)
    assert isinstance(deployed, Grounder)
    assert isinstance(deployed, Detector)
    deployed.save(tmp_path / "model")
    again = api.load(tmp_path / "model")
    image, query = rows[0].image, PhraseQuery.of(["a red circle", "a star"])
    for before, after in zip(deployed.ground([image], [query], top=3)[0], again.ground([image], [query], top=3)[0], strict=True):
        assert len(before.score_N) == 3
        assert (before.box_N4 >= 0).all()
        assert (before.box_N4 <= 64).all()
        np.testing.assert_allclose(before.box_N4, after.box_N4, atol=1e-4)
    assert "rounds of a dynamic head" in (tmp_path / "model" / "README.md").read_text()


def test_a_released_checkpoint_is_opened(tmp_path: Path) -> None:
    words = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "red": 4, "circle": 5, "star": 6, ".": 7, "<mask>": 39}
    tokens = WordLevelTokenizer(WordLevel({**words, **{f"w{n}": n for n in range(8, 39)}}, unk_token="<unk>"))
    tokens.pre_tokenizer = Whitespace()
    tokens.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    folder = tmp_path / "roberta"
    PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>"
    ).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta", "num_attention_heads": 4}))
    torch.save({"model": {f"module.{name}": tensor.float() for name, tensor in small_released().items()}}, tmp_path / "fiber.pth")
    model: Any = api.load(f"fiber:{tmp_path / 'fiber.pth'}#{folder}")
    assert (model.text_length, model.model.head.strides, model.model.shape.rounds) == (30, (8, 16, 32, 64, 128), 2)
    found = model.detect(np.full((40, 60, 3), 90, np.uint8), objects=["red circle", "star"])
    assert {region.label for region in found.regions} <= {"red circle", "star"}
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    released = {name: tensor.float() for name, tensor in small_released().items()}
    bias = next(name for name, tensor in released.items() if "dyhead" in name and name.endswith("bias") and len(tensor) > 9)
    save_file({**released, bias: released[bias][:9].clone()}, tmp_path / "odd.safetensors")
    for address, error, fault in (
        (f"fiber:{tmp_path / 'odd.safetensors'}#{folder}", ConfigError, r"not of this network; of another size: .* \[9\] for \["),
        ("fiber:a.pth", ConfigError, "does not name a checkpoint and a text encoder"),
        (f"fiber:{tmp_path / 'fiber.pth'}#{tmp_path}", DataError, "the folder has no config.json"),
        (f"fiber:{tmp_path / 'none.pth'}#{folder}", DataError, "there is no such file"),
        (f"fiber:{tmp_path / 'other.safetensors'}#{folder}", DataError, "contains no FIBER of the second stage"),
    ):
        with pytest.raises(error, match=fault):
            api.load(address)


def test_released_weights_start_a_run(tmp_path: Path) -> None:
    rows = scenes(4, seed=0)
    recipe = replace(
        DesCo.tiny(),
        backbone="fiber",
        boxes_by="places",
        fiber=SIZES,
        dense=SHAPE,
        text_length=24,
        batch_size=2,
        steps=1,
        warmup=0.0,
    )
    count = recipe.prepare(rows).words().vocab_size + 1  # its tokens have no mask of their own
    tensors = {name: tensor.float() for name, tensor in small_released(count).items()}
    save_file(tensors, tmp_path / "fiber.safetensors")
    made = api.train(recipe, data=rows, out=tmp_path / "run", init=str(tmp_path / "fiber.safetensors"), hold_out=0, seed=0)
    trained = api.load(made.path).model.state_dict()["head.tokens.bias"]
    assert float((trained - tensors["rpn.head.bias0"]).abs()) < 0.01
