"""Join and split tensors that a released RLIPv2 checkpoint stores in a different layout.

Names are the released ones on both sides; `names` renames them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.models.rlipv2.names import QUERY_PARTS, example_gate
from diptych.models.rlipv2.relation_detector import RelationDetectorConfig

GATE_BRANCHES = 16  # of a gate that is a multi-branch fusion
_TOP_HEAD = re.compile(r"((?:sub|obj)_bbox_embed)\.(\d+)\.(.+)")
_HEAD = re.compile(r"transformer\.(ho|verb)_decoder\.((?:sub|obj)_bbox_embed)\.(\d+)\.(.+)")
_QKV = re.compile(r"(.+\.roberta_layers\.\d+\.attention\.self)\.(query|key|value)\.(\w+)")
_BRANCH = re.compile(r"(transformer\.verb_tgt_generator|.+\.MBF_[vl])\.(fc_\d)\.(\d+)\.(\w+)")
_BLOCK = re.compile(r"(.+\.VLFuse_layers\.\d+\.b_attn)\.layer_norm_([vl])\.weight")


def join_released(tensors: Mapping[str, Tensor], shape: RelationDetectorConfig) -> dict[str, Tensor]:
    """Convert released tensors to our layout.

    Every box head is only under its decoder's name; queries, keys and values of language layers are one tensor,
    and so are the branches of a fusion; ParSeD's query tensor is split into its three thirds.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    out: dict[str, Tensor] = {}
    for name, tensor in _heads_once(tensors, shape.decoder_layers).items():
        if qkv := _QKV.fullmatch(name):
            groups.setdefault(f"{qkv[1]}.qkv_{qkv[3]}", {})[qkv[2]] = tensor
        elif branch := _BRANCH.fullmatch(name):
            groups.setdefault(f"{branch[1]}.{branch[2]}.{branch[4]}", {})[branch[3]] = tensor
        elif name == "query_embed.weight" and shape.variant == "parsed" and not shape.given:
            out |= dict(zip(QUERY_PARTS, tensor.chunk(3, 1), strict=True))
        else:
            out[name] = tensor
    for name, parts in groups.items():
        order = ["query", "key", "value"] if ".qkv_" in name else [str(row) for row in range(_branches(name, shape))]
        if sorted(parts) != sorted(order):
            raise ConfigError(f"{name} is made of the parts {', '.join(order)}, but {', '.join(sorted(parts))} are there")
        listed = [parts[key] for key in order]
        if name.endswith("fc_3.bias"):
            out[name] = torch.stack(listed).sum(0)
        else:
            out[name] = torch.cat(listed, 1 if name.endswith("fc_3.weight") else 0)
    return out


def split_for_release(tensors: Mapping[str, Tensor], shape: RelationDetectorConfig) -> dict[str, Tensor]:
    """Inverse of `join_released`, with all further tensors of the released modules.

    These are both names of every box head, heads of the relation decoder without effect where the model has none,
    whole gate vectors, index buffers, and queries that a tagger never uses.
    """
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if qkv := re.fullmatch(r"(.+\.attention\.self)\.qkv_(\w+)", name):
            for part, value in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                out[f"{qkv[1]}.{part}.{qkv[2]}"] = value
        elif fused := re.fullmatch(r"(.+\.fc_\d)\.(weight|bias)", name):
            for row, value in enumerate(_parts(tensor, name, _branches(name, shape))):
                out[f"{fused[1]}.{row}.{fused[2]}"] = value
        elif name not in QUERY_PARTS:
            out[name] = tensor
    _write_queries(out, tensors, shape)
    _write_gates(out, shape)
    _write_heads(out, shape.decoder_layers)
    embeddings = "transformer.text_encoder.embeddings"
    if (positions := out.get(f"{embeddings}.position_embeddings.weight")) is not None:
        out[f"{embeddings}.position_ids"] = torch.arange(len(positions))[None]
    for name in [name for name in out if name.endswith("relative_position_bias_table")]:
        window = (int(out[name].shape[0] ** 0.5) + 1) // 2
        out[name.replace("bias_table", "index")] = _window_index(window)
    return out


def _heads_once(tensors: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Keep one name of each box head. If a file has both, that at the top level counts, as when the release loads it."""
    out = {name: tensor for name, tensor in tensors.items() if not _TOP_HEAD.fullmatch(name)}
    for name, tensor in tensors.items():
        if head := _TOP_HEAD.fullmatch(name):
            kind, layer, rest = head.groups()
            decoder, row = ("verb", int(layer) - layers) if int(layer) >= layers else ("ho", int(layer))
            out[f"transformer.{decoder}_decoder.{kind}.{row}.{rest}"] = tensor
    return out


def _write_heads(out: dict[str, Tensor], layers: int) -> None:
    heads = {name: head.groups() for name in out if (head := _HEAD.fullmatch(name))}
    for name, (decoder, kind, layer, rest) in heads.items():
        verb = f"transformer.verb_decoder.{kind}.{layer}.{rest}"
        if verb not in heads:
            out[verb] = torch.zeros_like(out[name]) if rest.startswith("layers.2") else out[name]
            out[f"{kind}.{int(layer) + layers}.{rest}"] = out[verb]
        out[f"{kind}.{int(layer) + (layers if decoder == 'verb' else 0)}.{rest}"] = out[name]


def _write_gates(out: dict[str, Tensor], shape: RelationDetectorConfig) -> None:
    """Write one vector per side for every kind of gate: a repeated value for scalar gates,
    the published initial value for unused ones.
    """
    size = getattr(example_gate(shape), "gate", torch.empty(0)).numel()
    for name in list(out):
        if block := _BLOCK.fullmatch(name):
            gate, width = f"{block[1]}.gamma_{block[2]}", out[name].shape[0]
            if gate not in out and size == 0:
                out[gate] = torch.full_like(out[name], 1 / shape.levels)
            elif gate in out:
                out[gate] = out[gate].expand(width).clone()


def _write_queries(out: dict[str, Tensor], tensors: Mapping[str, Tensor], shape: RelationDetectorConfig) -> None:
    if all(part in tensors for part in QUERY_PARTS):
        out["query_embed.weight"] = torch.cat([tensors[part] for part in QUERY_PARTS], 1)
    elif shape.given and "transformer.coord_proj.weight" in out:
        out["query_embed.weight"] = torch.zeros(2 * shape.pairs, 3 * shape.width)


def _branches(name: str, shape: RelationDetectorConfig) -> int:
    return GATE_BRANCHES if ".MBF_" in name else shape.branches


def _parts(tensor: Tensor, name: str, branches: int) -> Iterable[Tensor]:
    """Split a tensor into one part per branch. Only the sum of the last layer's biases matters."""
    if name.endswith("fc_3.bias"):
        return [tensor / branches] * branches
    return tensor.chunk(branches, 1 if name.endswith("fc_3.weight") else 0)


def _window_index(window: int) -> Tensor:
    """Return Swin's index of the relative position of two positions in a window, [window^2, window^2]."""
    place_P2 = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    apart_PP2 = place_P2[:, None] - place_P2[None] + window - 1
    return apart_PP2[..., 0] * (2 * window - 1) + apart_PP2[..., 1]
