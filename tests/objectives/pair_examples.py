"""Made-up predictions and targets of a pair detector for the tests beside this file."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diptych.data.graphs.pairs import PairPredictions, PairTargets

COUNTS, LAYERS, QUERIES, NAMES, RELATIONS = [3, 0, 6, 1], 3, 4, 5, 7  # one image without pairs, one with more than queries
TEXT = torch.randn(RELATIONS, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def boxes(*lead: int, generator: torch.Generator) -> Tensor:
    """cxcywh inside the image, at least a tenth wide."""
    side = 0.1 + 0.4 * torch.rand(*lead, 2, generator=generator, dtype=torch.float64)
    centre = side / 2 + (1 - side) * torch.rand(*lead, 2, generator=generator, dtype=torch.float64)
    return torch.cat([centre, side], -1)


def predictions(images: int, layers: int, queries: int, names: int, relations: int, *, seed: int = 0) -> PairPredictions:
    generator = torch.Generator().manual_seed(seed)
    lead = (images, layers, queries)
    made = [torch.randn(*lead, size, generator=generator, dtype=torch.float64) for size in (names, names, relations)]
    return PairPredictions(boxes(*lead, generator=generator), boxes(*lead, generator=generator), *made)


def targets(counts: list[int], names: int, relations: int, *, seed: int = 1, without_object: bool = False) -> PairTargets:
    """`counts` pairs an image; the last of `names` is the background."""
    generator = torch.Generator().manual_seed(seed)
    lead = (len(counts), max(counts, default=0))
    valid = torch.arange(lead[1])[None] < torch.tensor(counts)[:, None]
    subject, object_ = (torch.randint(0, max(1, names - 1), lead, generator=generator) for _ in range(2))
    relation = (torch.rand(*lead, relations, generator=generator) < 0.3).double()
    if relations:
        relation[..., 0] = torch.where(relation.sum(-1) == 0, 1.0, relation[..., 0])
    subject_box, object_box = (boxes(*lead, generator=generator) for _ in range(2))
    has_object = None
    if without_object:
        has_object = torch.rand(lead, generator=generator) < 0.6
        object_box = object_box * has_object[..., None]
        object_ = torch.where(has_object, object_, names - 1)
    return PairTargets(subject_box, object_box, subject, object_, valid, relation, has_object)


def leaves(predictions: PairPredictions) -> list[Tensor]:
    """Its tensors, asked for gradients."""
    return [getattr(predictions, name).requires_grad_() for name in predictions.__dataclass_fields__]


def example(seed: int = 0, **options: Any) -> tuple[PairPredictions, PairTargets]:
    return predictions(len(COUNTS), LAYERS, QUERIES, NAMES, RELATIONS, seed=seed), targets(COUNTS, NAMES, RELATIONS, **options)
