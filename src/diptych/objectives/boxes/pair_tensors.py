"""What a detector of pairs says, and what is true, as plain tensors: the common tongue of detectors, matching and losses.

Letters: B images, S decoder layers (the last one is what inference reads), Q pair queries, G true pairs (padded to the most of any
image), C entity names with the background as the last, R relation names. Boxes are cxcywh in shares of the image.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from diptych.core.errors import ShapeError


@dataclass(frozen=True, slots=True)
class PairPredictions:
    """One subject, one object and R relations a query, after every decoder layer. Logits are raw: entities go through a softmax
    over C names, relations through R independent sigmoids."""

    subject_box_BSQ4: Tensor
    object_box_BSQ4: Tensor
    subject_logit_BSQC: Tensor
    object_logit_BSQC: Tensor
    relation_logit_BSQR: Tensor

    def __post_init__(self) -> None:
        lead = self.subject_box_BSQ4.shape[:3]
        names = self.subject_logit_BSQC.shape[-1:]
        for name, want in (
            ("subject_box_BSQ4", (*lead, 4)),
            ("object_box_BSQ4", (*lead, 4)),
            ("subject_logit_BSQC", (*lead, *names)),
            ("object_logit_BSQC", (*lead, *names)),
            ("relation_logit_BSQR", (*lead, *self.relation_logit_BSQR.shape[-1:])),
        ):
            _check(self, name, want, axes=4)

    def wide(self) -> PairPredictions:
        """The same predictions, at least float32."""
        return PairPredictions(**{field.name: at_least_float32(getattr(self, field.name)) for field in fields(self)})

    def layers(self, start: int, stop: int | None = None) -> PairPredictions:
        """The same predictions, of these decoder layers only."""
        return PairPredictions(**{field.name: getattr(self, field.name)[:, start:stop] for field in fields(self)})


@dataclass(frozen=True, slots=True)
class PairTargets:
    """The true pairs of each image; one row for all relations between the same two regions.

    valid_BG           False on padding
    subject_label_BG   0..C-2; padding may hold anything in 0..C-1
    has_object_BG      False where a relation has no object ("a person walks"): its box is ignored and its label is the background,
                       C-1. None: all have one
    relation_BGR       0 or 1, several a pair
    """

    subject_box_BG4: Tensor
    object_box_BG4: Tensor
    subject_label_BG: Tensor
    object_label_BG: Tensor
    relation_BGR: Tensor
    valid_BG: Tensor
    has_object_BG: Tensor | None = None

    def __post_init__(self) -> None:
        lead = self.valid_BG.shape
        for name, want in (
            ("subject_box_BG4", (*lead, 4)),
            ("object_box_BG4", (*lead, 4)),
            ("subject_label_BG", lead),
            ("object_label_BG", lead),
            ("relation_BGR", (*lead, *self.relation_BGR.shape[-1:])),
            ("has_object_BG", lead),
        ):
            if getattr(self, name) is not None:
                _check(self, name, tuple(want), axes=len(want))


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


def _check(value: object, name: str, want: tuple[int, ...], *, axes: int) -> None:
    got = tuple(getattr(value, name).shape)
    if len(got) != axes or got != want:
        raise ShapeError(f"{type(value).__name__}.{name} must be {list(want)} to fit its fellows, got {list(got)}")
