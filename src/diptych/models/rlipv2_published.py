"""The released RLIPv2-ParSeDA models: how to build them, and their tensors under the names of the released checkpoints.

`build("resnet50")` is the architecture; `from_released` and `to_released` translate its state dict. What the release holds and ours
does not, because it computes nothing of its own: a second name for every box head (the heads of both decoders stand at the top once
more; a file that keeps shared tensors once may have either name), the numbering buffers of RoBERTa and Swin, one bias a branch of the
multi-branch fusion (only their sum matters), and gate vectors of which only the first number is read. `to_released` writes all of them,
and box heads that change nothing for a model whose relation decoder has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, UnknownName
from diptych.models.detection_backbone import detection_backbone
from diptych.models.label_encoder import label_encoder
from diptych.models.relation_detector import DetectorShape, RelationDetector

Backbone = Literal["resnet50", "swin_tiny", "swin_large"]
BACKBONES = {
    "resnet50": {"name": "timm:resnet50", "frozen_norm": True},
    "swin_tiny": {"name": "timm:swin_tiny_patch4_window7_224", "drop_path": 0.2},
    "swin_large": {"name": "timm:swin_large_patch4_window7_224", "drop_path": 0.5},
}
"""Arguments of `detection_backbone`."""
FROZEN = {
    "resnet50": r"^backbone\.net\.(conv1|layer1)\.",
    "swin_tiny": r"^backbone\..*(norm|relative_position_bias_table)",
    "swin_large": r"^backbone\..*(norm|relative_position_bias_table)",
}
"""What the release never trains, as a regular expression over parameter names: stem and first stage of ResNet; norms and position
tables of Swin, also the norms behind its stages. Nothing outside the backbone."""
ROBERTA = {
    "model_type": "roberta",
    "vocab_size": 50265,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
"""roberta-base."""


def build(backbone: str, *, pairs: int = 100) -> RelationDetector:
    """The released architecture with fresh weights. `pairs`: 100 for pre-training, V-COCO and Open Images, 64 for HICO-DET."""
    if backbone not in BACKBONES:
        raise UnknownName("published backbone", backbone, BACKBONES)
    return RelationDetector(
        detection_backbone(**BACKBONES[backbone]),  # type: ignore[arg-type]
        label_encoder("hf", config=ROBERTA),
        DetectorShape(pairs=pairs, centred=backbone != "resnet50", in_padded=True, relation_boxes=True),
    )


# (ours, released): a whole name matches the left pattern and becomes the right, and the other way round; {} stands for a number
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
    ("norm_1", "norm2"),  # behind self-attention, which the release numbers second
    ("norm_2", "norm1"),
    ("norm_3", "norm3"),
    ("mlp_in", "linear1"),
    ("mlp_out", "linear2"),
)
_FUSION = (
    ("place_norm", "layer_norm_v"),
    ("label_norm", "layer_norm_l"),
    ("place_score", "attn.v_proj"),
    ("label_score", "attn.l_proj"),
    ("place_value", "attn.values_v_proj"),
    ("label_value", "attn.values_l_proj"),
    ("place_out", "attn.out_v_proj"),
    ("label_out", "attn.out_l_proj"),
    ("place_gate.gate", "gamma_v"),
    ("label_gate.gate", "gamma_l"),
)
_LANGUAGE = (
    ("self_attn.in_proj", "attention.self.qkv"),  # three tensors in the release: see `_split`
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
_TABLE: tuple[tuple[str, str], ...] = (
    *((f"encoder.layers.{{}}.{a}", f"transformer.encoder.layers.{{}}.{b}") for a, b in _ENCODER),
    *((f"encoder.fusions.{{}}.{a}", f"transformer.encoder.VLFuse_layers.{{}}.b_attn.{b}") for a, b in _FUSION),
    *((f"encoder.language.{{}}.0.{a}", f"transformer.encoder.roberta_layers.{{}}.{b}") for a, b in _LANGUAGE),
    *((f"entity_decoder.layers.{{}}.{a}", f"transformer.ho_decoder.layers.{{}}.{b}") for a, b in _DECODER),
    *((f"relation_decoder.layers.{{}}.{a}", f"transformer.verb_decoder.layers.{{}}.{b}") for a, b in _DECODER),
    *((f"entity_decoder.{a}", f"transformer.ho_decoder.{b}") for a, b in _POSITION),
    *((f"relation_decoder.{a}", f"transformer.verb_decoder.{b}") for a, b in _POSITION),
    *(
        (f"{ours}_decoder.{side}_box.{{}}.{2 * n}", f"transformer.{theirs}_decoder.{side[:3]}_bbox_embed.{{}}.layers.{n}")
        for ours, theirs in (("entity", "ho"), ("relation", "verb"))
        for side in ("subject", "object")
        for n in range(3)
    ),
    ("relation_decoder.fuse.first", "transformer.verb_tgt_generator.fc_1"),  # a tensor a branch in the release
    ("relation_decoder.fuse.second", "transformer.verb_tgt_generator.fc_2"),
    ("relation_decoder.fuse.out", "transformer.verb_tgt_generator.fc_3"),
    ("relation_decoder.content_QD", "verb_tgt_embed.weight"),
    ("queries.content_QD", "tgt_embed.weight"),
    ("queries.anchor_Q4", "refpoint_embed.weight"),
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
)
_BRANCHES, _LAYERS = 16, 3
_TOP_HEAD = re.compile(r"((?:sub|obj)_bbox_embed)\.(\d+)\.(.+)")
_HEAD = re.compile(r"transformer\.(ho|verb)_decoder\.((?:sub|obj)_bbox_embed)\.(\d+)\.(.+)")


def from_released(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of `build(...)`, from that of a released model (the entry "model" of its checkpoint file)."""
    joined = _join(_heads_once(tensors))
    out = {}
    for name, tensor in joined.items():
        if re.fullmatch(r".*(relative_position_index|embeddings\.position_ids|num_batches_tracked)", name):
            continue
        out[_renamed(name, [(theirs, ours) for ours, theirs in _TABLE], _backbone_from_released)] = tensor
    return {name: tensor[:1] if name.endswith("_gate.gate") else tensor for name, tensor in out.items()}


def to_released(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a released model, from that of `build(...)`."""
    renamed = {_renamed(name, _TABLE, _backbone_to_released): tensor for name, tensor in tensors.items()}
    out = _split(renamed)
    heads = {name: head.groups() for name in out if (head := _HEAD.fullmatch(name))}
    for name, (decoder, kind, layer, rest) in heads.items():
        verb = f"transformer.verb_decoder.{kind}.{layer}.{rest}"
        if verb not in heads:
            out[verb] = torch.zeros_like(out[name]) if rest.startswith("layers.2") else out[name]
            out[f"{kind}.{int(layer) + _LAYERS}.{rest}"] = out[verb]
        out[f"{kind}.{int(layer) + (_LAYERS if decoder == 'verb' else 0)}.{rest}"] = out[name]
    embeddings = "transformer.text_encoder.embeddings"
    if (places := out.get(f"{embeddings}.position_embeddings.weight")) is not None:
        out[f"{embeddings}.position_ids"] = torch.arange(len(places))[None]
    for name in [name for name in out if name.endswith("relative_position_bias_table")]:
        window = (int(out[name].shape[0] ** 0.5) + 1) // 2
        out[name.replace("bias_table", "index")] = _window_index(window)
    return out


# ---------------------------------------------------------------- tensors that the two hold differently


def _heads_once(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released tensors with every box head under its decoder's name alone. Where a file holds both names, that at the top counts, as
    it does when the release loads one."""
    out = {name: tensor for name, tensor in tensors.items() if not _TOP_HEAD.fullmatch(name)}
    for name, tensor in tensors.items():
        if head := _TOP_HEAD.fullmatch(name):
            kind, layer, rest = head.groups()
            decoder, row = ("verb", int(layer) - _LAYERS) if int(layer) >= _LAYERS else ("ho", int(layer))
            out[f"transformer.{decoder}_decoder.{kind}.{row}.{rest}"] = tensor
    return out


def _join(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released tensors, with queries, keys and values, and the branches of the fusion, put together."""
    groups: dict[str, dict[str, Tensor]] = {}
    out = {}
    for name, tensor in tensors.items():
        qkv = re.fullmatch(r"(transformer\.encoder\.roberta_layers\.\d+\.attention\.self)\.(query|key|value)\.(\w+)", name)
        branch = re.fullmatch(r"(transformer\.verb_tgt_generator\.fc_\d)\.(\d+)\.(\w+)", name)
        if qkv:
            groups.setdefault(f"{qkv[1]}.qkv_{qkv[3]}", {})[qkv[2]] = tensor
        elif branch:
            groups.setdefault(f"{branch[1]}.{branch[3]}", {})[branch[2]] = tensor
        else:
            out[name] = tensor
    for name, parts in groups.items():
        order = ("query", "key", "value") if "query" in parts else [str(n) for n in range(_BRANCHES)]
        listed = [parts[key] for key in order]
        if name.endswith("fc_3.bias"):
            out[name] = torch.stack(listed).sum(0)
        else:
            out[name] = torch.cat(listed, 1 if name.endswith("fc_3.weight") else 0)
    return out


def _split(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for name, tensor in tensors.items():
        if qkv := re.fullmatch(r"(.+\.attention\.self)\.qkv_(\w+)", name):
            for part, value in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                out[f"{qkv[1]}.{part}.{qkv[2]}"] = value
        elif branch := re.fullmatch(r"(transformer\.verb_tgt_generator\.fc_\d)\.(\w+)", name):
            for row, value in enumerate(_branches(tensor, branch[1].endswith("3"), branch[2])):
                out[f"{branch[1]}.{row}.{branch[2]}"] = value
        elif re.fullmatch(r".+\.gamma_[vl]", name):
            out[name] = tensor.expand(256 if name.endswith("v") else 768).clone()
        else:
            out[name] = tensor
    return out


def _branches(tensor: Tensor, last: bool, kind: str) -> Iterable[Tensor]:
    if last and kind == "bias":
        return [tensor / _BRANCHES] * _BRANCHES
    return tensor.chunk(_BRANCHES, 1 if last else 0)


def _window_index(window: int) -> Tensor:
    """Swin's numbering of the relative positions of two places in a window: [window^2, window^2]."""
    place_P2 = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    apart_PP2 = place_P2[:, None] - place_P2[None] + window - 1
    return apart_PP2[..., 0] * (2 * window - 1) + apart_PP2[..., 1]


# ---------------------------------------------------------------- names


def _renamed(name: str, table: Iterable[tuple[str, str]], backbone: object) -> str:
    if (found := backbone(name)) is not None:  # type: ignore[operator]
        return str(found)
    for before, after in table:
        pattern = re.escape(before).replace(r"\{\}", r"(\d+)")
        # The tail is .weight or .bias, _weight or _bias, deeper parts of the text encoder, or nothing.
        if match := re.fullmatch(rf"{pattern}((?:[._][\w.]+)?)", name):
            *numbers, tail = match.groups()
            return after.format(*numbers) + tail
    raise ConfigError(f"tensor {name!r} has no place in RLIPv2-ParSeDA (expected weights of the released architecture)")


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
