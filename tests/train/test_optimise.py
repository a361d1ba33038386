from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from diptych.core.contracts import Optimiser, Rule
from diptych.core.errors import ConfigError, RunError
from diptych.core.registry import RECIPES
from diptych.train.optimise import (
    build_optimiser,
    clip,
    clip_on_device,
    freeze,
    learning_rate,
    load_optimiser_state,
    optimiser_state,
    parameters_without_gradient,
    schedule,
    set_learning_rate,
)
from diptych.train.optimisers.corrected_adamw import CorrectedAdamW
from diptych.train.optimisers.lamb import Lamb


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1)).double()


def names_of(model: nn.Module, group: dict[str, Any]) -> set[str]:
    return {name for name, p in model.named_parameters() for q in group["params"] if p is q}


def test_groups_follow_dimensions_and_the_first_rule_that_matches() -> None:
    model = network()
    rules = (Rule(r"^0\.weight", lr_scale=0.1, decay=False), Rule(r"^0\.", lr_scale=0.0), Rule(r"1\.bias", decay=True))
    spec = Optimiser(weight_decay=0.3, rules=rules)
    freeze(model, spec)
    assert not model[0].bias.requires_grad
    built = build_optimiser(model, spec)
    found = {(g["scale"], g["weight_decay"]): names_of(model, g) for g in built.param_groups}
    assert found == {(0.1, 0.0): {"0.weight"}, (1.0, 0.0): {"1.weight", "2.bias"}, (1.0, 0.3): {"1.bias", "2.weight"}}
    set_learning_rate(built, 2.0)
    assert sorted(g["lr"] for g in built.param_groups) == [0.2, 2.0, 2.0]


def test_nothing_left_to_train_is_refused() -> None:
    model = network()
    spec = Optimiser(rules=(Rule(".", lr_scale=0.0),))
    freeze(model, spec)
    with pytest.raises(ConfigError, match="no parameter is left to train"):
        build_optimiser(model, spec)


def train(model: nn.Module, optimiser: torch.optim.Optimizer, steps: int = 8) -> list[torch.Tensor]:
    torch.manual_seed(1)
    for _ in range(steps):
        x_BD = torch.randn(16, 4, dtype=torch.float64)
        optimiser.zero_grad()
        (model(x_BD).squeeze() - x_BD.sum(1)).square().mean().backward()
        optimiser.step()
    return [p.detach().clone() for p in model.parameters()]


def test_adamw_is_the_textbook_rule() -> None:
    model, lr, decay, (b1, b2), eps = network(), 0.05, 0.2, (0.9, 0.98), 1e-6
    ours = train(model, build_optimiser(model, Optimiser(lr=lr, weight_decay=decay, betas=(b1, b2), eps=eps)))

    class Naive(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            for p in self.param_groups[0]["params"]:
                s = self.state[p]
                s["t"] = s.get("t", 0) + 1
                s["m"] = b1 * s.get("m", 0) + (1 - b1) * p.grad
                s["v"] = b2 * s.get("v", 0) + (1 - b2) * p.grad**2
                mean, square = s["m"] / (1 - b1 ** s["t"]), s["v"] / (1 - b2 ** s["t"])
                p.sub_(lr * (mean / (square.sqrt() + eps) + (decay * p if p.ndim > 1 else 0)))

    twin = network()
    for one, other in zip(ours, train(twin, Naive(twin.parameters(), {})), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_sgd_keeps_decay_out_of_the_momentum() -> None:
    model, lr, decay, momentum = network(), 0.01, 0.5, 0.8
    built = build_optimiser(model, Optimiser(kind="sgd", lr=lr, weight_decay=decay, betas=(momentum, 0.0)))
    ours = train(model, built)
    assert sorted(g["weight_decay"] for g in built.param_groups) == [0.0, decay]

    class Naive(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            for p in self.param_groups[0]["params"]:
                s = self.state[p]
                s["m"] = momentum * s.get("m", 0) + p.grad
                p.sub_(lr * (s["m"] + (decay * p if p.ndim > 1 else 0)))

    twin = network()
    for one, other in zip(ours, train(twin, Naive(twin.parameters(), {})), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


class Written(torch.optim.Optimizer):
    """LAMB as it is written (1904.00962, algorithm 2), a count of steps with every parameter."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        (b1, b2), eps = (0.9, 0.99), 1e-6
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                s = self.state[p]
                s["t"] = s.get("t", 0) + 1
                s["m"] = b1 * s.get("m", 0) + (1 - b1) * p.grad
                s["v"] = b2 * s.get("v", 0) + (1 - b2) * p.grad**2
                update = s["m"] / (1 - b1 ** s["t"]) / ((s["v"] / (1 - b2 ** s["t"])).sqrt() + eps)
                ratio = 1.0
                if group["weight_decay"]:
                    update = update + group["weight_decay"] * p
                    if p.norm() > 0 and update.norm() > 0:
                        ratio = float(p.norm() / update.norm())
                p.sub_(0.03 * ratio * update)


def decayed(model: nn.Module) -> list[dict[str, Any]]:
    every = list(model.parameters())
    return [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in every if p.ndim < 2], "weight_decay": 0.0},
    ]


def test_lamb_is_as_written_also_when_a_parameter_joins_late_or_the_run_stops() -> None:
    model, twin = network(), network()
    for one in (model, twin):
        one[0].weight.data.zero_()  # a norm of zero: ratio one
    ours, written = Lamb(decayed(model), lr=0.03, betas=(0.9, 0.99), eps=1e-6), Written(decayed(twin), {})
    for step in range(10):
        if step == 6:  # as checkpoints do: what is remembered, by parameter
            memory = {parameter: dict(ours.state[parameter]) for parameter in model.parameters()}
            ours = Lamb(decayed(model), lr=0.03, betas=(0.9, 0.99), eps=1e-6)
            ours.state.update(memory)
        torch.manual_seed(step)
        x_BD = torch.randn(5, 4, dtype=torch.float64)
        for one, optimiser in ((model, ours), (twin, written)):
            optimiser.zero_grad()
            one[-1].weight.requires_grad_(step > 2)
            one(x_BD).square().mean().backward()
            optimiser.step()
    counts = [ours.state[parameter]["step"] for parameter in model.parameters()]
    assert sorted(set(counts)) == [7, 10]
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


RELEASED_ADAMW = [
    [
        [0.4835820098777529, -1.9751091798046876, 0.001698751228555006],
        [0.0007740123222297628, 2.965356683023324, -0.9981941469572927],
    ],
    [0.9999479805221325, -0.13834088381738302],
]
"""What `AdamW` of transformers 4.24.0 makes of the weights below in four steps."""


def test_adamw_of_transformers_is_the_released_one_also_when_the_run_stops() -> None:
    w_23 = nn.Parameter(torch.tensor([[0.5, -2.0, 0.0], [1e-3, 3.0, -1.0]], dtype=torch.float64))
    b_2 = nn.Parameter(torch.tensor([1.0, -0.25], dtype=torch.float64))
    model = nn.ParameterList([w_23, b_2])
    spec = Optimiser(adam="transformers", lr=0.05, eps=1e-3, betas=(0.9, 0.999), weight_decay=0.1)
    ours = build_optimiser(model, spec)
    assert isinstance(ours, CorrectedAdamW)
    for step in range(4):
        if step == 2:  # as checkpoints do: what is remembered, by parameter
            saved = optimiser_state(model, ours.state)
            ours = build_optimiser(model, spec)
            load_optimiser_state(ours, model, saved)
        set_learning_rate(ours, 0.05 * (step + 1) / 4)
        sign = (-1) ** (step // 2) * (step + 1)
        w_23.grad = torch.tensor([[1.0, 0.0, 1e-3], [-1e-4, 2e-3, 5.0]], dtype=torch.float64) * sign
        b_2.grad = None if step == 0 else torch.tensor([1e-5, -3.0], dtype=torch.float64)  # joins late
        ours.step()
    for found, released in zip((w_23, b_2), RELEASED_ADAMW, strict=True):
        torch.testing.assert_close(found.detach(), torch.tensor(released, dtype=torch.float64), rtol=1e-12, atol=1e-14)


RELEASED_LAMB = [
    [
        [0.573674457142086, -1.9511835709047614, 0.08609092131004434],
        [-0.08558011393609546, 3.012765288977303, -0.8897134083519833],
    ],
    [0.9660124949648624, -0.14126440188307965],
    [[19.16848218743402, 20.338232657704697], [19.753366783585488, 19.16845597446365]],
    [-0.04413713645237893, 0.044136492002901095],
]
"""What `Lamb` of cybertronai/pytorch-lamb d3ab8dc makes of the weights below in four steps."""


def test_plain_lamb_is_the_released_one_also_when_the_run_stops() -> None:
    """One tensor joins late, one is larger than ten, one begins at zero."""
    starts = ([[0.5, -2.0, 0.0], [1e-3, 3.0, -1.0]], [1.0, -0.25], [[20.0, 20.0], [20.0, 20.0]], [0.0, 0.0])
    weights = [nn.Parameter(torch.tensor(start, dtype=torch.float64)) for start in starts]
    model = nn.ParameterList(weights)
    spec = Optimiser(kind="lamb", lamb="plain", lr=0.05, betas=(0.9, 0.999), weight_decay=0.1)
    ours = build_optimiser(model, spec)
    for step in range(4):
        if step == 2:  # as checkpoints do: what is remembered, by parameter
            saved = optimiser_state(model, ours.state)
            ours = build_optimiser(model, spec)
            load_optimiser_state(ours, model, saved)
        set_learning_rate(ours, 0.05 * (step + 1) / 4)
        sign = (-1) ** (step // 2) * (step + 1)
        weights[0].grad = torch.tensor([[1.0, 0.0, 1e-3], [-1e-4, 2e-3, 5.0]], dtype=torch.float64) * sign
        weights[1].grad = None if step == 0 else torch.tensor([1e-5, -3.0], dtype=torch.float64)
        weights[2].grad = torch.tensor([[0.3, -0.2], [0.0, 1.0]], dtype=torch.float64)
        weights[3].grad = torch.tensor([2.0, -1.0], dtype=torch.float64) * (step + 1)
        ours.step()
    for found, released in zip(weights, RELEASED_LAMB, strict=True):
        torch.testing.assert_close(found.detach(), torch.tensor(released, dtype=torch.float64), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("slug", ["lexlip", "mblip", "fiber", "ptp_vilt"])
def test_recipes_whose_release_calls_that_adamw_have_it_and_small_ones_torchs(slug: str) -> None:
    kind = RECIPES.load(slug)
    assert kind.paper().optimiser().adam == "transformers"
    assert kind.tiny().optimiser().adam == "torch"


def test_coupled_decay_and_adamw_of_transformers_are_refused_together() -> None:
    with pytest.raises(ConfigError, match="coupled_decay goes with torch's adam"):
        build_optimiser(network(), Optimiser(adam="transformers", coupled_decay=True))


def test_adan_is_as_written_also_when_the_run_stops() -> None:
    """2208.06677, algorithm 1, in the paper's own letters: 1 - beta there is beta here."""
    model, twin = network(), network()
    spec = Optimiser(kind="adan", lr=0.02, betas=(0.98, 0.92), third_beta=0.99, eps=1e-8, weight_decay=0.1)
    ours = build_optimiser(model, spec)
    state = {p: [torch.zeros_like(p) for _ in range(3)] for p in twin.parameters()}
    before: dict[Any, torch.Tensor] = {}
    for step in range(1, 9):
        if step == 5:  # as checkpoints do: what is remembered, by parameter
            memory = {parameter: dict(ours.state[parameter]) for parameter in model.parameters()}
            ours = build_optimiser(model, spec)
            ours.state.update(memory)
        torch.manual_seed(step)
        x_BD = torch.randn(5, 4, dtype=torch.float64)
        for one in (model, twin):
            one.zero_grad()
            one(x_BD).square().mean().backward()
        ours.step()
        with torch.no_grad():
            for p in twin.parameters():
                g = p.grad
                assert g is not None
                change = g - before.get(p, g)
                m, v, n = state[p]
                m.mul_(0.98).add_(0.02 * g)
                v.mul_(0.92).add_(0.08 * change)
                n.mul_(0.99).add_(0.01 * (g + 0.92 * change) ** 2)
                root = (n / (1 - 0.99**step)).sqrt() + 1e-8
                moved = (m / (1 - 0.98**step) + 0.92 * v / (1 - 0.92**step)) / root
                p.copy_((p - 0.02 * moved) / (1 + 0.02 * (0.1 if p.ndim > 1 else 0.0)))
                before[p] = g.clone()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedule(schedule: Any) -> None:
    spec = Optimiser(lr=2.0, schedule=schedule, warmup=10, final_lr=0.1)
    rates = [learning_rate(spec, step, 110) for step in range(111)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2.0
    middle = {"cosine": 1.1, "linear": 1.1, "constant": 2.0}[schedule]
    assert rates[60] == pytest.approx(middle)
    assert rates[35] == pytest.approx(
        {"cosine": 0.2 + 1.8 * 0.5 * (1 + math.cos(math.pi / 4)), "linear": 1.55, "constant": 2.0}[schedule]
    )
    assert rates[110] == pytest.approx(2.0 if schedule == "constant" else 0.2)


def test_one_cycle_is_torchs_with_the_first_beta() -> None:
    """`OneCycleLR` as ALIP's release calls it, cycle of the momentum included, which it turns on by itself."""
    theirs = torch.optim.AdamW(network().parameters(), lr=1e-3, betas=(0.9, 0.98))
    cycle = torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=[1e-3], total_steps=70, pct_start=0.1)
    for spec in (Optimiser(lr=1e-3, schedule="one_cycle", warmup=0.1), Optimiser(lr=1e-3, schedule="one_cycle", warmup=7)):
        ours = build_optimiser(network(), spec)
        rates, betas = [], []
        for step in range(70):
            rates.append(schedule(ours, spec, step, 70))
            assert ours.param_groups[0]["lr"] == rates[-1]
            betas.append(ours.param_groups[0]["betas"])
        if spec.warmup < 1:
            expected = []
            for _ in range(70):
                expected.append((theirs.param_groups[0]["lr"], theirs.param_groups[0]["betas"]))
                theirs.step()
                if len(expected) < 70:
                    cycle.step()
        np.testing.assert_allclose(rates, [rate for rate, _ in expected], rtol=1e-12)
        np.testing.assert_allclose(betas, [pair for _, pair in expected], rtol=1e-12)
    assert min(betas)[0] == pytest.approx(0.85)
    with pytest.raises(ConfigError, match="one_cycle moves betas"):
        build_optimiser(network(), Optimiser(kind="sgd", schedule="one_cycle"))


def test_decay_after_each_epoch_is_blips() -> None:
    """The two functions of BLIP's utils.py as its pre-training calls them."""
    falls: dict[str, Any] = {"schedule": "decay", "decay_rate": 0.9, "periods": 60, "final_lr": 1e-6 / 3e-4}
    spec = Optimiser(lr=3e-4, **falls, warmup=30, warmup_from=1e-6 / 3e-4, rises="first")
    for length in (40, 12):  # of the shorter epochs the first ends before the warm-up does, and the rate leaps
        expected = []
        for epoch in range(60):
            for step in range(length):
                rate = max(1e-6, 3e-4 * 0.9**epoch)
                if epoch == 0:
                    rate = min(3e-4, 1e-6 + (3e-4 - 1e-6) * step / 30)
                expected.append(rate)
        found = [learning_rate(spec, step, 60 * length) for step in range(60 * length)]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        assert expected[0] == 1e-6 == expected[-1]


def test_a_warm_up_never_starts_above_the_rate() -> None:
    spec = Optimiser(lr=1e-7, warmup=10, warmup_from=10.0)
    assert [learning_rate(spec, step, 20) for step in range(10)] == [1e-7] * 10


def test_warmup_below_one_is_a_share_of_the_run() -> None:
    share, steps = Optimiser(warmup=0.25), Optimiser(warmup=5)
    assert [learning_rate(share, s, 20) for s in range(20)] == [learning_rate(steps, s, 20) for s in range(20)]


def test_clip_returns_the_norm_before_and_scales_all_gradients_alike() -> None:
    model = network()
    model(torch.randn(3, 4, dtype=torch.float64)).sum().backward()
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    norm = math.sqrt(sum(float(g.square().sum()) for g in before))
    assert clip(model, 0.0) == pytest.approx(norm)
    assert clip(model, norm * 2) == pytest.approx(norm)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True) if p.grad is not None)
    clip(model, norm / 4)
    for p, g in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.grad, g / 4, rtol=1e-5, atol=0)


def test_parts_are_clipped_each_by_its_own_norm() -> None:
    """As DINOv2 clips: torch's clip_grad_norm_ over each child module; the limit lies between their norms."""
    for clipping in (clip, clip_on_device):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)).double()
        model(torch.randn(5, 4, dtype=torch.float64)).sum().backward()
        theirs = deepcopy(model)
        for ours, copy in zip(model.parameters(), theirs.parameters(), strict=True):
            assert ours.grad is not None
            copy.grad = ours.grad.clone()
        first, last = (float(torch.nn.utils.get_total_norm([p.grad for p in model[n].parameters()])) for n in (0, 2))
        limit = (first + last) / 2
        for n in (0, 2):
            torch.nn.utils.clip_grad_norm_(theirs[n].parameters(), limit)
        assert float(clipping(model, limit, "parts")) == pytest.approx(math.hypot(first, last))
        for ours, copy in zip(model.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, copy.grad)


def test_an_undefined_gradient_stops_the_run_before_the_step() -> None:
    model = network()
    (model(torch.randn(3, 4, dtype=torch.float64)).sum() * math.nan).backward()
    with pytest.raises(RunError, match="the gradient norm is nan: lower lr"):
        clip(model, 1.0)


def test_silent_parameters_are_named() -> None:
    model = network()
    model[0](torch.randn(3, 4, dtype=torch.float64)).sum().backward()
    assert parameters_without_gradient(model) == ["1.weight", "1.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize(
    "fields",
    [
        {"lr": float("nan")}, {"lr": -1e-3}, {"weight_decay": -0.1}, {"warmup": -1.0}, {"clip_norm": float("nan")},
        {"schedule": "half_life", "half_life": 0.0},
    ],
)  # fmt: skip
def test_values_that_no_optimiser_takes_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^{list(fields)[-1]} is {list(fields.values())[-1]} \(expected"):
        Optimiser(**fields)
