"""Published weights under the names of a `Blip`: what BLIP's pre-training starts from (DeiT, BERT), and what it publishes.

BERT's words are what reading and writing both begin as; it has no cross-attention, and its vectors of token types are not among BLIP's.

Letters: P places, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diptych.core.errors import DataError
from diptych.models.blip.blip import Blip

IMAGE = {
    "cls_token": "class_token_D", "pos_embed": "position_PD", "patch_embed.proj.weight": "patches.weight",
    "patch_embed.proj.bias": "patches.bias", "norm.weight": "norm_after.weight", "norm.bias": "norm_after.bias",
}  # fmt: skip
IMAGE_BLOCK = {
    "norm1": "norm_1", "attn.qkv": "attention.qkv", "attn.proj": "attention.out", "norm2": "norm_2", "mlp.fc1": "mlp_in",
    "mlp.fc2": "mlp_out",
}  # fmt: skip
TEXT = {
    "embeddings.word_embeddings.weight": "words.weight", "embeddings.position_embeddings.weight": "position_LD",
    "embeddings.LayerNorm.weight": "norm.weight", "embeddings.LayerNorm.bias": "norm.bias",
}  # fmt: skip
HEAD = {
    "transform.dense.weight": "head.weight", "transform.dense.bias": "head.bias", "transform.LayerNorm.weight": "head_norm.weight",
    "transform.LayerNorm.bias": "head_norm.bias", "bias": "bias_V",
}  # fmt: skip
ATTENTION = {"self.query": "query", "self.key": "key", "self.value": "value", "output.dense": "out", "output.LayerNorm": "norm"}
THINKING = {"intermediate.dense": "mlp_in", "output.dense": "mlp_out", "output.LayerNorm": "norm"}
OUTER = {"vision_proj": "image_projection", "text_proj": "text_projection", "itm_head": "fits"}


def begin_(blip: Blip, *, image: Mapping[str, Tensor] | None, text: Mapping[str, Tensor] | None) -> None:
    """Starts the image tower from a vision transformer in timm's names (DeiT's file), the text transformer from a BERT with its word head.

    What the weights have no tensor for stays as it is: projections, the head of matches, cross-attention, both marks. Raises DataError
    where one that they should have is missing or of another shape.
    """
    if image is not None:
        _take_(blip.image_tower.state_dict(), from_timm(image), "the image tower", without=())
    if text is not None:
        found = from_bert(text)
        own = blip.text.state_dict()
        for name in ("words.weight", "bias_V"):
            if name in found and len(found[name]) == len(own[name]) - 2:  # its rows, then those of the two marks
                found[name] = torch.cat([found[name].to(own[name]), own[name][-2:]])
        _take_(own, found, "the text transformer", without=(".cross.",))


def _take_(own: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str, *, without: tuple[str, ...]) -> None:
    for name, tensor in own.items():
        if any(part in name for part in without):
            continue
        came = list(given[name].shape) if name in given else "nothing"
        if came != list(tensor.shape):
            raise DataError(f"weights for {what} have {came} for {name}", expected=f"{list(tensor.shape)}, the recipe's size")
        tensor.copy_(given[name])


def from_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A vision transformer's tensors under the names of a `VisionTransformer`; a classifier has no place."""
    out = {ours: tensors[name] for name, ours in IMAGE.items() if name in tensors}
    for name, ours in (("cls_token", "class_token_D"), ("pos_embed", "position_PD")):
        if name in tensors:
            out[ours] = tensors[name].flatten(end_dim=-2).squeeze(0)
    for name, tensor in tensors.items():
        if name.startswith("blocks."):
            _, layer, rest = name.split(".", 2)
            part, kind = rest.rsplit(".", 1)
            if part in IMAGE_BLOCK:
                out[f"transformer.blocks.{layer}.{IMAGE_BLOCK[part]}.{kind}"] = tensor
    return out


def from_bert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A BERT with its word head under the names of a `BlipText`: its attention is that of reading and that of writing."""
    plain = {_modern(name): tensor for name, tensor in tensors.items()}
    body = {name.removeprefix("bert."): tensor for name, tensor in plain.items()}
    out = _body(body, attention=("reading", "writing"))
    return {**out, **_head({name.removeprefix("cls.predictions."): tensor for name, tensor in plain.items()})}


def is_released(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of BLIP's own files."""
    return any(name.startswith("visual_encoder.") for name in tensors)


def from_released(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What BLIP's and PTP's pre-training publish, under the names of a `Blip`; momentum copies and queues have no place."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    text = _body(part("text_encoder."), attention=("reading",))
    writer = _body(part("text_decoder.bert."), attention=("writing",))
    text |= {name: tensor for name, tensor in writer.items() if ".writing." in name}
    text |= _head(part("text_decoder.cls.predictions."))
    out = {f"image_tower.{name}": tensor for name, tensor in from_timm(part("visual_encoder.")).items()}
    out |= {f"text.{name}": tensor for name, tensor in text.items()}
    for name, ours in OUTER.items():
        out |= {f"{ours}.{kind}": tensor for kind, tensor in part(f"{name}.").items()}
    return out


def _body(tensors: Mapping[str, Tensor], *, attention: tuple[str, ...]) -> dict[str, Tensor]:
    out = {ours: tensors[name] for name, ours in TEXT.items() if name in tensors}
    for name, tensor in tensors.items():
        if not name.startswith("encoder.layer."):
            continue
        layer, rest = name.removeprefix("encoder.layer.").split(".", 1)
        part, kind = rest.rsplit(".", 1)
        for theirs, ours in (*(("attention.", each) for each in attention), ("crossattention.", "cross")):
            if part.startswith(theirs):
                out[f"blocks.{layer}.{ours}.{ATTENTION[part.removeprefix(theirs)]}.{kind}"] = tensor
        if part in THINKING:
            out[f"blocks.{layer}.{THINKING[part]}.{kind}"] = tensor
    return out


def _head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {ours: tensors[name] for name, ours in HEAD.items() if name in tensors}


def _modern(name: str) -> str:
    """Files of 2018 call a norm's weight and bias gamma and beta."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
