"""Released variants other than RLIPv2-ParSeDA with ALIF: every tensor has its place, both ways, and what has none is named."""

from __future__ import annotations

import itertools
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import transformers
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.models.detection.backbone import detection_backbone
from diptych.models.rlipv2.published import ROBERTA, build, from_released, load_released, to_released
from diptych.models.rlipv2.relation_detector import RelationDetector, RelationDetectorConfig
from diptych.models.towers.label_encoder import label_encoder

RECORDED = json.loads((Path(__file__).parents[1] / "fixtures" / "released_rlipv2_tensors.json").read_text())
"""For each variant, names and shapes of all tensors of the released module but those of backbone and RoBERTa; {0-5} stands for each of
0 to 5. Gates: only what they add. Recorded from the released modules."""
PARSED: dict[str, Any] = {"variant": "parsed"}
TAGGER: dict[str, Any] = {"variant": "parsed", "given": True, "given_point": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "parseda": {},
    "parseda_late": {"fusion": "late"},
    "parseda_none": {"fusion": "none"},
    "parsed": PARSED,
    "parsed_late": {**PARSED, "fusion": "late"},
    "tagger": {**TAGGER, "relation_start": "slots", "gate": "vector", "mlp_width": 1024},
    "tagger_mbf": {**TAGGER, "relation_start": "both"},
}
GATES = {
    "gate_Stanh": "self_tanh",
    "gate_SDFtanh": "delta_tanh",
    "gate_SFtanh": "feature_tanh",
    "gate_SXAcLN": "self_norm",
    "gate_SOtanh": "self_one_tanh",
    "gate_SDFOXAcLN": "delta_one_norm",
    "gate_MBF": "multi_branch",
}
UNREAD = re.compile(r"query_embed\.weight|.+\.gamma_[vl]")


def expanded(pattern: str) -> Iterator[str]:
    parts = re.split(r"\{(\d+)-(\d+)\}", pattern)
    ranges = [range(int(first), int(last) + 1) for first, last in zip(parts[1::3], parts[2::3], strict=True)]
    for numbers in itertools.product(*ranges):
        yield "".join(fixed + str(n) for fixed, n in zip(parts[0::3], (*numbers, ""), strict=True))


@cache
def shared() -> dict[str, tuple[int, ...]]:
    """Backbone and label encoder, from the libraries that the release takes them from."""
    with torch.device("meta"):
        roberta = transformers.RobertaModel(transformers.RobertaConfig(**ROBERTA)).state_dict()
        resnet = torchvision.models.resnet50().state_dict()
    out = {f"transformer.text_encoder.{name}": tuple(value.shape) for name, value in roberta.items()}
    out["transformer.text_encoder.embeddings.position_ids"] = (1, 514)
    frozen = {name: value for name, value in resnet.items() if not name.startswith("fc.") and "num_batches" not in name}
    return out | {f"backbone.0.body.{name}": tuple(value.shape) for name, value in frozen.items()}


def released(variant: str) -> dict[str, tuple[int, ...]]:
    patterns = {**(RECORDED["parseda"] if variant in GATES else {}), **RECORDED[variant]}
    return shared() | {name: tuple(shape) for pattern, shape in patterns.items() for name in expanded(pattern)}


def changes(variant: str) -> dict[str, Any]:
    return {"gate": GATES[variant]} if variant in GATES else VARIANTS[variant]


@pytest.mark.parametrize("variant", [*VARIANTS, *GATES])
def test_no_name_and_no_size_is_left_over_on_either_side(variant: str) -> None:
    expected = released(variant)
    with torch.device("meta"), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        model = build("resnet50", **changes(variant))
        ours = model.state_dict()
        assert {name: tuple(value.shape) for name, value in to_released(ours, model.shape).items()} == expected
        read = from_released({name: torch.empty(size) for name, size in expected.items()}, model.shape)
    assert {name: value.shape for name, value in read.items()} == {name: value.shape for name, value in ours.items()}
    lines = [str(line.message) for line in said if line.category is UserWarning and "not read" in str(line.message)]
    named = lines[0].partition("nothing with them: ")[2].split(", ") if lines else []
    gateless = variant in ("gate_SDFtanh", "gate_SFtanh", "gate_SDFOXAcLN", "gate_MBF")
    assert len(named) == {True: 6, False: 1 if "tagger" in variant else 0}[gateless]
    assert all(UNREAD.fullmatch(name) for name in named)


SMALL: dict[str, Any] = {
    "width": 32,
    "heads": 2,
    "mlp_width": 16,
    "levels": 2,
    "encoder_layers": 3,
    "pairs": 3,
    "branches": 8,
    "fusion_before": (0, 1, 2),
    "fusion_width": 16,
    "language_heads": 2,
    "language_mlp": 16,
    "relation_boxes": True,
}


def small(**more: Any) -> tuple[RelationDetector, dict[str, Tensor]]:
    """A small model and its weights, all random, without the backbone, which is none of the released ones."""
    torch.manual_seed(0)
    labels = label_encoder("vectors", width=16)
    model = RelationDetector(detection_backbone("conv_tiny"), labels, RelationDetectorConfig(**{**SMALL, **more}))
    named = model.state_dict().items()
    return model, {name: torch.randn_like(value) for name, value in named if not name.startswith("backbone.")}


@pytest.mark.filterwarnings("ignore:not read")
@pytest.mark.parametrize("variant", [*VARIANTS, *GATES])
def test_values_survive_both_ways(variant: str) -> None:
    more = {name: value for name, value in changes(variant).items() if name != "mlp_width"}
    model, ours = small(**more)
    read = from_released(to_released(ours, model.shape), model.shape)
    assert read.keys() == ours.keys()
    for name, value in read.items():
        torch.testing.assert_close(value, ours[name])


def test_gates_of_channels_stay_whole() -> None:
    model, ours = small(gate="vector")
    written = to_released(ours, model.shape)
    gate = "transformer.encoder.VLFuse_layers.1.b_attn.gamma_v"
    assert torch.equal(written[gate], ours["encoder.fusions.1.place_gate.gate"])
    assert torch.equal(from_released(written, model.shape)["encoder.fusions.1.place_gate.gate"], written[gate])
    scalar, _ = small()
    with pytest.warns(
        UserWarning, match=r"gate='scalar' has one for all channels, though the others differ.*needs gate='vector'.*gamma_v"
    ):
        assert from_released(written, scalar.shape)["encoder.fusions.1.place_gate.gate"].shape == (1,)
    with pytest.raises(ConfigError, match=r"needs gate='vector'.*VLFuse_layers\.2\.b_attn\.gamma_l"):
        load_released(scalar, written)


@pytest.mark.parametrize(
    ("changes", "unread"),
    [
        ({"relation_start": "slots"}, "transformer.verb_tgt_generator.fc_3.bias"),
        ({"relation_start": "fused"}, "verb_tgt_embed.weight"),
        ({**PARSED, "relation_start": "fused"}, "query_embed.weight.relations"),
        ({**TAGGER, "relation_start": "fused"}, "transformer.verb_tgt.weight"),
    ],
)
def test_parts_of_another_relation_start_are_named_and_left(changes: dict[str, Any], unread: str) -> None:
    _, whole = small(**{**changes, "relation_start": "both"})
    model, ours = small(**changes)
    written = to_released(whole, replace(model.shape, relation_start="both"))
    with pytest.warns(UserWarning, match=rf"not read.*{re.escape(unread)}"):
        assert from_released(written, model.shape).keys() == ours.keys()


def test_a_file_of_another_model_is_refused_with_every_name() -> None:
    model, _ = small()
    with pytest.raises(ConfigError) as refused:
        from_released(
            {"head.weight": torch.ones(1), "tgt_embed.weight": torch.ones(6, 32), "neck.bias": torch.ones(1)}, model.shape
        )
    assert "2 tensors (head.weight, neck.bias) have no place in RLIPv2-ParSeDA with fusion='alif'" in str(refused.value)

    written = to_released(small()[1], model.shape)
    other = to_released({"classifier.project.weight": torch.ones(5, 32)}, model.shape)
    missing = ("tgt_embed.weight", "transformer.verb_decoder.layers.2.norm3.bias")
    file = {name: value for name, value in (written | other).items() if name not in missing}
    before = model.state_dict()["narrow.0.weight"].clone()
    with pytest.raises(ConfigError) as refused:
        load_released(model, file)
    text = str(refused.value)
    assert "queries.content_QD" in text
    assert "relation_decoder.layers.2.norm_3.bias" in text
    assert "of another size: classifier.project.weight [5, 32] for [32, 32]" in text
    assert torch.equal(model.state_dict()["narrow.0.weight"], before)


def test_a_branch_that_is_missing_is_named() -> None:
    model, ours = small()
    written = to_released(ours, model.shape)
    del written["transformer.verb_tgt_generator.fc_2.3.weight"]
    with pytest.raises(ConfigError, match=r"verb_tgt_generator\.fc_2\.weight is made of the parts 0, 1, .*, but 0, 1, 2, 4, "):
        from_released(written, model.shape)


def test_box_heads_that_move_boxes_need_a_model_that_has_them() -> None:
    model, ours = small()
    plain, _ = small(relation_boxes=False)
    with pytest.raises(ConfigError, match=r"transformer\.verb_decoder\.sub_bbox_embed\.0\.layers\.2\.weight"):
        from_released(to_released(ours, model.shape), plain.shape)
    still = {name: value for name, value in ours.items() if not re.match(r"relation_decoder\.(subject|object)_box", name)}
    with pytest.warns(UserWarning, match=r"not read.*verb_decoder\.obj_bbox_embed"):
        assert from_released(to_released(still, plain.shape), plain.shape).keys() == still.keys()
