"""Mono-InternVL's published weights in a bridge: InternLM2's names and packed attention in LLaMA's form (2410.08202, 2403.17297).

Letters: G groups of heads, Q queries of a group, H dimensions of a head, D width.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.core.errors import DataError
from diptych.models.bridges.bridge import Bridge
from diptych.models.bridges.llava_weights import weight_tensors

LAYER = re.compile(r"^language_model\.model\.layers\.(\d+)\.(.+)$")
OF_LAYER = {
    "attention.wo": "self_attn.o_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.words.gate_proj",
    "feed_forward.w3": "mlp.words.up_proj",
    "feed_forward.w2": "mlp.words.down_proj",
    "feed_forward_ve.w1": "mlp.visual.gate_proj",
    "feed_forward_ve.w3": "mlp.visual.up_proj",
    "feed_forward_ve.w2": "mlp.visual.down_proj",
}
OTHERS = {
    "language_model.model.tok_embeddings.weight": "language.inner.model.embed_tokens.weight",
    "language_model.model.norm.weight": "language.inner.model.norm.weight",
    "language_model.output.weight": "language.inner.lm_head.weight",
    "vision_model.embeddings.patch_embedding.weight": "encoder.convolution.weight",
    "vision_model.embeddings.patch_embedding.bias": "encoder.convolution.bias",
    "mlp1.0.weight": "connector.norm.weight",
    "mlp1.0.bias": "connector.norm.bias",
    "mlp1.1.weight": "connector.linear_1.weight",
    "mlp1.1.bias": "connector.linear_1.bias",
    "mlp1.3.weight": "connector.linear_2.weight",
    "mlp1.3.bias": "connector.linear_2.bias",
}
POSITION = "vision_model.embeddings.position_embedding"
UNREAD = ("vision_model.embeddings.class_embedding",)
"""The class token, which is dropped before anything reads it."""


def converted(name: str, tensor: Tensor, *, heads: int, groups: int) -> dict[str, Tensor]:
    """Tensors of a bridge that a published one becomes; none for what nothing reads. Raises DataError for an unknown name.

    heads, groups  of the language model's attention: queries, and keys and values. Packed attention holds for each group its queries, then
    its key, then its value
    """
    if name in UNREAD or name.endswith(".rotary_emb.inv_freq"):
        return {}
    if name == POSITION:
        return {"encoder.position_PD": tensor[0, 1:]}
    if name in OTHERS:
        return {OTHERS[name]: tensor}
    match = LAYER.match(name)
    part, _, kind = match[2].rpartition(".") if match else ("", "", "")
    if match and part == "attention.wqkv":
        packed_GQHD = tensor.unflatten(0, (groups, heads // groups + 2, -1))
        start = f"language.inner.model.layers.{match[1]}.self_attn."
        pieces = {"q_proj": packed_GQHD[:, :-2], "k_proj": packed_GQHD[:, -2:-1], "v_proj": packed_GQHD[:, -1:]}
        return {f"{start}{own}.{kind}": piece.flatten(0, 2) for own, piece in pieces.items()}
    if match and part in OF_LAYER:
        return {f"language.inner.model.layers.{match[1]}.{OF_LAYER[part]}.{kind}": tensor}
    raise DataError(f"tensor {name} is unknown", expected="the weights of Mono-InternVL-2B")


@torch.no_grad()
def take_mono_internvl_(bridge: Bridge, address: str) -> None:
    """Copies a published Mono-InternVL into a bridge with visual experts. Raises DataError for a tensor that is missing, left over, or of
    another shape.

    address  "hf:FOLDER" as it is published
    """
    folder = Path(address.removeprefix("hf:")).expanduser()
    settings: Any = bridge.language.inner.config
    heads, groups = int(settings.num_attention_heads), int(settings.num_key_value_heads)
    needed, filled = bridge.state_dict(keep_vars=True), set[str]()
    for name, tensor in weight_tensors(folder):
        for ours, value in converted(name, tensor, heads=heads, groups=groups).items():
            if ours not in needed:
                raise DataError(
                    f"tensor {name} does not belong to the recipe's model", file=folder, expected="the same layers and experts"
                )
            if needed[ours].shape != value.shape:
                shapes = f"{list(value.shape)}, the recipe's {list(needed[ours].shape)}"
                raise DataError(f"{name} is {shapes}", file=folder, expected="the same sizes")
            needed[ours].copy_(value)
            filled.add(ours)
    if missing := sorted(set(needed) - filled):
        raise DataError(f"tensor {missing[0]} is missing", file=folder, expected="the weights of Mono-InternVL-2B")
