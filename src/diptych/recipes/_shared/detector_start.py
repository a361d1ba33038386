"""Weights that a grounding detector starts from, under the names of this package: released GLIP, Swin and FIBER, or a run of `fiber`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from diptych.models.detection.swin_start import from_swin, is_swin
from diptych.models.fiber.fine_released import from_fine, is_fine
from diptych.models.fiber.grounding import FiberConfig, from_first_stage
from diptych.models.fiber.released import resized_tables
from diptych.models.glip.released import from_glip, is_glip


def detector_weights(tensors: Mapping[str, Tensor], fiber: FiberConfig | None) -> Mapping[str, Tensor]:
    """Tensors renamed for the detector; those with its own names come back as they are.

    fiber   shape of its FIBER towers; None for a detector on another backbone, which starts from a released GLIP or from a Swin
    """
    if fiber is None:
        return from_glip(tensors) if is_glip(tensors) else from_swin(tensors) if is_swin(tensors) else tensors
    if is_fine(tensors):
        renamed = from_fine(tensors, depths=fiber.swin_depths, text_layers=fiber.text_layers, fused=fiber.fused_layers)
        return resized_tables(renamed, fiber.swin_window, every=True)
    if any("image_tower." in name for name in tensors):
        return from_first_stage(tensors, fiber.swin_window, gate_norm=fiber.gate_norm)
    return tensors
