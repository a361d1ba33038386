"""Convert models of open_clip to dual encoders: plain towers become ours, tensor by tensor; others remain open_clip's modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from diptych.models.io.foreign.clip_layout import from_open_clip
from diptych.models.io.foreign.parts import DualEncoderParts
from diptych.models.towers.outputs import Projection

_VIT = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size"}
_RESNET = {"layers", "width", "head_width", "image_size", "patch_size", "mlp_ratio"}
_WORDS = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
_IDLE = {
    "output_tokens",
    "hf_tokenizer_name",
    "tokenizer_kwargs",
    "tokenizer_mode",
    "timm_model_pretrained",
    "hf_model_pretrained",
}
"""Settings that do not affect the embedding."""
CLIP_WORDS = 49408


def open_clip_parts(
    settings: Mapping[str, Any], tensors: Mapping[str, Tensor], encoder: Mapping[str, Any] | None = None
) -> DualEncoderParts:
    """settings  the output of `open_clip.get_model_config(ARCH)`
    encoder   configuration of the text encoder, if it is one of transformers
    """
    vision, words, width = dict(settings["vision_cfg"]), dict(settings["text_cfg"]), int(settings["embed_dim"])
    quick, state, left = bool(settings.get("quick_gelu", False)), dict[str, Tensor](), list[str]()
    image, image_form = _image(vision, width, quick)
    text, text_form = _text(words, width, quick, encoder)
    for name, tensor in tensors.items():
        name = name.removeprefix("module.")
        if name.endswith(("attn_mask", "position_ids")) or name in ("input_resolution", "context_length", "vocab_size"):
            continue
        if name.startswith("text_decoder."):  # CoCa's caption decoder
            left.append(name)
        elif name.startswith("visual.") and image_form == "none" and image["name"] == "open_clip_image":
            state[f"image_tower.net.{name.removeprefix('visual.')}"] = tensor
        elif text["name"] == "open_clip_text" and not name.startswith(("visual.", "logit_")):
            state[f"text_tower.net.{name.removeprefix('text.')}"] = tensor
        else:
            state[name if name.startswith("visual.") else name.removeprefix("text.")] = tensor
    ours = {name: tensor for name, tensor in state.items() if name.startswith(("image_tower.", "text_tower."))}
    ours |= from_open_clip({name: tensor for name, tensor in state.items() if name not in ours})
    return DualEncoderParts(
        image=image,
        text=text,
        width=width,
        image_projection=image_form,
        text_projection=text_form,
        tensors=ours,
        left=tuple(left),
    )


def _image(vision: dict[str, Any], width: int, quick: bool) -> tuple[dict[str, Any], Projection]:
    from open_clip.model import CLIPVisionCfg

    full, changed = CLIPVisionCfg(**vision), _asked(vision, CLIPVisionCfg())
    side = full.image_size if isinstance(full.image_size, int) else full.image_size[0]
    if isinstance(full.layers, list | tuple) and changed <= _RESNET:
        sizes = {"depths": list(full.layers), "width": full.width, "heads": full.width * 32 // full.head_width, "out": width}
        return {"name": "resnet_clip_50", "image_size": side, **sizes}, "none"
    if not isinstance(full.layers, list | tuple) and changed <= _VIT and isinstance(full.image_size, int):
        sizes = {"width": full.width, "layers": full.layers, "heads": full.width // full.head_width}
        more = {"patch": full.patch_size, "mlp_ratio": full.mlp_ratio, "act": "quick_gelu" if quick else "gelu"}
        return {"name": "vit", "image_size": side, **sizes, **more}, "plain"
    return {"name": "open_clip_image", "config": vision, "width": width, "quick_gelu": quick, "image_size": side}, "none"


def _text(words: dict[str, Any], width: int, quick: bool, encoder: Mapping[str, Any] | None) -> tuple[dict[str, Any], Projection]:
    from open_clip.model import CLIPTextCfg

    full, changed = CLIPTextCfg(**words), _asked(words, CLIPTextCfg())
    sizes = {"vocab_size": full.vocab_size, "length": full.context_length}
    if changed <= _WORDS:
        sizes |= {"width": full.width, "layers": full.layers, "heads": full.heads}
        # The end token has the largest id in CLIP's vocabulary; with other vocabularies the largest id is used as well.
        end = {"pooling": "eot", "eot_id": CLIP_WORDS - 1} if full.vocab_size == CLIP_WORDS else {"pooling": "largest"}
        more = {"mlp_ratio": full.mlp_ratio, "act": "quick_gelu" if quick else "gelu", "causal": True}
        return {"name": "transformer", **sizes, **more, **end}, "plain"
    spec = {"name": "open_clip_text", "config": words, "width": width, "quick_gelu": quick, **sizes}
    if full.hf_model_name:
        spec |= {"encoder": dict(encoder or {})}
        spec["vocab_size"] = (encoder or {}).get("vocab_size", full.vocab_size)
    return spec, "none"


def _asked(given: Mapping[str, Any], default: Any) -> set[str]:
    """Return settings that differ from open_clip's defaults and are not ignored."""
    return {name for name, value in given.items() if name not in _IDLE and getattr(default, name) != value}
