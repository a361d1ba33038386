"""The hash of a language model beside a bridge is that of its weights, whatever precision they are computed in."""

from __future__ import annotations

import torch
from torch import nn

from diptych.models.io.folder import fingerprint, in_single_precision


def test_a_model_in_double_precision_has_the_hash_of_the_one_that_was_read() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    before = fingerprint(in_single_precision(model), {})
    assert in_single_precision(model) is model
    model.double()
    assert fingerprint(model, {}) != before
    assert fingerprint(in_single_precision(model), {}) == before
    assert model[0].weight.dtype == torch.float64
