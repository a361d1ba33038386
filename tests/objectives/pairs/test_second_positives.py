"""The released code's optional terms for two right texts of an image: its numbers, loops, and two processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from joined_processes import on_processes
from torch.nn import functional as F

from diptych.objectives.pairs.second_positives import equal_positives_loss, flat_target_loss

RELEASED = json.loads((Path(__file__).parents[2] / "parity/svlc_released.json").read_text())
TERMS = {"even": (equal_positives_loss, 0.1), "spread": (flat_target_loss, 0.01)}


def inputs(count: int = 5) -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    return [F.normalize(torch.randn(count, 8, generator=chance, dtype=torch.float64), dim=-1).requires_grad_() for _ in range(3)]


def test_terms_and_gradients_are_the_released_ones(parity: Any) -> None:
    pairs = []
    for name, (term, weight) in TERMS.items():
        given, scale = inputs(), torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
        loss = weight * term(*given, scale=scale)
        grads = torch.autograd.grad(loss, [*given, scale])
        theirs = [torch.tensor(g, dtype=torch.float64) for g in RELEASED[name]["grads"]]
        pairs += [
            (loss, torch.tensor(RELEASED[name]["loss"], dtype=torch.float64)),
            *((g.flatten(), t) for g, t in zip(grads, theirs, strict=True)),
        ]
    what = "optional terms of second positives, and gradients"
    parity("svlc", what, "SivanDoveh/TSVLC 90b18e7, ClipLoss with kl_pos and common_batch_pos", pairs, tolerance=1e-9)


def test_equal_texts_are_liked_alike_and_one_image_is_enough() -> None:
    image, text, _ = inputs(1)
    assert float(equal_positives_loss(image, text, text, scale=torch.tensor(50.0)).detach()) < 1e-12
    assert abs(float(flat_target_loss(image, text, text, scale=torch.tensor(50.0)).detach())) < 1e-12


def shared(rank: int, world: int) -> dict[str, torch.Tensor]:
    rows = slice(rank * 2, rank * 2 + 2) if world == 2 else slice(0, 4)
    found = {}
    for name, (term, _) in TERMS.items():
        given = [x.detach()[rows].requires_grad_() for x in inputs(4)]
        scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
        loss = term(*given, scale=scale)
        grads = torch.autograd.grad(loss, given)
        found |= {f"{name}{place}": grad / world for place, grad in enumerate(grads)} | {name: loss.detach()}
    return found


def test_two_processes_share_the_terms_of_one(tmp_path: Path) -> None:
    whole = shared(0, 1)
    for rank, found in enumerate(on_processes(shared, tmp_path)):
        for name, value in found.items():
            expected = whole[name] if value.ndim == 0 else whole[name][rank * 2 : rank * 2 + 2]
            torch.testing.assert_close(value, expected)
