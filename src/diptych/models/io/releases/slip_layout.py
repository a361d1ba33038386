"""SLIP's layout of a dual encoder: a vision transformer in timm's names, CLIP's text transformer, two projections (LaCLIP, ULIP)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.models.io.foreign.clip_layout import from_open_clip
from diptych.models.io.foreign.parts import DualEncoderParts
from diptych.models.io.foreign.timm_bert import IMAGE, IMAGE_BLOCK

NORMALISED = {768: "vit_base_patch16_224", 64: "test_vit"}
"""Width -> timm's vision transformer whose queries and keys are normalised, as LaCLIP's are."""
_REQUIRED = (
    *("visual.cls_token", "visual.pos_embed", "visual.patch_embed.proj.weight", "image_projection", "token_embedding.weight"),
    *("positional_embedding", "text_projection", "ln_final.weight", "logit_scale"),
)


def is_slip(tensors: Mapping[str, Tensor]) -> bool:
    """True if the image side has timm's names and a projection of its own."""
    return "visual.cls_token" in tensors and "image_projection" in tensors


def slip_parts(tensors: Mapping[str, Tensor]) -> DualEncoderParts:
    """Towers and tensors of a `DualEncoder`. Raises ConfigError for tensors that have no place, or too few."""
    if lost := [name for name in _REQUIRED if name not in tensors]:
        raise ConfigError(f"not in the file: {', '.join(lost)} (expected a CLIP in SLIP's layout)")
    normalised = any(name.startswith("visual.") and ".q_norm." in name for name in tensors)
    image = _normalised_image(tensors) if normalised else slip_image(tensors)
    length, width = tensors["positional_embedding"].shape
    words = len(tensors["token_embedding.weight"])
    own, text = dict[str, Tensor](), dict[str, Tensor]()
    for name, tensor in tensors.items():
        if name == "image_projection":
            own["image_projection.weight"] = tensor.T
        elif name.startswith("visual.") and normalised:
            own[f"image_tower.net.{name.removeprefix('visual.')}"] = tensor
        elif name.startswith("visual."):
            own[f"image_tower.{slip_image_name(name.removeprefix('visual.'))}"] = slip_image_tensor(name, tensor)
        else:
            text[name] = tensor
    layers = count(r"transformer\.resblocks\.(\d+)\..+", tensors)
    sizes = {"vocab_size": words, "length": length, "width": width, "layers": layers, "heads": max(1, width // 64)}
    return DualEncoderParts(
        image=image,
        text={"name": "text_slip", **sizes, "eot_id": words - 1, "causal": True, "pooling": "eot"},
        width=tensors["text_projection"].shape[1],
        image_projection="plain",
        text_projection="plain",
        tensors=own | from_open_clip(text),
    )


def slip_image(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of the image tower of a plain SLIP, inferred from its tensors."""
    patches = tensors["visual.patch_embed.proj.weight"]
    width, patch = patches.shape[0], patches.shape[-1]
    return {
        "name": "slip_b16",
        "image_size": patch * round((tensors["visual.pos_embed"].shape[1] - 1) ** 0.5),
        "patch": patch,
        "width": width,
        "layers": count(r"visual\.blocks\.(\d+)\..+", tensors),
        "heads": max(1, width // 64),
    }


def slip_image_name(name: str) -> str:
    """Ours of a timm vision transformer's tensor. Raises ConfigError for one that has no place."""
    if name in IMAGE:
        return IMAGE[name]
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
    inner = IMAGE_BLOCK.get(match[2]) if match else None
    if not match or not inner:
        raise ConfigError(f"tensor visual.{name} does not belong to a plain vision transformer (expected SLIP's layout)")
    return f"transformer.blocks.{match[1]}.{inner}.{match[3]}"


def slip_image_tensor(name: str, tensor: Tensor) -> Tensor:
    """A class token and positions without the dimensions that timm gives them."""
    if name.endswith("cls_token"):
        return tensor.flatten()
    return tensor[0] if name.endswith("pos_embed") else tensor


def count(pattern: str, tensors: Mapping[str, Tensor]) -> int:
    """Number of distinct values of the pattern's first group among tensor names."""
    return len({match[1] for name in tensors if (match := re.fullmatch(pattern, name))})


def _normalised_image(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width, patch = tensors["visual.patch_embed.proj.weight"].shape[0], tensors["visual.patch_embed.proj.weight"].shape[-1]
    if width not in NORMALISED:
        raise ConfigError(f"the vision transformer is {width} wide (expected {' | '.join(map(str, NORMALISED))}: ViT-B/16)")
    side = patch * round((tensors["visual.pos_embed"].shape[1] - 1) ** 0.5)
    return {"name": f"timm:{NORMALISED[width]}", "image_size": side, "qk_norm": True}
