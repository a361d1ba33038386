"""Parts of a published dual encoder: arguments of our towers, their projections, and tensors under our names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.outputs import Projection
from diptych.models.towers.towers import image_tower, text_tower

SCALE = 100.0
"""Minimal upper bound of the scale: CLIP's, used if the weights have a smaller scale."""


@dataclass(frozen=True, kw_only=True)
class DualEncoderParts:
    """Arguments, projections and tensors of a dual encoder.

    image, text  arguments of `image_tower` and `text_tower`
    image_projection, text_projection   from each tower into the joint space
    tensors  the state dict of the `DualEncoder`; `log_scale` may be missing if a model was published without a temperature
    left     names of the file's tensors that are not used for embeddings: heads of other tasks, unused layers
    """

    image: Mapping[str, Any]
    text: Mapping[str, Any]
    width: int
    image_projection: Projection
    text_projection: Projection
    tensors: Mapping[str, Tensor]
    left: tuple[str, ...] = field(default=())

    @property
    def scale(self) -> float:
        """The factor of similarities; the published initial value if the weights have none."""
        log_scale = self.tensors.get("log_scale")
        return 1 / 0.07 if log_scale is None or log_scale.is_meta else math.exp(float(log_scale))


def build_dual_encoder(parts: DualEncoderParts) -> DualEncoder:
    """Build a dual encoder of these parts, initialised from the current torch random state on the current default device."""
    image, text = image_tower(**parts.image), text_tower(**parts.text)
    image.projection, text.projection = parts.image_projection, parts.text_projection
    bias = 0.0 if "bias" in parts.tensors else None
    scale = max(1.0, parts.scale)
    return DualEncoder(image, text, width=parts.width, bias=bias, scale=scale, max_scale=max(SCALE, scale))


def load_dual_encoder(parts: DualEncoderParts, source: str) -> DualEncoder:
    """Build the dual encoder and load its weights, in float32. Leaves the torch random state unchanged.

    Raises DataError with the first tensor that is missing, unexpected or of another size.
    """
    with torch.random.fork_rng(devices=[]):
        model = build_dual_encoder(parts)
    check_tensors(parts.tensors, model.state_dict(), source, absent=("log_scale",))
    model.load_state_dict(dict(parts.tensors), strict=False)
    return model.float().eval()


def check_tensors(
    given: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str, *, absent: tuple[str, ...] = ()
) -> None:
    """Refuse tensors that do not match those of a model, in one line; `absent` may be missing."""
    if missing := [name for name in expected if name not in given and name not in absent]:
        raise DataError(
            f"tensor {missing[0]} is missing", file=source, expected=f"all {len(expected)} tensors of its architecture"
        )
    if strange := [name for name in given if name not in expected]:
        raise DataError(
            f"tensor {strange[0]} is unknown", file=source, expected=f"the {len(expected)} tensors of its architecture"
        )
    for name, tensor in given.items():
        if tensor.shape != expected[name].shape:
            sizes = f"{name} is {list(tensor.shape)}"
            raise DataError(sizes, file=source, expected=f"{list(expected[name].shape)}, as in its configuration")


def refuse_dropout(settings: Mapping[str, Any], source: str) -> None:
    """Refuse dropout: our transformers have none, and published weights of these families have none either."""
    for name, value in settings.items():
        if "dropout" in name and isinstance(value, float) and value > 0:
            raise ConfigError(f"{source}: {name} is {value} (expected 0, as in every published model of its family)")
