"""The dense head of microsoft/GLIP, microsoft/FIBER and liunian-harold-li/DesCo, tensor by tensor, under the names of a `DenseHead`.

Its rounds are numbered one after the other. Where maps and text meet in it, each is three modules: the meeting, a layer of BERT,
the maps' own. A head of classes, anchors, and computed buffers do not belong to the text-conditioned head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from diptych.core.errors import DataError
from diptych.models.detection.checkpoint import required_tensor

_HEAD = "rpn.head."
_LEVEL = re.compile(r"fpn_(inner|layer)(\d+)\.(weight|bias)")
_ROUND = re.compile(r"dyhead_tower\.(\d+)\.(.+)\.(weight|bias)")
_SHARE = re.compile(r"dyhead_tower\.(\d+)\.b_attn\.gamma_(v|l)")
_MAPS = {
    "DyConv.0.conv": "from_coarser", "DyConv.1.conv": "own", "DyConv.2.conv": "from_finer",
    "DyConv.0.bn": "from_coarser.norm", "DyConv.1.bn": "own.norm", "DyConv.2.bn": "from_finer.norm",
    "AttnConv.1": "level", "relu.fc.0": "channels.squeeze", "relu.fc.2": "channels.expand", "offset": "places",
}  # fmt: skip
_MEETING = {
    "b_attn.layer_norm_v": "place_norm", "b_attn.layer_norm_l": "label_norm", "b_attn.attn.v_proj": "place_score",
    "b_attn.attn.l_proj": "label_score", "b_attn.attn.values_v_proj": "place_value", "b_attn.attn.values_l_proj": "label_value",
    "b_attn.attn.out_v_proj": "place_out", "b_attn.attn.out_l_proj": "label_out",
}  # fmt: skip
_WORDS = {
    "attention.output.dense": "attention.out", "attention.output.LayerNorm": "norm_1", "intermediate.dense": "mlp_in",
    "output.dense": "mlp_out", "output.LayerNorm": "norm_2",
}  # fmt: skip
_PARTS = {**{name: ("meetings", part) for name, part in _MEETING.items()}, **{name: ("words", part) for name, part in _WORDS.items()},
          **{name: ("blocks", part) for name, part in _MAPS.items()}}  # fmt: skip
_QKV = tuple(f"attention.self.{part}" for part in ("query", "key", "value"))
_HEADS = {
    "bbox_pred.weight": "box.weight", "bbox_pred.bias": "box.bias", "centerness.weight": "centre.weight", "centerness.bias": "centre.bias",
    "dot_product_projection_text.weight": "tokens.project.weight", "dot_product_projection_text.bias": "tokens.project.bias",
    "log_scale": "tokens.log_temperature", "bias_lang": "tokens.token_bias_T", "bias0": "tokens.bias",
}  # fmt: skip
_UNUSED = re.compile(
    r"rpn\.head\.cls_logits\.(weight|bias)|rpn\.head\.scales\.\d+\.scale|rpn\.anchor_generator\.cell_anchors\.\d+"
)
"""Not weights of what answers words; the scales are taken together elsewhere."""


def has_fusion(tensors: Mapping[str, Tensor]) -> bool:
    """True if the head has image-text fusion layers."""
    return any(".b_attn." in name for name in tensors)


def count_rounds(tensors: Mapping[str, Tensor]) -> int:
    """Number of rounds in the head."""
    last = max((int(match[1]) for name in tensors if (match := _ROUND.fullmatch(name.removeprefix(_HEAD)))), default=-1)
    return (last + 1) // 3 if has_fusion(tensors) else last + 1


def head_tensors(tensors: Mapping[str, Tensor], pyramid: str, source: str) -> dict[str, Tensor]:
    """Tensors of a `DenseHead` from the released ones whose names begin with `pyramid` or with "rpn.".

    Raises DataError, with the expected `source`, for a tensor that does not belong there, or a missing one of those that become one.
    """
    tensors_out: dict[str, Tensor] = {}
    each = 3 if has_fusion(tensors) else 1
    for name, tensor in tensors.items():
        if not name.startswith((pyramid, "rpn.")) or _UNUSED.fullmatch(name):
            continue
        level, head = name.removeprefix(pyramid), name.removeprefix(_HEAD)
        if match := _LEVEL.fullmatch(level):
            tensors_out[f"pyramid.{match[1]}_blocks.{int(match[2]) - 2}.0.{match[3]}"] = tensor
        elif level.startswith("top_blocks."):
            tensors_out[f"pyramid.extra_blocks.{level.removeprefix('top_blocks.')}"] = tensor
        elif head in _HEADS:
            tensors_out[_HEADS[head]] = tensor
        elif match := _SHARE.fullmatch(head):
            tensors_out[f"tower.meetings.{int(match[1]) // each}.{'place' if match[2] == 'v' else 'label'}_gate.gate"] = tensor
        elif (match := _ROUND.fullmatch(head)) and match[2] in _PARTS:
            kind, part = _PARTS[match[2]]
            tensors_out[f"tower.{kind}.{int(match[1]) // each}.{part}.{match[3]}"] = tensor
        elif match and match[2] == _QKV[0]:
            parts = [required_tensor(tensors, name.replace(_QKV[0], other), source) for other in _QKV]
            tensors_out[f"tower.words.{int(match[1]) // each}.attention.qkv.{match[3]}"] = torch.cat(parts)
        elif not (match and match[2] in _QKV):
            raise DataError(f"tensor {name} does not belong to the detector", expected=source)
    levels = sum(name.startswith(f"{_HEAD}scales.") for name in tensors)
    tensors_out["box_scale"] = torch.cat(
        [required_tensor(tensors, f"{_HEAD}scales.{n}.scale", source).reshape(1) for n in range(levels)]
    )
    return tensors_out
