"""The alignment of words and patches is the released one, and its plan is a transport plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.core.errors import ShapeError
from diptych.objectives.pairs.word_patch_alignment import transport_distance, transport_plan, word_patch_alignment

RELEASED = Path(__file__).parents[2] / "parity" / "released" / "ptp" / "ptp_vilt_released.npz"


def test_loss_plan_and_gradients_are_the_released_ones(parity: Any) -> None:
    t = {name: torch.from_numpy(value) for name, value in np.load(RELEASED).items()}
    text, image = t["wpa_text"].clone().requires_grad_(), t["wpa_image"].clone().requires_grad_()
    real = t["ids"] != 0
    word_NL = real.clone()
    word_NL[:, 0] = False
    for row, count in enumerate(real.sum(1)):
        word_NL[row, count - 1] = False
    shared: dict[str, Any] = {"word_NL": word_NL, "patch_NP": t["wpa_there"][:, 1:].bool()}
    loss = 0.1 * word_patch_alignment(text, image[:, 1:], t["wpa_labels"], **shared)
    of_text, of_image = torch.autograd.grad(loss, [text, image])
    with torch.no_grad():
        distance = transport_distance(text, image[:, 1:], **shared)
        real_NLP = shared["word_NL"][:, :, None] & shared["patch_NP"][:, None, :]
        cosine = torch.nn.functional.cosine_similarity(text[:, :, None], image[:, None, 1:], dim=-1)
        plan = transport_plan((1 - cosine).masked_fill(~real_NLP, 0), **shared, beta=0.5, iterations=50)
    pairs = [
        (loss, t["wpa"]),
        (of_text, t["wpa_gt"]),
        (of_image, t["wpa_gi"]),
        (distance, t["wpa_dist"]),
        (plan, t["plan"][:, 1:].transpose(1, 2)),
    ]
    parity("ptp", "word-patch alignment, its plan and gradients", "dandelin/ViLT 762fd39, objectives.py", pairs, tolerance=1e-9)


def test_the_plan_moves_equal_shares() -> None:
    """Both margins are uniform over what is there; the cheapest places get most; with alike words and patches the way is the diagonal."""
    torch.manual_seed(0)
    word, patch = torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 6, dtype=torch.bool)
    word[1, 3], patch[1, 4:] = False, False
    plan = transport_plan(torch.rand(2, 4, 6, dtype=torch.float64), word, patch, beta=0.5, iterations=400)
    torch.testing.assert_close(plan.sum(1), patch / patch.sum(1, keepdim=True).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(plan.sum(2), word / word.sum(1, keepdim=True).double(), atol=1e-6, rtol=0)
    same = torch.randn(1, 5, 16, dtype=torch.float64)
    every = torch.ones(1, 5, dtype=torch.bool)
    cost = 1 - torch.nn.functional.cosine_similarity(same[:, :, None], same[:, None], dim=-1)
    plan = transport_plan(cost, every, every, beta=0.5, iterations=200)
    torch.testing.assert_close(plan[0], torch.eye(5, dtype=torch.float64) / 5, atol=1e-3, rtol=0)


def test_wrong_pairs_are_driven_apart_and_nothing_costs_nothing() -> None:
    torch.manual_seed(1)
    text, image = torch.randn(2, 3, 8, requires_grad=True), torch.randn(2, 4, 8, requires_grad=True)
    word, patch = torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool)
    shared: dict[str, Any] = {"word_NL": word, "patch_NP": patch}
    right = word_patch_alignment(text, image, torch.tensor([1, 1]), **shared)
    wrong = word_patch_alignment(text, image, torch.tensor([0, 0]), **shared)
    assert right.item() > 0
    torch.testing.assert_close(wrong, -right)
    word[0] = False
    distance = transport_distance(text, image, **shared)
    assert distance[0] == 0
    distance.sum().backward()
    assert text.grad is not None
    assert torch.isfinite(text.grad).all()
    with pytest.raises(ShapeError, match=r"must be \[N, L, D\] and \[N, P, D\]"):
        transport_distance(text, image, word_NL=patch, patch_NP=word)
