"""Whole forward passes of other released RLIPv2 models: ParSeD, late fusion, R-Taggers, padded images, training.

`rlipv2_passes.npz` holds what the released code answered, at a width of 64, to weights and inputs that `numbers` makes again here.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diptych.data.graphs.pairs import RegionPairs
from diptych.models.detection.backbone import DetectionBackbone
from diptych.models.rlipv2.relation_detector import PairSet, RelationDetector, RelationDetectorConfig
from diptych.models.towers.label_encoder import label_encoder

STORED = Path(__file__).parent / "rlipv2_passes.npz"
ENTITIES, RELATIONS, PAIRS = 6, 4, 8
SHAPE = RelationDetectorConfig(
    pairs=PAIRS,
    width=64,
    mlp_width=64,
    fusion_width=128,
    fusion_dropout=0.0,
    language_heads=4,
    language_mlp=64,
    norm_groups=32,
    in_padded=True,
    relation_boxes=True,
    released_masks=True,
)
TAGGER = {"variant": "parsed", "given": True, "given_point": True, "hide_twins": "training"}
PASSES: dict[str, tuple[dict[str, Any], bool, int]] = {
    # fields of the shape, training, rows of real pixels of the second image
    "parseda padded": ({}, False, 40),
    "parseda training padded": ({}, True, 40),
    "parseda slots": ({"relation_start": "slots"}, False, 96),
    "parseda fused": ({"relation_start": "fused"}, False, 96),
    "parseda late padded": ({"fusion": "late"}, False, 40),
    "parseda late training": ({"fusion": "late"}, True, 96),
    "parsed": ({"variant": "parsed"}, False, 64),
    "parsed late": ({"variant": "parsed", "fusion": "late"}, False, 64),
    "parsed none": ({"variant": "parsed", "fusion": "none"}, False, 64),
    "tagger slots": (TAGGER | {"relation_start": "slots", "gate": "vector"}, False, 64),
    "tagger both": (TAGGER | {"relation_start": "both"}, False, 96),
    "tagger training": (TAGGER | {"relation_start": "slots", "gate": "vector"}, True, 96),
}


def numbers(name: str, *shape: int, reach: float) -> Tensor:
    """Numbers in (-reach, reach) that depend on the name alone: a hash of name and place, 24 bits of it."""
    place = np.arange(int(np.prod(shape)), dtype=np.uint64)
    with np.errstate(over="ignore"):
        mixed = (place + np.uint64(zlib.crc32(name.encode())) * np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xFF51AFD7ED558CCD)
        mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    unit = (mixed >> np.uint64(40)).astype(np.float64) / 2**24
    return torch.from_numpy((2 * unit - 1) * reach).float().reshape(shape)


class NumberedMaps(DetectionBackbone):
    strides, channels = (8, 16, 32), (16, 24, 32)

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        return [
            numbers(f"map {stride}", 2, count, 96 // stride, 96 // stride, reach=1.0)
            for stride, count in zip(self.strides, self.channels, strict=True)
        ]


def detector(changes: dict[str, Any]) -> RelationDetector:
    model = RelationDetector(NumberedMaps(), label_encoder("vectors", width=48), replace(SHAPE, **changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            matrix = parameter.ndim > 1 and not name.startswith("queries.")
            values = numbers(name, *parameter.shape, reach=0.2 if matrix else 0.4)
            module, _, kind = name.rpartition(".")
            is_norm = kind == "weight" and isinstance(model.get_submodule(module), torch.nn.LayerNorm | torch.nn.GroupNorm)
            parameter.copy_(values + 1 if is_norm else values)
    return model


def texts() -> Tensor:
    """As a text encoder gives them. The sums of some are negative: those are hidden in training."""
    return numbers("texts", ENTITIES + RELATIONS, 48, reach=1.0)


def pixels(columns: int) -> Tensor:
    real = torch.ones(2, 96, 96, dtype=torch.bool)
    real[1, :, columns:] = False
    return real


def given_pairs(*, full: bool) -> RegionPairs:
    """Pairs among five regions, so that regions recur; `full` fills every slot of both images."""
    box = numbers("boxes", 2, 5, 4, reach=0.2) + 0.4
    label = torch.tensor([[0, 1, 2, 1, 4], [3, 3, 0, 2, 1]])
    subject, object_ = torch.tensor([0, 1, 2, 3, 0, 4, 2, 1]), torch.tensor([1, 0, 3, 2, 4, 1, 0, 3])
    valid = torch.arange(PAIRS) < torch.tensor([[PAIRS], [PAIRS]] if full else [[6], [3]])
    return RegionPairs(box[:, subject], box[:, object_], label[:, subject], label[:, object_], valid)


def answer(name: str) -> PairSet:
    changes, training, columns = PASSES[name]
    model = detector(changes).train(training)
    given = given_pairs(full=training) if changes.get("given") else None
    with torch.no_grad():
        said: PairSet = model.with_labels(
            torch.zeros(2, 3, 96, 96),
            texts(),
            entities=ENTITIES,
            pixel_BHW=None if columns == 96 else pixels(columns),
            given=given,
        )
    return said


FIELDS = ("subject_box_BSQ4", "object_box_BSQ4", "subject_logit_BSQC", "object_logit_BSQC", "relation_logit_BSQR")


@pytest.mark.parametrize("name", PASSES)
def test_boxes_and_logits_of_every_layer_equal_the_release(name: str, parity: Any) -> None:
    said = answer(name)
    changes, training, _ = PASSES[name]
    real_BQ = torch.ones(2, PAIRS, dtype=torch.bool)
    if changes.get("given"):
        real_BQ = given_pairs(full=training).valid_BG
    pairs = []
    with np.load(STORED) as stored:
        for field in FIELDS:
            released, ours = torch.from_numpy(stored[f"{name}/{field}"]), getattr(said, field)
            assert released.shape == ours.shape
            ours, released = (x.transpose(1, 2)[real_BQ] for x in (ours, released))
            torch.testing.assert_close(ours, released, atol=5e-5, rtol=0, msg=lambda text, field=field: f"{field}: {text}")
            pairs.append((ours, released))
    parity("rlipv2", "boxes and logits of every layer in each wiring", "passes of JacobYuan7/RLIPv2", pairs, tolerance=5e-5)


def test_both_kinds_of_texts_are_there() -> None:
    hidden = texts().sum(1) <= 0
    assert hidden[:ENTITIES].any()
    assert hidden[ENTITIES:].any()
    assert not hidden[:ENTITIES].all()
    assert not hidden[ENTITIES:].all()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("parseda padded", {"released_masks": False}),
        ("parseda training padded", {"released_masks": False}),
        ("parseda late training", {"released_masks": False}),
        ("tagger both", {"hide_twins": "always"}),
        ("tagger training", {"hide_twins": "never"}),
        ("tagger slots", {"given_point": False}),
    ],
)
def test_our_own_choices_answer_otherwise(name: str, changes: dict[str, Any]) -> None:
    """The stored passes would notice if an option did nothing."""
    fields, training, columns = PASSES[name]
    model = detector(fields | changes).train(training)
    given = given_pairs(full=training) if fields.get("given") else None
    real = None if columns == 96 else pixels(columns)
    with torch.no_grad():
        said = model.with_labels(torch.zeros(2, 3, 96, 96), texts(), entities=ENTITIES, pixel_BHW=real, given=given)
    with np.load(STORED) as stored:
        released = torch.from_numpy(stored[f"{name}/relation_logit_BSQR"])
    assert (said.relation_logit_BSQR[0, :, 0] - released[0, :, 0]).abs().max() > 1e-3 or (
        said.relation_logit_BSQR[1, :, 0] - released[1, :, 0]
    ).abs().max() > 1e-3
