"""Conversion of published weights to the names of a `Blip`: DeiT and BERT, from which pre-training starts, and BLIP's own checkpoints.

Encoder and decoder both start from BERT's weights; BERT has no cross-attention, and its token type embeddings have no counterpart
in BLIP.

Letters: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diptych.models.blip.text import BlipText
from diptych.models.io.foreign.timm_bert import ATTENTION, THINKING, bert_parts, copy_tensors_, from_timm, word_head
from diptych.models.towers.outputs import Tower

TEXT = {
    "embeddings.word_embeddings.weight": "words.weight", "embeddings.position_embeddings.weight": "position_LD",
    "embeddings.LayerNorm.weight": "norm.weight", "embeddings.LayerNorm.bias": "norm.bias",
}  # fmt: skip
OUTER = {"vision_proj": "image_projection", "text_proj": "text_projection", "itm_head": "fits"}


def init_from_vit_and_bert_(
    tower: Tower, words: BlipText, *, image: Mapping[str, Tensor] | None, text: Mapping[str, Tensor] | None
) -> None:
    """Starts the image tower from a vision transformer in timm's names (DeiT's file), the text transformer from a BERT with its
    word head.

    Parameters without a published tensor are left unchanged: cross-attention and the two special tokens. Raises DataError if a
    tensor is missing, unexpected, or of another shape.
    """
    if image is not None:
        copy_tensors_(tower.state_dict(), from_timm(image), "the image tower")
    if text is not None:
        bert = from_bert(text, reads=any(".reading." in name for name in words.state_dict()))
        own = words.state_dict()
        for name in ("words.weight", "bias_V"):
            if name in bert and len(bert[name]) == len(own[name]) - 2:  # its rows, then those of the two marks
                bert[name] = torch.cat([bert[name].to(own[name]), own[name][-2:]])
        copy_tensors_(own, bert, "the text transformer", without=(".cross.",))


def from_bert(tensors: Mapping[str, Tensor], *, reads: bool = True) -> dict[str, Tensor]:
    """A BERT with its word head under the names of a `BlipText`: its attention is that of writing and, of one that `reads`, of
    reading."""
    body, head = bert_parts(tensors)
    return {**_body(body, attention=("reading", "writing") if reads else ("writing",)), **head}


def is_released(tensors: Mapping[str, Tensor]) -> bool:
    """True if the tensors have the names of BLIP's own checkpoints."""
    return any(name.startswith("visual_encoder.") for name in tensors)


def from_released(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a `Blip` from BLIP's or PTP's published pre-training; drops momentum copies and queues."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    text = _body(part("text_encoder."), attention=("reading",))
    writer = _body(part("text_decoder.bert."), attention=("writing",))
    text |= {name: tensor for name, tensor in writer.items() if ".writing." in name}
    text |= word_head(part("text_decoder.cls.predictions."))
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
