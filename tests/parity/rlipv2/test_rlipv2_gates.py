"""Every gate of the RLIPv2 release: its fusion of image and labels with random weights, and what the released code gave.

`rlipv2_gates.npz` holds, for each gate, weights and inputs (integers, in 64ths) under our names and the released outputs (float32).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.models.detection.language_fusion import GATES, BidirectionalFusion

STORED = Path(__file__).parent / "rlipv2_gates.npz"


def test_every_released_gate_is_stored() -> None:
    with np.load(STORED) as stored:
        assert {name.split("/")[0] for name in stored.files} == set(GATES)


@pytest.mark.parametrize("gate", GATES)
def test_fusion_equals_the_release(gate: str, parity: Any) -> None:
    with np.load(STORED) as stored:
        arrays = {name.split("/")[1]: torch.from_numpy(stored[name]) for name in stored.files if name.startswith(f"{gate}/")}
    fused_places, fused_labels = arrays.pop("fused_places"), arrays.pop("fused_labels")
    arrays = {name: value.float() / 64 for name, value in arrays.items()}
    places, labels, position = (arrays.pop(name) for name in ("places", "labels", "position"))
    fusion = BidirectionalFusion(32, 16, width=16, heads=2, gate=gate).eval()
    fusion.load_state_dict(arrays)
    with torch.no_grad():
        our_places, our_labels = fusion(places, labels, position)
    pairs = [(our_places, fused_places), (our_labels, fused_labels)]
    parity("rlipv2", "fusion under every released gate", "outputs of JacobYuan7/RLIPv2", pairs, tolerance=2e-6)


@pytest.mark.parametrize("gate", [gate for gate in GATES if gate.startswith(("vector", "self"))])
def test_learned_vectors_keep_one_number_a_channel(gate: str) -> None:
    fusion = BidirectionalFusion(32, 16, width=16, heads=2, gate=gate)
    assert (fusion.place_gate.gate.shape, fusion.label_gate.gate.shape) == ((32,), (16,))
