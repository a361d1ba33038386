"""ALIP's gates against a table worked out by hand, and means that move before they are used."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.pairs.agreement_gates import agreement_gates, agreements, initial_means, updated_means

# raw with caption, image with raw, image with caption; means .5, .4, .3
TABLE = torch.tensor([[0.7, 0.6, 0.1], [0.1, 0.1, 0.5], [0.5, 0.0, 0.0], [0.0, 0.9, -0.2]], dtype=torch.float64)
MEANS = torch.tensor([0.5, 0.4, 0.3], dtype=torch.float64)
RAW = [1.0, math.exp(2 * -0.4) * math.exp(2 * -0.3), 1.0, math.exp(2 * -0.5) * math.exp(2 * 0.5)]
SYNTHETIC = [1.0, math.exp(2 * -0.4) * math.exp(2 * 0.2), 1.0, math.exp(2 * -0.5) * math.exp(2 * -0.5)]


def test_four_samples_by_hand(parity: Any) -> None:
    gates = agreement_gates(TABLE, MEANS)
    parity(
        "alip",
        "gates of four samples",
        "a table worked out by hand",
        [(gates.raw_N, RAW), (gates.synthetic_N, SYNTHETIC)],
        tolerance=1e-12,
    )


def test_gammas_act_apart() -> None:
    language = agreement_gates(TABLE, MEANS, gamma_description=0.0)
    assert torch.equal(language.raw_N, language.synthetic_N)
    assert language.raw_N.tolist() == pytest.approx([1, math.exp(-0.8), 1, math.exp(-1.0)])
    description = agreement_gates(TABLE, MEANS, gamma_language=0.0)
    assert description.raw_N.tolist() == pytest.approx([1, math.exp(-0.6), 1, math.exp(1.0)])
    off = agreement_gates(TABLE, MEANS, gamma_language=0.0, gamma_description=0.0)
    assert off.raw_N.tolist() == off.synthetic_N.tolist() == [1, 1, 1, 1]


def test_agreements_are_cosines_in_the_order_of_the_means() -> None:
    torch.manual_seed(0)
    image, raw, synthetic = (F.normalize(torch.randn(5, 4, dtype=torch.float64), dim=-1).requires_grad_() for _ in range(3))
    found = agreements(image, raw, synthetic)
    for row in range(5):
        expected = [(raw[row] @ synthetic[row]).item(), (image[row] @ raw[row]).item(), (image[row] @ synthetic[row]).item()]
        assert found[row].tolist() == pytest.approx(expected, abs=1e-12)
    means = updated_means(initial_means(), found)
    gates = agreement_gates(found, means)
    assert not any(x.requires_grad for x in (found, means, gates.raw_N, gates.synthetic_N))


def test_means_start_at_one_and_move_by_a_hundredth() -> None:
    first = initial_means()
    moved = updated_means(first, TABLE)
    assert moved.tolist() == pytest.approx([0.99 + 0.01 * TABLE[:, k].mean().item() for k in range(3)], abs=1e-9)
    assert first.tolist() == [1, 1, 1]
    assert updated_means(first, TABLE, momentum=0.0).tolist() == pytest.approx(TABLE.mean(0).tolist())


def test_a_start_at_one_doubts_everything() -> None:
    gates = agreement_gates(TABLE, updated_means(initial_means(), TABLE))
    assert (gates.raw_N < 1).all()
    assert (gates.synthetic_N < 1).all()


def test_options_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match=r"momentum is 1\.5"):
        updated_means(MEANS, TABLE, momentum=1.5)
    with pytest.raises(ConfigError, match="gammas are -1"):
        agreement_gates(TABLE, MEANS, gamma_language=-1)
    with pytest.raises(ShapeError, match=r"\[N, 3\]"):
        updated_means(MEANS, TABLE[:, :2])
    with pytest.raises(ShapeError, match=r"\[2, 4\], \[3, 4\]"):
        agreements(torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(2, 4))
