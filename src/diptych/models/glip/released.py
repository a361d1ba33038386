"""Tensors of a released GLIP (microsoft/GLIP, and DesCo-GLIP of liunian-harold-li/DesCo) under the names of a `DenseDetector` on a Swin of
timm and a BERT of transformers.

Pictures are read as BGR there, so the first convolution's channels are turned round. Numbers that are computed are not weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from diptych.core.errors import DataError
from diptych.models.detection.released_head import head_tensors

SOURCE = "the weights of a released GLIP, or of DesCo on it"
BODY, WORDS, PYRAMID = "backbone.body.", "language_backbone.body.model.", "backbone.fpn."
_BLOCK = re.compile(r"layers\.(\d+)\.blocks\.(.+)")
_MERGE = re.compile(r"layers\.(\d+)\.downsample\.(.+)")
_NORM = re.compile(r"norm(\d+)\.(weight|bias)")
_UNUSED = re.compile(r".*\.relative_position_index|.*\.attn_mask|.*\.position_ids")
"""Numbers that are computed."""


def is_glip(tensors: Mapping[str, Tensor]) -> bool:
    """True if the tensors are of a released GLIP: they have its text encoder and its head."""
    plain = {name.removeprefix("module.") for name in tensors}
    return any(name.startswith(WORDS) for name in plain) and "rpn.head.bias_lang" in plain


def from_glip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a `DenseDetector`.

    Raises DataError for a tensor that has no place here, or one that is missing of those that are put together from several.
    """
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    out = {f"head.{name}": tensor for name, tensor in head_tensors(tensors, PYRAMID, SOURCE).items()}
    for name, tensor in tensors.items():
        if _UNUSED.fullmatch(name) or name.startswith((PYRAMID, "rpn.")):
            continue
        if name.startswith(WORDS):
            out[f"text.net.{name.removeprefix(WORDS)}"] = tensor
        elif name.startswith(BODY):
            out[f"backbone.{_image_name(name.removeprefix(BODY))}"] = tensor
        else:
            raise DataError(f"tensor {name} does not belong to the detector", expected=SOURCE)
    first = "backbone.net.patch_embed.proj.weight"
    if first in out:
        out[first] = out[first].flip(1)
    return out


def _image_name(name: str) -> str:
    """Of a `TimmPyramid`, whose stages begin with the merging that ends one in the release, and whose first map with a norm is the second
    stage's."""
    if match := _BLOCK.fullmatch(name):
        return f"net.layers_{match[1]}.blocks.{match[2]}"
    if match := _MERGE.fullmatch(name):
        return f"net.layers_{int(match[1]) + 1}.downsample.{match[2]}"
    if match := _NORM.fullmatch(name):
        return f"norms.{int(match[1]) - 1}.{match[2]}"
    return f"net.{name}"
