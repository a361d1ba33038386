"""Convert published initial weights to our names: vision transformers from timm's, BERT from transformers' or Google's.

Letters: P positions, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from diptych.core.errors import DataError

IMAGE = {
    "cls_token": "class_token_D", "pos_embed": "position_PD", "patch_embed.proj.weight": "patches.weight",
    "patch_embed.proj.bias": "patches.bias", "norm.weight": "norm_after.weight", "norm.bias": "norm_after.bias",
}  # fmt: skip
IMAGE_BLOCK = {
    "norm1": "norm_1", "attn.qkv": "attention.qkv", "attn.proj": "attention.out", "norm2": "norm_2", "mlp.fc1": "mlp_in",
    "mlp.fc2": "mlp_out",
}  # fmt: skip
HEAD = {
    "transform.dense.weight": "head.weight", "transform.dense.bias": "head.bias", "transform.LayerNorm.weight": "head_norm.weight",
    "transform.LayerNorm.bias": "head_norm.bias", "bias": "bias_V",
}  # fmt: skip
"""BERT's word head, after `cls.predictions.`."""
ATTENTION = {"self.query": "query", "self.key": "key", "self.value": "value", "output.dense": "out", "output.LayerNorm": "norm"}
"""Tensors of a `PostNormAttention`, after `attention.` or `crossattention.`."""
THINKING = {"intermediate.dense": "mlp_in", "output.dense": "mlp_out", "output.LayerNorm": "norm"}
"""The two layers after attention, and their norm."""


def copy_tensors_(own: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str, *, without: tuple[str, ...] = ()) -> None:
    """Copy `given` into the tensors of a module, except those whose names contain a part of `without`.

    Raises DataError if one of them is missing or of another shape, or if a given one is unexpected, such as of further layers.
    """
    for name, tensor in own.items():
        if any(part in name for part in without):
            continue
        came = list(given[name].shape) if name in given else "nothing"
        if came != list(tensor.shape):
            raise DataError(f"weights for {what} have {came} for {name}", expected=f"{list(tensor.shape)}, the recipe's size")
        tensor.copy_(given[name])
    if left := sorted(given.keys() - own.keys()):
        raise DataError(
            f"weights for {what} have {left[0]}, which does not belong there", expected="the recipe's size, layers too"
        )


def from_timm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a timm vision transformer's tensors under the names of a `VisionTransformer`, without the classifier."""
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


def bert_parts(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return BERT's body (`embeddings.`, `encoder.layer.`) and its word head under the names of `HEAD`.

    The pooling layer and the sentence head are dropped.
    """
    plain = {_modern(name): tensor for name, tensor in tensors.items()}
    body = {name.removeprefix("bert."): tensor for name, tensor in plain.items()}
    kept = {name: tensor for name, tensor in body.items() if name.startswith(("embeddings.", "encoder.layer."))}
    kept.pop("embeddings.position_ids", None)
    return kept, word_head({name.removeprefix("cls.predictions."): tensor for name, tensor in plain.items()})


def word_head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BERT's word head under the names of `HEAD`."""
    return {ours: tensors[name] for name, ours in HEAD.items() if name in tensors}


def _modern(name: str) -> str:
    """Rename gamma and beta, the weight and bias of norms in files of 2018."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
