"""projection_classes against the loss released with PLIP and finite differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diptych.core.errors import ShapeError
from diptych.objectives.pairs.projection_classes import projection_classes, projection_precision

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "grouped_released.json").read_text())["cmpm"]


def given(name: str) -> torch.Tensor:
    return torch.tensor(RELEASED[name], dtype=torch.float64)


def test_it_is_the_released_loss_with_every_gradient(parity: Any) -> None:
    leaves = [given("image").requires_grad_(), given("text").requires_grad_(), given("W").T.clone().requires_grad_()]
    loss = projection_classes(leaves[0], leaves[1], torch.tensor(RELEASED["labels"]), leaves[2])
    wanted = [torch.tensor(grad, dtype=torch.float64) for grad in RELEASED["cmpc_grads"]]
    wanted[2] = wanted[2].T
    pairs = [(loss, RELEASED["cmpc"]), *zip(torch.autograd.grad(loss, leaves), wanted, strict=True)]
    parity(
        "plip_person", "classes by projection: loss and gradients", "compute_cmpc_loss of PLIP (09890e3)", pairs, tolerance=1e-9
    )


def test_gradcheck_and_the_length_of_class_vectors_does_not_count() -> None:
    image, text, classes = given("image"), given("text"), given("W").T
    person = torch.tensor(RELEASED["labels"])
    assert torch.autograd.gradcheck(
        lambda x, y, w: projection_classes(x, y, person, w), [x.clone().requires_grad_() for x in (image, text, classes)]
    )
    longer = classes * torch.tensor([[1.0], [5.0], [0.1]])
    ours, other = (projection_classes(image, text, person, w).item() for w in (classes, longer))
    assert ours == pytest.approx(other)


def test_precision_is_the_share_of_either_side_that_is_told_right() -> None:
    """Naive: the projection of each vector on the other side's, against every class vector, and the nearest."""
    generator = torch.Generator().manual_seed(4)
    image_ND, text_ND, class_GD = (torch.randn(rows, 4, generator=generator) for rows in (40, 40, 3))
    person_N = torch.randint(3, (40,), generator=generator)
    right = []
    for own_ND, other_ND in ((image_ND, text_ND), (text_ND, image_ND)):
        hits = 0
        for own_D, other_D, person in zip(own_ND, other_ND, person_N.tolist(), strict=True):
            onto_D = other_D * (own_D @ other_D) / (other_D @ other_D)
            hits += max(range(3), key=lambda g: float(onto_D @ class_GD[g] / class_GD[g].norm())) == person
        right.append(hits / 40)
    assert right[0] != right[1]
    precision = projection_precision(image_ND, text_ND, person_N, class_GD)
    assert [value.item() for value in precision] == pytest.approx(right)


def test_shapes_are_named() -> None:
    with pytest.raises(ShapeError, match=r"\[G, D\]; got"):
        projection_classes(torch.ones(3, 4), torch.ones(3, 4), torch.zeros(3).long(), torch.ones(5, 3))
