"""Tensors of FIBER's released second stage (microsoft/FIBER, fine-grained) under the names of a `DenseFiberDetector`.

What is folded or left out: pictures are read as BGR there, so the first convolution's channels are turned round; RoBERTa adds one and the
same segment vector to every word, which goes into the words; its first two positions belong to padding. A head of 80 classes, anchors, and
computed buffers do not belong to the text-conditioned head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from diptych.core.errors import DataError
from diptych.models.detection.checkpoint import required_tensor
from diptych.models.detection.released_head import head_tensors
from diptych.models.fiber.released import LAYER, PADDED, gate_part

SOURCE = "the weights of a released FIBER, fine-grained"
_BODY, _WORDS = "fusion_backbone.backbone.body.", "fusion_backbone.language_backbone.body.model."
_FPN = "fusion_backbone.backbone.fpn."
_BLOCK = re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.attn\.(.+)")
_MERGE = re.compile(r"layers\.(\d+)\.downsample\.(.+)")
_NORM = re.compile(r"norm(\d+)\.(weight|bias)")
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)")
_UNUSED = re.compile(r".*\.relative_position_index|.*\.attn_mask|.*\.position_ids")
"""Numbers that are computed."""


def is_fine(tensors: Mapping[str, Tensor]) -> bool:
    """True if the tensors have the names of the fine-grained release."""
    return any(name.removeprefix("module.").startswith("fusion_backbone.") for name in tensors)


def from_fine(tensors: Mapping[str, Tensor], *, depths: Sequence[int], text_layers: int, fused: int) -> dict[str, Tensor]:
    """The tensors of a `DenseFiberDetector`.

    depths, text_layers, fused  of the model, as the release numbers blocks by stage
    Raises DataError for a tensor that has no place here, or one that is missing of those that are put together from several.
    """
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    out: dict[str, Tensor] = {}
    before = [sum(depths[:stage]) for stage in range(len(depths))]
    first = sum(depths) - fused
    for name, tensor in tensors.items():
        if _UNUSED.fullmatch(name):
            continue
        if name.startswith(_BODY):
            _image(out, name.removeprefix(_BODY), tensor, before, first)
        elif name.startswith(_WORDS):
            _text(out, name.removeprefix(_WORDS), tensors, text_layers - fused)
        elif not name.startswith((_FPN, "rpn.")):
            raise DataError(f"tensor {name} does not belong to the detector", expected=SOURCE)
    out |= {f"head.{name}": tensor for name, tensor in head_tensors(tensors, _FPN, SOURCE).items()}
    table = f"{_WORDS}embeddings."
    words_VD = required_tensor(tensors, f"{table}word_embeddings.weight", SOURCE)
    out["text.words.weight"] = words_VD + required_tensor(tensors, f"{table}token_type_embeddings.weight", SOURCE)[0]
    out["text.position_LD"] = required_tensor(tensors, f"{table}position_embeddings.weight", SOURCE)[PADDED:]
    return out


def _image(out: dict[str, Tensor], name: str, tensor: Tensor, before: Sequence[int], first: int) -> None:
    net = "backbone.image.net."
    if match := _BLOCK.fullmatch(name):
        stage, block, rest = int(match[1]), int(match[2]), match[3]
        if "i2t" in rest:
            gate_part(out, f"backbone.image.gates.{before[stage] + block - first}.", rest, tensor)
        else:
            out[f"{net}layers.{stage}.blocks.{block}.attn.{rest}"] = tensor
    elif match := _MERGE.fullmatch(name):
        out[f"{net}layers.{int(match[1]) + 1}.downsample.{match[2]}"] = tensor
    elif match := _NORM.fullmatch(name):
        out[f"backbone.norms.{int(match[1]) - 1}.{match[2]}"] = tensor
    else:
        out[f"{net}{name}"] = tensor.flip(1) if name == "patch_embed.proj.weight" else tensor


def _text(out: dict[str, Tensor], name: str, tensors: Mapping[str, Tensor], first: int) -> None:
    if match := _LAYER.fullmatch(name):
        layer, (part, _, kind) = int(match[1]), match[2].rpartition(".")
        if part in LAYER:
            out[f"text.blocks.{layer}.{LAYER[part]}.{kind}"] = tensors[f"{_WORDS}{name}"]
        elif part == "attention.self.query":
            parts = [f"{_WORDS}{name}".replace(".query.", f".{other}.") for other in ("query", "key", "value")]
            out[f"text.blocks.{layer}.attention.qkv.{kind}"] = torch.cat(
                [required_tensor(tensors, each, SOURCE) for each in parts]
            )
        elif kind == "alpha_t2i" and layer >= first:
            out[f"text.blocks.{layer}.gate.alpha_1"] = tensors[f"{_WORDS}{name}"]
        elif part not in ("attention.self.key", "attention.self.value"):
            raise DataError(f"tensor {_WORDS}{name} does not belong to the detector", expected=SOURCE)
    elif name.startswith("embeddings.LayerNorm."):
        out[f"text.norm.{name.rpartition('.')[2]}"] = tensors[f"{_WORDS}{name}"]
    elif not name.startswith("embeddings."):
        raise DataError(f"tensor {_WORDS}{name} does not belong to the detector", expected=SOURCE)
