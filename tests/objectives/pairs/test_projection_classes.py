"""projection_classes against the loss released with PLIP and finite differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diptych.core.errors import ShapeError
from diptych.objectives.pairs.projection_classes import projection_classes

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


def test_shapes_are_named() -> None:
    with pytest.raises(ShapeError, match=r"\[G, D\]; got"):
        projection_classes(torch.ones(3, 4), torch.ones(3, 4), torch.zeros(3).long(), torch.ones(5, 3))
