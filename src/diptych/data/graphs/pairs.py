"""Pairs of regions as tensors: ground truth, model inputs and predictions. The shared representation of data, detectors, matching
and losses.

Letters: B images, S decoder layers (the last one is what inference reads), Q pair queries, G pairs (padded to the most of any
image), C entity names with the background as the last, R relation names. Boxes are cxcywh in shares of the image.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from diptych.core.errors import ShapeError
from diptych.core.rows import Rows


@dataclass(frozen=True, slots=True)
class RegionPairs:
    """Pairs of known regions, the input of models of given regions.

    valid_BG           False on padding
    subject_label_BG   0..C-2; padding may hold anything in 0..C-1
    """

    subject_box_BG4: Rows[Tensor]
    object_box_BG4: Rows[Tensor]
    subject_label_BG: Rows[Tensor]
    object_label_BG: Rows[Tensor]
    valid_BG: Rows[Tensor]

    def __post_init__(self) -> None:
        lead = tuple(self.valid_BG.shape)
        for name in ("subject_box_BG4", "object_box_BG4"):
            _check(self, name, (*lead, 4), axes=3)
        for name in ("subject_label_BG", "object_label_BG"):
            _check(self, name, lead, axes=2)

    def to(self, device: torch.device) -> RegionPairs:
        """The same pairs on another device."""
        return RegionPairs(*(getattr(self, field.name).to(device) for field in fields(RegionPairs)))


@dataclass(frozen=True, slots=True)
class PairTargets(RegionPairs):
    """The true pairs of each image; one row for all relations between the same two regions.

    relation_BGR       0 or 1, several a pair
    has_object_BG      False where a relation has no object ("a person walks"): its box is ignored and its label is the background,
                       C-1. None: all have one
    """

    relation_BGR: Rows[Tensor]
    has_object_BG: Rows[Tensor] | None = None

    def __post_init__(self) -> None:
        RegionPairs.__post_init__(self)
        lead = tuple(self.valid_BG.shape)
        _check(self, "relation_BGR", (*lead, *self.relation_BGR.shape[-1:]), axes=3)
        if self.has_object_BG is not None:
            _check(self, "has_object_BG", lead, axes=2)


@dataclass(frozen=True, slots=True)
class PairPredictions:
    """One subject, one object and R relations a query, after every decoder layer. Logits are raw: entities go through a softmax
    over C names, relations through R independent sigmoids."""

    subject_box_BSQ4: Rows[Tensor]
    object_box_BSQ4: Rows[Tensor]
    subject_logit_BSQC: Rows[Tensor]
    object_logit_BSQC: Rows[Tensor]
    relation_logit_BSQR: Rows[Tensor]

    def __post_init__(self) -> None:
        lead = tuple(self.subject_box_BSQ4.shape[:3])
        names = tuple(self.subject_logit_BSQC.shape[-1:])
        for name, want in (
            ("subject_box_BSQ4", (*lead, 4)),
            ("object_box_BSQ4", (*lead, 4)),
            ("subject_logit_BSQC", (*lead, *names)),
            ("object_logit_BSQC", (*lead, *names)),
            ("relation_logit_BSQR", (*lead, *self.relation_logit_BSQR.shape[-1:])),
        ):
            _check(self, name, want, axes=4)

    def layers(self, start: int, stop: int | None = None) -> PairPredictions:
        """The same predictions, of these decoder layers only."""
        return PairPredictions(*(getattr(self, field.name)[:, start:stop] for field in fields(PairPredictions)))


def _check(value: object, name: str, want: tuple[int, ...], *, axes: int) -> None:
    got = tuple(getattr(value, name).shape)
    if len(got) != axes or got != want:
        raise ShapeError(f"{type(value).__name__}.{name} must be {list(want)} to fit its fellows, got {list(got)}")
