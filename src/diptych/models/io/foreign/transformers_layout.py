"""Convert dual encoders of transformers: the supported families, and the mapping of their tensors.

Vision transformers are converted to our image towers, tensor by tensor, and so are CLIP's and SigLIP's text encoders.
Other encoders remain modules of transformers (`towers/packaged/hf_image.py`, `towers/packaged/hf_text.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.models.io.foreign.parts import DualEncoderParts, refuse_dropout
from diptych.models.towers.outputs import Projection

Rules = Iterable[tuple[str, str]]
ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
"""transformers' name of an activation -> ours."""


@dataclass(frozen=True)
class ModelFamily:
    """model_type    in config.json
    about         description of the family
    text_length   tokens per text in training, if there are more positions; 0: the number of positions
    parts         (configuration, state dict, class name) -> Parts
    classes       names of its dual encoder classes in transformers, the usual one first
    published     a published model of it
    """

    model_type: str
    about: str
    text_length: int
    parts: Callable[[dict[str, Any], Mapping[str, Tensor], str], DualEncoderParts]
    classes: tuple[str, ...]
    published: str


# ---------------------------------------------------------------- names

_BLOCK = (
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(\w+)", r"transformer.blocks.\1.attention.out.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)", r"transformer.blocks.\1.attention.\2.\3"),
    (r"encoder\.layers\.(\d+)\.self_attn\.qkv\.(\w+)", r"transformer.blocks.\1.attention.qkv.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn\.projection\.(\w+)", r"transformer.blocks.\1.attention.out.\2"),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.(\w+)", r"transformer.blocks.\1.norm_\2.\3"),
    (r"encoder\.layers\.(\d+)\.mlp\.fc1\.(\w+)", r"transformer.blocks.\1.mlp_in.\2"),
    (r"encoder\.layers\.(\d+)\.mlp\.fc2\.(\w+)", r"transformer.blocks.\1.mlp_out.\2"),
)
_IMAGE: Rules = (
    *_BLOCK,
    (r"embeddings\.class_embedding", "class_token_D"),
    (r"embeddings\.patch_embedding\.(\w+)", r"patches.\1"),
    (r"embeddings\.position_embedding(?:\.weight)?", "position_PD"),
    (r"pre_layrnorm\.(\w+)", r"norm_before.\1"),
    (r"post_layernorm\.(\w+)", r"norm_after.\1"),
    (r"head\.probe", "pool.query_D"),
    (r"head\.attention\.in_proj_(\w+)", r"pool.qkv.\1"),
    (r"head\.attention\.out_proj\.(\w+)", r"pool.out.\1"),
    (r"head\.layernorm\.(\w+)", r"pool.norm.\1"),
    (r"head\.mlp\.fc1\.(\w+)", r"pool.mlp_in.\1"),
    (r"head\.mlp\.fc2\.(\w+)", r"pool.mlp_out.\1"),
)
_TEXT: Rules = (
    *_BLOCK,
    (r"embeddings\.token_embedding\.weight", "embed.weight"),
    (r"embeddings\.position_embedding\.weight", "position_LD"),
    (r"final_layer_norm\.(\w+)", r"norm_after.\1"),
)
_TOP: Rules = (
    (r"(?:visual_projection|vision_proj)\.(\w+)", r"image_projection.\1"),
    (r"(?:text_projection|text_proj|text_model\.head)\.(\w+)", r"text_projection.\1"),
    (r"logit_scale", "log_scale"),
    (r"temperature", "log_scale"),
    (r"logit_bias", "bias"),
)
_NUMBERING = re.compile(r".*\.position_ids")


def _renamed(name: str, rules: Rules) -> str | None:
    for pattern, replacement in rules:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return None


def _sorted(
    tensors: Mapping[str, Tensor], sides: Mapping[str, tuple[str, Rules | None]], unread: str = ""
) -> tuple[dict[str, Tensor], list[str]]:
    """Return tensors by our names, and the names of those that are not used for embeddings.

    sides   prefix of theirs -> prefix of ours, and the rules for the rest (None: the module is kept unchanged)
    unread  regular expression of whole names that are dropped
    """
    out: dict[str, Tensor] = {}
    left: list[str] = []
    for name, tensor in tensors.items():
        if _NUMBERING.fullmatch(name):
            continue
        if unread and re.fullmatch(unread, name):
            left.append(name)
            continue
        ours = _renamed(name, _TOP)
        for theirs, (prefix, rules) in sides.items():
            if ours is None and name.startswith(theirs):
                rest = name.removeprefix(theirs)
                inner = rest if rules is None else _renamed(rest, rules)
                ours = None if inner is None else prefix + inner
        if ours is None:
            raise ConfigError(
                f"tensor {name!r} does not belong to a model of its family (expected the weights of a published one)"
            )
        out[ours] = _shaped(name, ours, tensor)
    return _joined(out), left


def _shaped(theirs: str, ours: str, tensor: Tensor) -> Tensor:
    if theirs == "temperature":  # ALIGN divides by it
        return -tensor.log().reshape(1)
    if ours in ("log_scale", "bias"):
        return tensor.reshape(1)
    if ours.endswith((".class_token_D", ".pool.query_D")):
        return tensor.flatten()
    return tensor[0] if ours.endswith(".position_PD") and tensor.ndim == 3 else tensor


def _joined(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Concatenate queries, keys and values to one matrix per block, and those of a pooling head to a query's and another one."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if split := re.fullmatch(r"(.+\.attention)\.([qkv])\.(\w+)", name):
            whole = f"{split[1]}.qkv.{split[3]}"
            if whole not in out:
                out[whole] = torch.cat([tensors[f"{split[1]}.{part}.{split[3]}"] for part in "qkv"])
        elif pool := re.fullmatch(r"(.+\.pool)\.qkv\.(\w+)", name):
            width = tensor.shape[0] // 3
            out[f"{pool[1]}.q.{pool[2]}"], out[f"{pool[1]}.kv.{pool[2]}"] = tensor[:width], tensor[width:]
        else:
            out[name] = tensor
    return out


# ---------------------------------------------------------------- sizes


def _sizes(settings: Mapping[str, Any]) -> dict[str, Any]:
    refuse_dropout(settings, settings.get("model_type", "the model"))
    if (act := settings["hidden_act"]) not in ACTIVATIONS:
        raise ConfigError(f"hidden_act is {act!r} (expected {' | '.join(ACTIVATIONS)})")
    return {
        "width": settings["hidden_size"],
        "layers": settings["num_hidden_layers"],
        "heads": settings["num_attention_heads"],
        "mlp_ratio": mlp_ratio(settings["hidden_size"], settings["intermediate_size"]),
        "act": ACTIVATIONS[act],
        "eps": settings["layer_norm_eps"],
    }


def mlp_ratio(width: int, hidden: int) -> float:
    """Return the MLP ratio for which our towers, which round down, have `hidden` units."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _vit(settings: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    side, patch = settings["image_size"], settings["patch_size"]
    cut = {"cut": True} if side % patch else {}
    return {"name": "vit", "image_size": side, "patch": patch, **_sizes(settings), **more, **cut}


_SIGLIP_VIT: dict[str, Any] = {"pool": "attention", "patch_bias": True, "pre_norm": False}
_BLIP_VIT: dict[str, Any] = {"pool": "class", "patch_bias": True, "pre_norm": False}


def _words(settings: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    required = {"vocab_size": settings["vocab_size"], "length": settings["max_position_embeddings"]}
    return {"name": "transformer", **required, **_sizes(settings), **more}


def _encoder(settings: Mapping[str, Any], pooling: str, **changes: Any) -> dict[str, Any]:
    """Return the arguments of a text encoder that remains a module of transformers."""
    return {"name": "hf", "config": {**plain(settings), **changes}, "pooling": pooling}


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return an encoder configuration without settings that do not concern its architecture."""
    idle = (
        "transformers_version",
        "architectures",
        "dtype",
        "torch_dtype",
        "id2label",
        "label2id",
        "problem_type",
        "_name_or_path",
    )
    return {key: value for key, value in settings.items() if key not in idle and value is not None}


# ---------------------------------------------------------------- families


def _clip(config: dict[str, Any], tensors: Mapping[str, Tensor], kind: str) -> DualEncoderParts:
    renamed, left = _sorted(tensors, {"vision_model.": ("image_tower.", _IMAGE), "text_model.": ("text_tower.", _TEXT)})
    # Before 2023 files had 2 as the end id, whatever it was, and the largest id was used instead; transformers still does so.
    end = config["text_config"]["eos_token_id"]
    text = _words(
        config["text_config"], causal=True, **({"pooling": "largest"} if end == 2 else {"pooling": "eot", "eot_id": end})
    )
    image = _vit(config["vision_config"])
    return _plain(image, text, config["projection_dim"], renamed, left)


def _plain(
    image: dict[str, Any],
    text: dict[str, Any],
    width: int,
    tensors: Mapping[str, Tensor],
    left: Iterable[str] = (),
    forms: tuple[Projection, Projection] = ("plain", "plain"),
) -> DualEncoderParts:
    return DualEncoderParts(
        image=image,
        text=text,
        width=width,
        image_projection=forms[0],
        text_projection=forms[1],
        tensors=tensors,
        left=tuple(left),
    )


def _siglip(config: dict[str, Any], tensors: Mapping[str, Tensor], kind: str) -> DualEncoderParts:
    vision, words = config["vision_config"], config["text_config"]
    if not vision.get("vision_use_head", True):
        raise ConfigError("vision_use_head is False (expected the attention-pooling head of every published SigLIP)")
    renamed, left = _sorted(tensors, {"vision_model.": ("image_tower.", _IMAGE), "text_model.": ("text_tower.", _TEXT)})
    if (
        config["model_type"] == "siglip2" and "num_patches" in vision
    ):  # NaFlex: the input is patches, row by row and channels last
        side = round(vision["num_patches"] ** 0.5) * vision["patch_size"]
        vision = {**vision, "image_size": side}
        weight, patch = renamed["image_tower.patches.weight"], vision["patch_size"]
        renamed["image_tower.patches.weight"] = weight.reshape(-1, patch, patch, 3).permute(0, 3, 1, 2).contiguous()
    text = _words(words, causal=False, pooling="last", pad_id=words.get("pad_token_id") or 0)
    width = words.get("projection_size") or words["hidden_size"]
    return _plain(_vit(vision, **_SIGLIP_VIT), text, width, renamed, left, ("none", "bias"))


def _align(config: dict[str, Any], tensors: Mapping[str, Tensor], kind: str) -> DualEncoderParts:
    sides = {"vision_model.": ("image_tower.net.", None), "text_model.": ("text_tower.net.", None)}
    renamed, left = _sorted(tensors, sides, r"text_model\.pooler\..+")
    vision = config["vision_config"]
    image = {"name": "hf_image", "config": plain(vision), "image_size": vision["image_size"]}
    return _plain(image, _encoder(config["text_config"], "cls"), config["projection_dim"], renamed, left, ("none", "bias"))


_CROSS = r".+\.crossattention\..+|itm_head\..+"


def _blip(config: dict[str, Any], tensors: Mapping[str, Tensor], kind: str) -> DualEncoderParts:
    vision, words = config["vision_config"], config["text_config"]
    # Its text encoder is also a decoder that attends to the image; for the contrastive loss it is a bidirectional encoder.
    alone = {"is_decoder": False, "add_cross_attention": False}
    if kind == "BlipModel":
        sides: dict[str, tuple[str, Rules | None]] = {
            "vision_model.": ("image_tower.net.", None),
            "text_model.": ("text_tower.net.", None),
        }
        renamed, left = _sorted(tensors, sides, _CROSS)
        image = {"name": "hf_image", "config": plain(vision), "image_size": vision["image_size"]}
        return _plain(image, _encoder(words, "pooler", **alone), config["projection_dim"], renamed, left)
    sides = {"vision_model.": ("image_tower.", _IMAGE), "text_encoder.": ("text_tower.net.", None)}
    renamed, left = _sorted(tensors, sides, _CROSS)
    text, image = _encoder(words, "cls", **alone), _vit(vision, **_BLIP_VIT)
    return _plain(image, text, config["image_text_hidden_size"], renamed, left, ("bias", "bias"))


def _chinese_clip(config: dict[str, Any], tensors: Mapping[str, Tensor], kind: str) -> DualEncoderParts:
    sides = {"vision_model.": ("image_tower.", _IMAGE), "text_model.": ("text_tower.net.", None)}
    renamed, left = _sorted(tensors, sides, r"text_model\.pooler\..+")
    return _plain(_vit(config["vision_config"]), _encoder(config["text_config"], "cls"), config["projection_dim"], renamed, left)


FAMILIES = {
    family.model_type: family
    for family in (
        ModelFamily("clip", "CLIP", 0, _clip, ("CLIPModel",), "openai/clip-vit-base-patch32"),
        ModelFamily("siglip", "SigLIP, and SigLIP 2 of one size", 0, _siglip, ("SiglipModel",), "google/siglip-base-patch16-224"),
        ModelFamily(
            "siglip2", "SigLIP 2 of any shape (NaFlex)", 0, _siglip, ("Siglip2Model",), "google/siglip2-base-patch16-naflex"
        ),
        ModelFamily("align", "ALIGN", 64, _align, ("AlignModel",), "kakaobrain/align-base"),
        ModelFamily("blip", "BLIP", 35, _blip, ("BlipForImageTextRetrieval", "BlipModel"), "Salesforce/blip-itm-base-coco"),
        ModelFamily(
            "chinese_clip", "Chinese-CLIP", 52, _chinese_clip, ("ChineseCLIPModel",), "OFA-Sys/chinese-clip-vit-base-patch16"
        ),
        ModelFamily("altclip", "AltCLIP", 77, _chinese_clip, ("AltCLIPModel",), "BAAI/AltCLIP"),
    )
}
"""Families by the `model_type` of a folder's config.json."""
