"""The converter, by what a converted model answers: every head of every decoder layer of ParSeDA, ParSeD, R-Tagger, late and no fusion.

`rlipv2_variants.npz` holds what the released code computed in evaluation mode, from given feature maps and label vectors, with weights
that are drawn here as they were there: one numpy stream over the released names in their order.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diptych.data.graphs.pairs import RegionPairs
from diptych.models.detection.backbone import DetectionBackbone
from diptych.models.rlipv2.published import from_released, to_released
from diptych.models.rlipv2.relation_detector import RelationDetector, RelationDetectorConfig
from diptych.models.towers.label_encoder import label_encoder

PAIRS, ENTITIES, RELATIONS = 4, 5, 3
PARSED: dict[str, Any] = {"variant": "parsed"}
TAGGER: dict[str, Any] = {"variant": "parsed", "given": True, "given_point": True, "hide_twins": "training"}
VARIANTS: dict[str, dict[str, Any]] = {
    "parseda": {},
    "parseda_late": {"fusion": "late"},
    "parseda_none": {"fusion": "none"},
    "parsed": PARSED,
    "parsed_late": {**PARSED, "fusion": "late"},
    "tagger": {**TAGGER, "relation_start": "slots", "gate": "vector"},
    "tagger_mbf": {**TAGGER, "relation_start": "both"},
}
HEADS = {
    "subject_logit_BSQC": "pred_sub_logits",
    "object_logit_BSQC": "pred_obj_logits",
    "relation_logit_BSQR": "pred_verb_logits",
    "subject_box_BSQ4": "pred_sub_boxes",
    "object_box_BSQ4": "pred_obj_boxes",
}


class GivenMaps(DetectionBackbone):
    """Feature maps in place of a backbone."""

    strides, channels = (8, 16, 32), (16, 24, 32)

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        return list(self.maps)


def drawn(released: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values for the tensors of a released model, in the order of their names; a box head's second name is not drawn."""
    rng = np.random.RandomState(0)
    out = {}
    for name in sorted(released):
        if "text_encoder" in name or (name.startswith("transformer.") and "bbox_embed" in name):
            continue
        values, scale = rng.standard_normal(tuple(released[name].shape)), 0.05 if released[name].ndim > 1 else 0.1
        if (
            name.endswith(("query_embed.weight", "tgt_embed.weight", "verb_tgt.weight"))
            or "refpoint" in name
            or "coord_proj" in name
        ):
            scale = 1.0
        if "bbox_embed" in name:
            scale = 0.07
        values = values * scale + ("norm" in name and name.endswith("weight"))
        out[name] = torch.from_numpy(values.astype(np.float32))
    return out


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_every_head_equals_the_release(variant: str, parity: Any) -> None:
    rng = np.random.RandomState(1)
    sizes = ((1, 16, 12, 10), (1, 24, 6, 5), (1, 32, 3, 3))
    maps = [torch.from_numpy(rng.standard_normal(size).astype(np.float32)) for size in sizes]
    text_TD = torch.from_numpy(rng.standard_normal((ENTITIES + RELATIONS, 768)).astype(np.float32))
    box_2BN4 = torch.from_numpy(rng.uniform(0.2, 0.8, (2, 1, PAIRS, 4)).astype(np.float32))
    given = RegionPairs(*box_2BN4, *torch.tensor([[[0, 1, 2, 0]], [[1, 3, 0, 2]]]), torch.ones(1, PAIRS, dtype=torch.bool))

    settings = {
        "pairs": PAIRS,
        "mlp_width": 32,
        "fusion_width": 64,
        "language_mlp": 32,
        "in_padded": True,
        "relation_boxes": True,
    }
    shape = RelationDetectorConfig(**settings, **VARIANTS[variant])
    model = RelationDetector(GivenMaps(maps), label_encoder("vectors", width=768), shape).eval()
    with warnings.catch_warnings():  # scalar gates read the first number of the drawn vectors, as the release does
        warnings.simplefilter("ignore", UserWarning)
        model.load_state_dict(from_released(drawn(to_released(model.state_dict(), shape)), shape))
    with torch.no_grad():
        said = model.with_labels(torch.zeros(1, 3, 96, 80), text_TD, entities=ENTITIES, given=given if shape.given else None)

    pairs = []
    with np.load(Path(__file__).parent / "rlipv2_variants.npz") as recorded:
        for ours, theirs in HEADS.items():
            expected = torch.from_numpy(recorded[f"{variant}/{theirs}"])
            torch.testing.assert_close(getattr(said, ours)[0], expected, rtol=1e-4, atol=5e-5, msg=f"{ours} differs")
            pairs.append((getattr(said, ours)[0], expected))
    parity("rlipv2", "heads of ParSe, ParSeD, ParSeDA and the tagger", "heads of JacobYuan7/RLIPv2", pairs, tolerance=1e-4)
