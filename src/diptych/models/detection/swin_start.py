"""A detector's Swin from a classifier's: tensors of timm's or the authors' file under the names of a `TimmPyramid`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_FIRST = "patch_embed.proj.weight"
_STAGE = re.compile(r"layers\.(\d+)\.(downsample\.)?(.+)")


def is_swin(tensors: Mapping[str, Tensor]) -> bool:
    """True if the tensors are those of a Swin alone."""
    return _prefix(tensors) is not None


def from_swin(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the stages; the last norm and the classifier have no place in a detector. The authors count the merging
    after a stage to it, timm to the next."""
    prefix = _prefix(tensors) or ""
    merged = int(f"{prefix}layers.0.downsample.reduction.weight" in tensors)
    backbone = {}
    for name, tensor in tensors.items():
        plain = name.removeprefix(prefix)
        if match := _STAGE.fullmatch(plain):
            stage = int(match[1]) + (merged if match[2] else 0)
            if not re.search(r"relative_position_index|attn_mask", plain):
                backbone[f"backbone.net.layers_{stage}.{match[2] or ''}{match[3]}"] = tensor
        elif plain.startswith("patch_embed."):
            backbone[f"backbone.net.{plain}"] = tensor
    return backbone


def _prefix(tensors: Mapping[str, Tensor]) -> str | None:
    """Prefix of a Swin's tensor names; None if there is no Swin, or it is a part of something that has names of its own."""
    prefixes = [name.removesuffix(_FIRST) for name in tensors if name.endswith(_FIRST)]
    return prefixes[0] if len(prefixes) == 1 and prefixes[0] in ("", "net.", "model.") else None
