"""Pair predictions and targets (`data.graphs.pairs`) made ready for a loss: wide enough to add up, and about the same images and names."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from diptych.core.errors import ShapeError
from diptych.data.graphs.pairs import PairPredictions, PairTargets


def wide(predictions: PairPredictions) -> PairPredictions:
    """The same predictions, at least float32."""
    return PairPredictions(*(at_least_float32(getattr(predictions, field.name)) for field in fields(PairPredictions)))


def at_least_float32(x: Tensor) -> Tensor:
    """Half-precision tensors widened; float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def check_fit(predictions: PairPredictions, targets: PairTargets) -> None:
    """Raises ShapeError when the two are not about the same images and lists of names. Reads shapes only."""
    for what, got, want in (
        ("images", len(targets.valid_BG), len(predictions.subject_box_BSQ4)),
        ("relation names", targets.relation_BGR.shape[-1], predictions.relation_logit_BSQR.shape[-1]),
    ):
        if got != want:
            raise ShapeError(f"targets have {got} {what} but predictions have {want}")
