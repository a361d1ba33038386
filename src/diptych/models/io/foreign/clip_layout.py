"""CLIP weights by the names that other libraries give them.

Ours, open_clip's and transformers' CLIP are one architecture under three sets of names; transformers also stores the queries,
keys and values apart. `from_open_clip` reads one set into ours (of a ViT, a residual network, or SigLIP), `to_transformers` writes
ours into another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from diptych.core.errors import ConfigError

_SIZES = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's files hold among the tensors."""

# (pattern, replacement) in order; the first that matches a whole name renames it
_OPEN_CLIP = (
    (r"visual\.conv1\.(\w+)", r"image_tower.patches.\1"),
    (r"visual\.class_embedding", "image_tower.class_token_D"),
    (r"visual\.positional_embedding", "image_tower.position_PD"),
    (r"visual\.ln_pre\.(\w+)", r"image_tower.norm_before.\1"),
    (r"visual\.ln_post\.(\w+)", r"image_tower.norm_after.\1"),
    (r"visual\.proj", "image_projection.weight"),
    (r"visual\.transformer\.resblocks\.(.+)", r"image_tower.transformer.blocks.\1"),
    (r"(?:text\.)?transformer\.resblocks\.(.+)", r"text_tower.transformer.blocks.\1"),
    (r"(?:text\.)?token_embedding\.weight", "text_tower.embed.weight"),
    (r"(?:text\.)?positional_embedding", "text_tower.position_LD"),
    (r"(?:text\.)?ln_final\.(\w+)", r"text_tower.norm_after.\1"),
    (r"text_projection", "text_projection.weight"),
    (r"logit_scale", "log_scale"),
    (r"logit_bias", "bias"),
)
_RESNET = (
    (r"visual\.conv(\d)\.(\w+)", r"image_tower.conv_\1.\2"),
    (r"visual\.bn(\d)\.(\w+)", r"image_tower.norm_\1.\2"),
    (r"visual\.attnpool\.positional_embedding", "image_tower.pool.position_PD"),
    (r"visual\.attnpool\.([qkv])_proj\.(\w+)", r"image_tower.pool.\1.\2"),
    (r"visual\.attnpool\.c_proj\.(\w+)", r"image_tower.pool.out.\1"),
    *(
        (rf"visual\.layer{stage + 1}\.(\d+)\.{theirs}\.(\w+)", rf"image_tower.stages.{stage}.\1.{ours}.\2")
        for stage in range(4)
        for theirs, ours in (
            *((f"conv{n}", f"conv_{n}") for n in (1, 2, 3)),
            *((f"bn{n}", f"norm_{n}") for n in (1, 2, 3)),
            (r"downsample\.0", "short"),
            (r"downsample\.1", "short_norm"),
        )
    ),
)
_SIGLIP = (
    (r"visual\.trunk\.pos_embed", "image_tower.position_PD"),
    (r"visual\.trunk\.patch_embed\.proj\.(\w+)", r"image_tower.patches.\1"),
    (r"visual\.trunk\.blocks\.(\d+)\.norm(\d)\.(\w+)", r"image_tower.transformer.blocks.\1.norm_\2.\3"),
    (r"visual\.trunk\.blocks\.(\d+)\.attn\.qkv\.(\w+)", r"image_tower.transformer.blocks.\1.attention.qkv.\2"),
    (r"visual\.trunk\.blocks\.(\d+)\.attn\.proj\.(\w+)", r"image_tower.transformer.blocks.\1.attention.out.\2"),
    (r"visual\.trunk\.blocks\.(\d+)\.mlp\.fc1\.(\w+)", r"image_tower.transformer.blocks.\1.mlp_in.\2"),
    (r"visual\.trunk\.blocks\.(\d+)\.mlp\.fc2\.(\w+)", r"image_tower.transformer.blocks.\1.mlp_out.\2"),
    (r"visual\.trunk\.norm\.(\w+)", r"image_tower.norm_after.\1"),
    (r"visual\.trunk\.attn_pool\.latent", "image_tower.pool.query_D"),
    (r"visual\.trunk\.attn_pool\.(q|kv|norm)\.(\w+)", r"image_tower.pool.\1.\2"),
    (r"visual\.trunk\.attn_pool\.proj\.(\w+)", r"image_tower.pool.out.\1"),
    (r"visual\.trunk\.attn_pool\.mlp\.fc1\.(\w+)", r"image_tower.pool.mlp_in.\1"),
    (r"visual\.trunk\.attn_pool\.mlp\.fc2\.(\w+)", r"image_tower.pool.mlp_out.\1"),
    (r"text\.text_projection\.(\w+)", r"text_projection.\1"),
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
    """The state dict of a `DualEncoder`, from that of an open_clip CLIP (a ViT or a residual network) or SigLIP (a ViT)."""
    rules: Iterable[tuple[str, str]] = _OPEN_CLIP
    if "visual.attnpool.positional_embedding" in tensors:
        rules = (*_RESNET, *_OPEN_CLIP)
    elif "visual.trunk.attn_pool.latent" in tensors:
        rules = (*_SIGLIP, *_OPEN_CLIP)
    out = {}
    for name, tensor in tensors.items():
        if name.endswith("attn_mask") or name in _SIZES:
            continue
        ours = _renamed(_renamed(name, rules), _OPEN_CLIP_BLOCK)
        out[ours] = _shaped(name, ours, tensor)
    return out


def _shaped(theirs: str, ours: str, tensor: Tensor) -> Tensor:
    """CLIP multiplies by its projections from the left, where SigLIP has a linear layer; some of ours have a dimension less or more."""
    if theirs in ("visual.proj", "text_projection"):
        return tensor.T
    if ours in ("log_scale", "bias"):
        return tensor.reshape(1)
    if ours == "image_tower.pool.query_D":
        return tensor.flatten()
    return tensor[0] if theirs == "visual.trunk.pos_embed" else tensor


def to_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a transformers `CLIPModel`, from that of a `DualEncoder` of the CLIP architecture."""
    out = {}
    for name, tensor in tensors.items():
        theirs = renamed_for_transformers(name)
        if split := re.fullmatch(r"(.+)\.attention\.qkv\.(\w+)", theirs):
            for part, value in zip("qkv", tensor.chunk(3), strict=True):
                out[f"{split[1]}.self_attn.{part}_proj.{split[2]}"] = value
        else:
            out[theirs] = tensor.reshape(()) if theirs == "logit_scale" else tensor
    return out


def renamed_for_transformers(name: str) -> str:
    """The name that a tensor of a `DualEncoder` has in a `CLIPModel`, but for those of queries, keys and values, which are three there."""
    return _renamed(_renamed(name, _TRANSFORMERS), _TRANSFORMERS_BLOCK)


def _renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    raise ConfigError(f"tensor {name!r} does not belong to CLIP's architecture (expected weights of a ViT-kind CLIP)")
