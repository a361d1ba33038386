"""CLIP weights by the names that other libraries give them.

Ours, open_clip's and transformers' CLIP are one architecture under three sets of names; transformers also stores the queries,
keys and values apart. `from_open_clip` reads one set into ours, `to_transformers` writes ours into another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from diptych.core.errors import ConfigError

# (pattern, replacement) in order; the first that matches a whole name renames it
_OPEN_CLIP = (
    (r"visual\.conv1\.(\w+)", r"image_tower.patches.\1"),
    (r"visual\.class_embedding", "image_tower.class_token_D"),
    (r"visual\.positional_embedding", "image_tower.position_PD"),
    (r"visual\.ln_pre\.(\w+)", r"image_tower.norm_before.\1"),
    (r"visual\.ln_post\.(\w+)", r"image_tower.norm_after.\1"),
    (r"visual\.proj", "image_projection.weight"),
    (r"visual\.transformer\.resblocks\.(.+)", r"image_tower.transformer.blocks.\1"),
    (r"transformer\.resblocks\.(.+)", r"text_tower.transformer.blocks.\1"),
    (r"token_embedding\.weight", "text_tower.embed.weight"),
    (r"positional_embedding", "text_tower.position_LD"),
    (r"ln_final\.(\w+)", r"text_tower.norm_after.\1"),
    (r"text_projection", "text_projection.weight"),
    (r"logit_scale", "log_scale"),
    (r"logit_bias", "bias"),
)
_OPEN_CLIP_BLOCK = (
    (r"(.+)\.attn\.in_proj_(weight|bias)", r"\1.attention.qkv.\2"),
    (r"(.+)\.attn\.out_proj\.(\w+)", r"\1.attention.out.\2"),
    (r"(.+)\.ln_([12])\.(\w+)", r"\1.norm_\2.\3"),
    (r"(.+)\.mlp\.c_fc\.(\w+)", r"\1.mlp_in.\2"),
    (r"(.+)\.mlp\.c_proj\.(\w+)", r"\1.mlp_out.\2"),
    (r"(.+)", r"\1"),
)
_TRANSFORMERS = (
    (r"image_tower\.patches\.weight", "vision_model.embeddings.patch_embedding.weight"),
    (r"image_tower\.class_token_D", "vision_model.embeddings.class_embedding"),
    (r"image_tower\.position_PD", "vision_model.embeddings.position_embedding.weight"),
    (r"image_tower\.norm_before\.(\w+)", r"vision_model.pre_layrnorm.\1"),
    (r"image_tower\.norm_after\.(\w+)", r"vision_model.post_layernorm.\1"),
    (r"image_tower\.transformer\.blocks\.(.+)", r"vision_model.encoder.layers.\1"),
    (r"text_tower\.transformer\.blocks\.(.+)", r"text_model.encoder.layers.\1"),
    (r"text_tower\.embed\.weight", "text_model.embeddings.token_embedding.weight"),
    (r"text_tower\.position_LD", "text_model.embeddings.position_embedding.weight"),
    (r"text_tower\.norm_after\.(\w+)", r"text_model.final_layer_norm.\1"),
    (r"image_projection\.weight", "visual_projection.weight"),
    (r"text_projection\.weight", "text_projection.weight"),
    (r"log_scale", "logit_scale"),
)
_TRANSFORMERS_BLOCK = (
    (r"(.+)\.attention\.out\.(\w+)", r"\1.self_attn.out_proj.\2"),
    (r"(.+)\.norm_([12])\.(\w+)", r"\1.layer_norm\2.\3"),
    (r"(.+)\.mlp_in\.(\w+)", r"\1.mlp.fc1.\2"),
    (r"(.+)\.mlp_out\.(\w+)", r"\1.mlp.fc2.\2"),
    (r"(.+)", r"\1"),
)


def from_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a `DualEncoder` of the CLIP architecture, from that of an open_clip CLIP whose image tower is a ViT."""
    out = {}
    for name, tensor in tensors.items():
        if name == "attn_mask":
            continue
        ours = _renamed(_renamed(name, _OPEN_CLIP), _OPEN_CLIP_BLOCK)
        if ours.endswith("_projection.weight"):
            tensor = tensor.T
        out[ours] = tensor.reshape(1) if ours in ("log_scale", "bias") else tensor
    return out


def to_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a transformers `CLIPModel`, from that of a `DualEncoder` of the CLIP architecture."""
    out = {}
    for name, tensor in tensors.items():
        theirs = _renamed(_renamed(name, _TRANSFORMERS), _TRANSFORMERS_BLOCK)
        if split := re.fullmatch(r"(.+)\.attention\.qkv\.(\w+)", theirs):
            for part, value in zip("qkv", tensor.chunk(3), strict=True):
                out[f"{split[1]}.self_attn.{part}_proj.{split[2]}"] = value
        else:
            out[theirs] = tensor.reshape(()) if theirs == "logit_scale" else tensor
    return out


def _renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        if found := re.fullmatch(pattern, name):
            return found.expand(replacement)
    raise ConfigError(f"tensor {name!r} has no place in CLIP's architecture (expected weights of a ViT-kind CLIP)")
