"""Companion models: averages and mixtures against numpy, frozen means frozen, and nothing of the source is touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from diptych.core.errors import ConfigError
from diptych.models.layers.frozen_modules import FrozenModules, mix_


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).double()
    model[1].running_mean.normal_()
    model[1].num_batches_tracked.fill_(seed)
    return model


def numbers(module: nn.Module) -> dict[str, Any]:
    return {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}


def test_a_companion_copies_everything_and_stays_apart() -> None:
    source = net(1)
    companions = FrozenModules(source, "teacher", "reference")
    before = numbers(source)
    assert set(companions) == {"teacher", "reference"}
    assert not any(p.requires_grad for p in companions.parameters())
    with torch.no_grad():
        source[0].weight.add_(1)
    for name in companions:
        for key, value in numbers(companions[name]).items():
            np.testing.assert_array_equal(value, before[key])


def test_a_module_can_be_given_or_copied_when_it_is_wanted() -> None:
    other, source = net(2), net(1)
    companions = FrozenModules(source, "reference", teacher=other)
    assert companions["teacher"] is other
    assert not other.training
    assert not any(p.requires_grad for p in companions.parameters())
    with torch.no_grad():
        source[0].weight.add_(1)
    companions.add_("reference", source)
    assert companions["reference"] is not source
    assert torch.equal(companions["reference"][0].weight, source[0].weight)
    assert not companions["reference"].training
    assert source.training
    assert source[0].weight.requires_grad
    for wrong in (lambda: FrozenModules(None, "teacher"), lambda: FrozenModules(source, "teacher", teacher=other)):
        with pytest.raises(ConfigError, match="one origin each"):
            wrong()


def test_companions_stay_in_evaluation_mode() -> None:
    outer = nn.Module()
    outer.companions = FrozenModules(net(1), "teacher")
    outer.train()
    assert outer.training
    assert not any(module.training for module in outer.companions.modules())
    x = torch.randn(5, 3, dtype=torch.float64)
    assert torch.equal(outer.companions["teacher"](x), outer.companions["teacher"](x)), "dropout would differ"


@pytest.mark.parametrize("momentum", [0.0, 0.25, 0.995])
def test_the_average_is_the_formula_heads_and_buffers_included(momentum: float) -> None:
    source, companions = net(1), FrozenModules(net(2), "teacher")
    old, new = numbers(companions["teacher"]), numbers(source)
    companions.average_("teacher", source, momentum)
    for key, value in numbers(companions["teacher"]).items():
        expected = new[key] if "num_batches" in key else momentum * old[key] + (1 - momentum) * new[key]
        np.testing.assert_allclose(value, expected, rtol=1e-14, atol=0)
    assert all(np.array_equal(value, new[key]) for key, value in numbers(source).items())


def test_momentum_one_freezes_to_the_bit(parity: Any) -> None:
    companions = FrozenModules(net(2), "teacher")
    old = numbers(companions["teacher"])
    companions.average_("teacher", net(1), 1.0)
    assert all(np.array_equal(value, old[key]) for key, value in numbers(companions["teacher"]).items())
    parity(
        "tips",
        "teacher at momentum 1",
        "the teacher before",
        [(value, old[key]) for key, value in numbers(companions["teacher"]).items()],
        tolerance=0.0,
    )


def test_a_three_way_mixture_is_numpys(parity: Any) -> None:
    target, source, reference = net(1), net(2), net(3)
    old, new, ref = (numbers(module) for module in (target, source, reference))
    mix_(target, 0.9, (0.05, source), (0.05, reference))
    pairs = []
    for key, value in numbers(target).items():
        expected = new[key] if "num_batches" in key else 0.9 * old[key] + 0.05 * new[key] + 0.05 * ref[key]
        np.testing.assert_allclose(value, expected, rtol=1e-14, atol=0)
        pairs.append((value, expected))
    parity("ctp", "the momentum model between model and reference", "a formula in numpy", pairs, tolerance=1e-14)


def test_with_share_zero_the_old_values_are_gone_whatever_they_were() -> None:
    target = net(1)
    with torch.no_grad():
        target[0].weight.fill_(float("nan"))
    mix_(target, 0.0, (1.0, net(2)))
    assert torch.equal(target[0].weight, net(2)[0].weight)


def test_what_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(ConfigError, match="sum 1"):
        mix_(net(1), 0.9, (0.2, net(2)))
    with pytest.raises(ConfigError, match="sum 1"):
        mix_(net(1), 1.5, (-0.5, net(2)))
    with pytest.raises(ConfigError, match=r"'weight' is missing|of another shape"):
        mix_(nn.Linear(3, 4), 0.5, (0.5, nn.Linear(4, 4)))


def test_a_source_may_hold_more_than_its_companion() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)
            self.companions = FrozenModules(self, "teacher")

    model = Outer()
    with torch.no_grad():
        model.inner.weight.add_(1)
    model.companions.average_("teacher", model, 0.5)
    torch.testing.assert_close(model.companions["teacher"].inner.weight, model.inner.weight - 0.5)
    assert all(name.startswith(("inner.", "companions.teacher.inner.")) for name in model.state_dict())
