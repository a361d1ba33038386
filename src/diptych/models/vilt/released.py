"""Published weights under the names of a `Vilt`: folders of transformers, the authors' own checkpoints, and the vision transformer of
ImageNet that pre-training starts from.

Letters: P positions, D width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from diptych.core.errors import DataError
from diptych.models.vilt.vilt import Vilt

Rules = tuple[tuple[str, str], ...]
_SHARED: Rules = (
    (r"pooler\.dense\.(\w+)", r"pool.\1"),
    (r"mlm_score\.transform\.dense\.(\w+)", r"head.0.\1"),
    (r"mlm_score\.transform\.LayerNorm\.(\w+)", r"head.2.\1"),
    (r"mlm_score\.decoder\.(\w+)", r"head.3.\1"),
    (r"mlm_score\.bias", r"head.3.bias"),
    (r"itm_score\.fc\.(\w+)", r"fits.\1"),
    (r"rank_output\.(\w+)", r"rank.\1"),
    (r"vqa_classifier\.(\d)\.(\w+)", r"answer.\1.\2"),
)
_TABLES: Rules = (
    (r"text_embeddings\.word_embeddings\.weight", "words.weight"),
    (r"text_embeddings\.position_embeddings\.weight", "position_LD"),
    (r"text_embeddings\.token_type_embeddings\.weight", "types.weight"),
    (r"text_embeddings\.LayerNorm\.(\w+)", r"text_norm.\1"),
    (r"token_type_embeddings\.weight", "kinds.weight"),
)
_AUTHORS: Rules = (
    *_SHARED,
    *_TABLES,
    (r"transformer\.cls_token", "class_token_D"),
    (r"transformer\.pos_embed", "position_PD"),
    (r"transformer\.patch_embed\.proj\.(\w+)", r"patches.\1"),
    (r"transformer\.norm\.(\w+)", r"norm.\1"),
    (r"transformer\.blocks\.(\d+)\.norm([12])\.(\w+)", r"blocks.\1.norm_\2.\3"),
    (r"transformer\.blocks\.(\d+)\.attn\.qkv\.(\w+)", r"blocks.\1.attention.qkv.\2"),
    (r"transformer\.blocks\.(\d+)\.attn\.proj\.(\w+)", r"blocks.\1.attention.out.\2"),
    (r"transformer\.blocks\.(\d+)\.mlp\.fc1\.(\w+)", r"blocks.\1.mlp_in.\2"),
    (r"transformer\.blocks\.(\d+)\.mlp\.fc2\.(\w+)", r"blocks.\1.mlp_out.\2"),
)
_TRANSFORMERS: Rules = (
    *_SHARED,
    *((rf"embeddings\.{pattern}", ours) for pattern, ours in _TABLES),
    (r"embeddings\.cls_token", "class_token_D"),
    (r"embeddings\.position_embeddings", "position_PD"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patches.\1"),
    (r"layernorm\.(\w+)", r"norm.\1"),
    (r"encoder\.layer\.(\d+)\.layernorm_before\.(\w+)", r"blocks.\1.norm_1.\2"),
    (r"encoder\.layer\.(\d+)\.layernorm_after\.(\w+)", r"blocks.\1.norm_2.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(\w+)", r"blocks.\1.attention.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"blocks.\1.attention.out.\2"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(\w+)", r"blocks.\1.mlp_in.\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(\w+)", r"blocks.\1.mlp_out.\2"),
)


def is_released(tensors: Mapping[str, Tensor]) -> bool:
    """True if the tensors have the names of the authors' checkpoints or of transformers' folders."""
    marks = ("transformer.patch_embed.", "embeddings.patch_embeddings.", "vilt.embeddings.patch_embeddings.")
    return any(name.startswith(marks) for name in tensors)


def from_released(tensors: Mapping[str, Tensor], *, answers: bool = False) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under the names of a `Vilt`, and the names of those that it has no place for: heads of other tasks.

    answers  transformers' `classifier` is that of questions, and not one of two pictures, which has the same name
    """
    authors = any(name.startswith("transformer.") for name in tensors)
    out: dict[str, Tensor] = {}
    left: list[str] = []
    for name, tensor in tensors.items():
        plain = name.removeprefix("vilt.")
        plain = f"vqa_{plain}" if answers and plain.startswith("classifier.") else plain
        if plain.endswith("position_ids"):
            continue
        ours = _renamed(plain, _AUTHORS if authors else _TRANSFORMERS)
        if ours is None:
            left.append(name)
        else:
            out[ours] = tensor.flatten(end_dim=-2).squeeze(0) if ours in ("class_token_D", "position_PD") else tensor
    return _joined(out), left


def init_from_vit_(vilt: Vilt, tensors: Mapping[str, Tensor]) -> None:
    """Starts the blocks, the patches and their places from a vision transformer in timm's names, ImageNet's ViT-B/32 at 384 pixels as
    released. Words, kinds and heads stay as they are. Raises DataError if a tensor is missing or of another shape."""
    renamed, _ = from_released({f"transformer.{name}": tensor for name, tensor in tensors.items()})
    own = vilt.state_dict()
    for name in (name for name in own if name.startswith(("blocks.", "patches.", "norm.", "class_token_D", "position_PD"))):
        came = list(renamed[name].shape) if name in renamed else "nothing"
        if came != list(own[name].shape):
            raise DataError(
                f"weights for the transformer have {came} for {name}", expected=f"{list(own[name].shape)}, the recipe's size"
            )
        own[name].copy_(renamed[name])


def _renamed(name: str, rules: Rules) -> str | None:
    for pattern, replacement in rules:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return None


def _joined(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values of a layer in one tensor."""
    for name in [name for name in tensors if ".attention.query." in name]:
        parts = [name.replace("query", part) for part in ("query", "key", "value")]
        if all(part in tensors for part in parts):
            tensors[name.replace("query", "qkv")] = torch.cat([tensors.pop(part) for part in parts])
    return tensors
