"""Mapping between tensor names of released RLIPv2 checkpoints and ours:
one table per shape of detector, used in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

from diptych.models.detection.language_fusion import ResidualGate
from diptych.models.rlipv2.relation_detector import RelationDetectorConfig

Pair = tuple[str, str]
"""(ours, released): a whole name, or a name without a suffix such as .weight; {} stands for a number."""

NUMBERING = r".*(relative_position_index|embeddings\.position_ids|num_batches_tracked)"
"""Buffers of position indices or batch counters: rebuilt, never read."""

_ENCODER = (
    ("attention.offsets", "self_attn.sampling_offsets"),
    ("attention.weights", "self_attn.attention_weights"),
    ("attention.value", "self_attn.value_proj"),
    ("attention.out", "self_attn.output_proj"),
    ("norm_1", "norm1"),
    ("norm_2", "norm2"),
    ("mlp_in", "linear1"),
    ("mlp_out", "linear2"),
)
_DECODER = (
    ("among.in_proj", "self_attn.in_proj"),
    ("among.out_proj", "self_attn.out_proj"),
    ("image.offsets", "cross_attn.sampling_offsets"),
    ("image.weights", "cross_attn.attention_weights"),
    ("image.value", "cross_attn.value_proj"),
    ("image.out", "cross_attn.output_proj"),
    ("norm_1", "norm2"),  # after self-attention, which is number two in the release
    ("norm_2", "norm1"),
    ("norm_3", "norm3"),
    ("mlp_in", "linear1"),
    ("mlp_out", "linear2"),
)
_BRANCHES = (("first", "fc_1"), ("second", "fc_2"), ("out", "fc_3"))  # one tensor per branch in the release
_FUSION = (
    ("place_norm", "layer_norm_v"),
    ("label_norm", "layer_norm_l"),
    ("place_score", "attn.v_proj"),
    ("label_score", "attn.l_proj"),
    ("place_value", "attn.values_v_proj"),
    ("label_value", "attn.values_l_proj"),
    ("place_out", "attn.out_v_proj"),
    ("label_out", "attn.out_l_proj"),
)
_LANGUAGE = (
    ("self_attn.in_proj", "attention.self.qkv"),  # three tensors in the release
    ("self_attn.out_proj", "attention.output.dense"),
    ("norm1", "attention.output.LayerNorm"),
    ("linear1", "intermediate.dense"),
    ("linear2", "output.dense"),
    ("norm2", "output.LayerNorm"),
)
_POSITION = tuple(
    (f"box_position.{ours}.{2 * layer}", f"{theirs}.layers.{layer}")
    for ours, theirs in (("position", "ref_point_head"), ("scale", "query_scale"))
    for layer in (0, 1)
)


def encoder_name(shape: RelationDetectorConfig) -> str:
    """Return the encoder's released name, which depends on the lineage."""
    return "transformer.encoder" if shape.variant == "parseda" else "transformer.ho_encoder"


def example_gate(shape: RelationDetectorConfig) -> ResidualGate:
    """Return a small gate of the configured kind, as an example of its tensors and their sizes."""
    return ResidualGate(16, shape.gate, 0.0)


def name_table(shape: RelationDetectorConfig) -> tuple[Pair, ...]:
    """Return released and own names of every tensor outside the backbone.
    Rows for parts that this configuration lacks are unused.
    """
    return (*_encoder(shape), *_decoders(), *_queries(shape), *_SHARED)


_SHARED: tuple[Pair, ...] = (
    ("pyramid.level_LD", "transformer.level_embed"),
    ("pyramid.project.{}.0", "input_proj.{}.0"),
    ("pyramid.project.{}.1", "input_proj.{}.1"),
    ("narrow.0", "transformer.resizer.fc"),
    ("narrow.1", "transformer.resizer.layer_norm"),
    ("classifier.project", "projection_text"),
    ("classifier.entity_shift_D", "bias_obj_a"),
    ("classifier.relation_shift_D", "bias_pred_a"),
    ("labels.pooler", "transformer.text_encoder.pooler.dense"),
    ("labels.tower.net.embeddings", "transformer.text_encoder.embeddings"),
    ("labels.tower.net.encoder", "transformer.text_encoder.encoder"),
    ("late_entities", "transformer.obj_fusion"),
    ("late_relations", "transformer.verb_fusion"),
)


def _encoder(shape: RelationDetectorConfig) -> Iterator[Pair]:
    encoder = encoder_name(shape)
    for ours, theirs in _ENCODER:
        yield f"encoder.layers.{{}}.{ours}", f"{encoder}.layers.{{}}.{theirs}"
    for ours, theirs in _LANGUAGE:
        yield f"encoder.language.{{}}.0.{ours}", f"{encoder}.roberta_layers.{{}}.{theirs}"
    up = getattr(example_gate(shape), "up", None)
    last = "one" if up is not None and up.out_features == 1 else "up"
    block = f"{encoder}.VLFuse_layers.{{}}.b_attn"
    for ours, theirs in _FUSION:
        yield f"encoder.fusions.{{}}.{ours}", f"{block}.{theirs}"
    for side, letter in (("place", "v"), ("label", "l")):
        gate = f"encoder.fusions.{{}}.{side}_gate"
        yield f"{gate}.gate", f"{block}.gamma_{letter}"
        yield f"{gate}.down", f"{block}.gamma_{letter}_down"
        yield f"{gate}.up", f"{block}.gamma_{letter}_{last}"
        yield f"{gate}.norm", f"{block}.layer_norm_gating_{letter}"
        for ours, theirs in _BRANCHES:
            yield f"{gate}.branches.{ours}", f"{block}.MBF_{letter}.{theirs}"


def _decoders() -> Iterator[Pair]:
    for name, released in (("entity_decoder", "transformer.ho_decoder"), ("relation_decoder", "transformer.verb_decoder")):
        for ours, theirs in _DECODER:
            yield f"{name}.layers.{{}}.{ours}", f"{released}.layers.{{}}.{theirs}"
        for ours, theirs in _POSITION:
            yield f"{name}.{ours}", f"{released}.{theirs}"
        for side in ("subject", "object"):
            for layer in range(3):
                yield f"{name}.{side}_box.{{}}.{2 * layer}", f"{released}.{side[:3]}_bbox_embed.{{}}.layers.{layer}"
    for ours, theirs in _BRANCHES:
        yield f"relation_decoder.fuse.{ours}", f"transformer.verb_tgt_generator.{theirs}"


def _queries(shape: RelationDetectorConfig) -> Iterator[Pair]:
    if shape.variant == "parseda":
        yield "queries.content_QD", "tgt_embed.weight"
        yield "queries.anchor_Q4", "refpoint_embed.weight"
        yield "relation_decoder.content_QD", "verb_tgt_embed.weight"
        return
    yield "queries.subject_point", "transformer.reference_points_sub"
    yield "queries.object_point", "transformer.reference_points_obj"
    yield "relation_decoder.position_ND", "transformer.verb_query_embed.weight"
    if shape.given:
        yield "queries.box", "transformer.coord_proj"
        yield "relation_decoder.content_QD", "transformer.verb_tgt.weight"
    else:  # one concatenated tensor in the release
        yield "queries.position_QD", "query_embed.weight.position"
        yield "queries.content_QD", "query_embed.weight.entities"
        yield "relation_decoder.content_QD", "query_embed.weight.relations"


QUERY_PARTS = ("query_embed.weight.position", "query_embed.weight.entities", "query_embed.weight.relations")
"""Thirds of ParSeD's `query_embed.weight`, in order."""


def rename(name: str, table: Sequence[Pair], *, released: bool) -> str | None:
    """Translate a released name to ours (`released`), or vice versa; None if the table has no row for it."""
    if (renamed := _backbone_from_released(name) if released else _backbone_to_released(name)) is not None:
        return renamed
    for ours, theirs in table:
        before, after = (theirs, ours) if released else (ours, theirs)
        if match := _pattern(before).fullmatch(name):
            *numbers, tail = match.groups()
            return after.format(*numbers) + (tail or "")
    return None


@cache
def _pattern(name: str) -> re.Pattern[str]:
    """Return a pattern whose suffix is .weight or .bias, _weight or _bias, deeper parts of the text encoder, or nothing."""
    pattern = re.escape(name).replace(r"\{\}", r"(\d+)")
    return re.compile(rf"{pattern}((?:\.|_(?=weight|bias))[\w.]+)?")


def _backbone_from_released(name: str) -> str | None:
    if not (match := re.fullmatch(r"backbone\.0\.body\.(.+)", name)):
        return None
    rest = match[1]
    if norm := re.fullmatch(r"norm(\d)\.(\w+)", rest):
        return f"backbone.norms.{int(norm[1]) - 1}.{norm[2]}"
    if merge := re.fullmatch(r"layers\.(\d)\.downsample\.(.+)", rest):
        return f"backbone.net.layers_{int(merge[1]) + 1}.downsample.{merge[2]}"
    return "backbone.net." + re.sub(r"^layers\.(\d)", r"layers_\1", rest)


def _backbone_to_released(name: str) -> str | None:
    if norm := re.fullmatch(r"backbone\.norms\.(\d)\.(\w+)", name):
        return f"backbone.0.body.norm{int(norm[1]) + 1}.{norm[2]}"
    if not (match := re.fullmatch(r"backbone\.net\.(.+)", name)):
        return None
    if merge := re.fullmatch(r"layers_(\d)\.downsample\.(.+)", match[1]):
        return f"backbone.0.body.layers.{int(merge[1]) - 1}.downsample.{merge[2]}"
    return "backbone.0.body." + re.sub(r"^layers_(\d)", r"layers.\1", match[1])
