"""What stays of a model with extras when it is deployed."""

from __future__ import annotations

import torch

from diptych.models.pairs.dual_encoder import DualEncoder


def bare(model: DualEncoder) -> DualEncoder:
    """A plain `DualEncoder` of the same towers, projections and temperature, without heads, companions and queues. Copies nothing."""
    with torch.device("meta"):
        plain = DualEncoder(
            model.image_tower,
            model.text_tower,
            width=model.width,
            max_scale=model.max_scale,
            projection_bias=model.projection_bias,
        )
    plain.image_projection, plain.text_projection = model.image_projection, model.text_projection
    plain.log_scale = model.log_scale
    return plain
