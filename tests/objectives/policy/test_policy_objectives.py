"""Policy gradients against stable-baselines3, sb3-contrib, transformers, loops by hand, and figures of the released NLPO."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.policy.action_masks import (
    drawn_actions,
    masked_entropy,
    masked_log_probabilities,
    top_k_mask,
    top_p_mask,
)
from diptych.objectives.policy.advantages import (
    answer_gae,
    gae,
    group_relative,
    leave_one_out,
    self_critical,
    standardised,
    whitened,
)
from diptych.objectives.policy.divergence import KLController, kl_estimate
from diptych.objectives.policy.surrogate import clipped_surrogate, value_loss

gymnasium = pytest.importorskip("gymnasium")


class Corridor(gymnasium.Env):
    """Four places and three moves, two of which may be masked; every fifth episode is cut by a time limit."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self) -> None:
        self.place, self.steps, self.episode = 0, 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.steps, self.episode = 0, 0, self.episode + 1
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place, self.steps = max(0, self.place + int(action) - 1), self.steps + 1
        return self._seen(), 0.3 * self.place - 0.1, self.place == 3, self.steps == 5, {}

    def action_masks(self) -> Any:
        return np.array([self.place > 0, True, self.steps % 2 == 0])

    def _seen(self) -> Any:
        return np.array([self.place / 3, self.steps / 5], np.float32)


def ours(policy: Any, rows: Any, buffer: Any, **masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Surrogate, value and entropy terms of a minibatch of a library's buffer."""
    logit_NA = policy.action_net(policy.mlp_extractor(policy.extract_features(rows.observations))[0])
    mask_NA = masks.get("mask")
    log_NA = masked_log_probabilities(logit_NA, mask_NA)
    action_N1 = rows.actions.long().view(-1, 1)
    surrogate = clipped_surrogate(log_NA.gather(1, action_N1)[:, 0], rows.old_log_prob, standardised(rows.advantages), clip=0.2)
    value = value_loss(policy.predict_values(rows.observations).flatten(), rows.returns)
    return surrogate.loss, value, masked_entropy(logit_NA, mask_NA).mean()


@pytest.mark.parametrize("masked", [False, True])
def test_update_is_that_of_the_libraries(masked: bool, parity: Any) -> None:
    if masked:
        from sb3_contrib import MaskablePPO as library  # noqa: N813
    else:
        from stable_baselines3 import PPO as library  # noqa: N811
    model = library("MlpPolicy", Corridor(), n_steps=64, batch_size=64, n_epochs=1, ent_coef=0.01, seed=3, device="cpu")
    _, callback = model._setup_learn(64)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 64, **({"use_masking": True} if masked else {}))
    buffer = model.rollout_buffer
    last = model.policy.predict_values(torch.as_tensor(model._last_obs)).detach()[:, 0]
    rollout = [torch.from_numpy(x.copy()) for x in (buffer.rewards, buffer.values, buffer.episode_starts)]
    got = gae(
        *rollout[:2], rollout[2].bool(), last_value=last, last_done=torch.from_numpy(model._last_episode_starts), gamma=0.99
    )
    name = "MaskablePPO of sb3-contrib" if masked else "PPO of stable-baselines3"
    assert buffer.episode_starts.sum() > 5
    parity(
        "rl4lms",
        "advantages and returns",
        name,
        [(got.advantage, buffer.advantages), (got.returns, buffer.returns)],
        tolerance=1e-5,
    )

    mine = copy.deepcopy(model.policy)
    state = np.random.get_state()
    (rows,) = list(buffer.get(64))
    np.random.set_state(state)
    mask = {"mask": rows.action_masks.bool()} if masked else {}
    surrogate, value, entropy = ours(mine, rows, buffer, **mask)
    (surrogate + 0.5 * value - 0.01 * entropy).backward()
    torch.nn.utils.clip_grad_norm_(mine.parameters(), 0.5)
    mine.optimizer = type(model.policy.optimizer)(mine.parameters(), lr=3e-4, eps=1e-5)
    mine.optimizer.step()
    model.train()
    pairs = [(a.detach(), b.detach()) for a, b in zip(mine.parameters(), model.policy.parameters(), strict=True)]
    parity("rl4lms", "weights after an update: surrogate, value and entropy terms", name, pairs, tolerance=1e-6)


def test_rollouts_are_those_of_stable_baselines3(parity: Any) -> None:
    from stable_baselines3 import PPO

    from diptych.train.engines.environments import ActorOutput, EnvironmentRunner

    model = PPO("MlpPolicy", Corridor(), n_steps=40, seed=3, device="cpu")
    _, callback = model._setup_learn(40)

    def actor(observation_E: Tensor, mask_EA: Tensor | None) -> ActorOutput:
        distribution = model.policy.get_distribution(observation_E)
        action_E = distribution.mode()
        return ActorOutput(action_E, distribution.log_prob(action_E), model.policy.predict_values(observation_E)[:, 0])

    model.policy.forward = lambda seen, deterministic=False: (lambda o: (o.action_E, o.value_E[:, None], o.log_prob_E))(
        actor(seen, None)
    )
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 40)
    rollout = EnvironmentRunner([Corridor()], actor).collect(40)
    got = gae(
        rollout.reward_TE, rollout.value_TE, rollout.begins_TE, last_value=rollout.last_value_E, last_done=rollout.last_done_E
    )
    buffer = model.rollout_buffer
    pairs = [(got.advantage, buffer.advantages), (rollout.reward_TE, buffer.rewards), (rollout.log_prob_TE, buffer.log_probs)]
    assert float(rollout.begins_TE.sum()) == 8, "every episode is cut by the limit of five steps"
    parity(
        "rl4lms",
        "rollout with time limits: rewards, log-probabilities, advantages",
        "PPO of stable-baselines3",
        pairs,
        tolerance=1e-5,
    )


def test_masked_distribution_is_that_of_sb3_contrib(parity: Any) -> None:
    from sb3_contrib.common.maskable.distributions import MaskableCategorical

    torch.manual_seed(0)
    logit_NA, mask_NA = torch.randn(50, 7, dtype=torch.float64), torch.rand(50, 7) < 0.5
    mask_NA[:, 2] = True
    theirs = MaskableCategorical(logits=logit_NA, masks=mask_NA.numpy())
    log_NA = masked_log_probabilities(logit_NA, mask_NA)
    assert bool((log_NA[~mask_NA] == -torch.inf).all())
    pairs = [(log_NA[mask_NA], theirs.logits[mask_NA]), (masked_entropy(logit_NA, mask_NA), theirs.entropy())]
    parity("rl4lms", "masked log-probabilities and entropy", "MaskableCategorical of sb3-contrib", pairs, tolerance=1e-6)


def test_released_masking_does_not_renormalise() -> None:
    logit_13 = torch.tensor([[1.0, 0.0, -1.0]])
    mask_13 = torch.tensor([[True, True, False]])
    raw_13 = logit_13.log_softmax(1)
    released_13 = masked_log_probabilities(logit_13, mask_13, renormalised=False)
    torch.testing.assert_close(released_13[0, :2], raw_13[0, :2])
    assert released_13[0, 2].item() == pytest.approx(-15.9423847, abs=1e-5), "what the released class gives"
    assert masked_entropy(logit_13, mask_13, renormalised=False).item() == pytest.approx(0.6765474, abs=1e-6)
    assert masked_entropy(logit_13, mask_13).item() == pytest.approx(0.582203, abs=1e-5)
    assert masked_log_probabilities(logit_13, mask_13).exp().sum().item() == pytest.approx(1)


@pytest.mark.parametrize("p", [0.3, 0.9, 1.0])
def test_nucleus_is_that_of_transformers(p: float, parity: Any) -> None:
    from transformers import TopPLogitsWarper

    torch.manual_seed(1)
    logit_NV = torch.randn(200, 40, dtype=torch.float64) * 3
    theirs_NV = TopPLogitsWarper(p, min_tokens_to_keep=1)(None, logit_NV).isfinite()
    pairs = [(top_p_mask(logit_NV, p).double(), theirs_NV.double())]
    parity("rl4lms", "nucleus of the mask model", "TopPLogitsWarper of transformers", pairs, tolerance=0)


def test_mask_keeps_the_crossing_token_the_least_number_and_special_tokens() -> None:
    logit_14 = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert top_p_mask(logit_14, 0.6).tolist() == [[True, True, False, False]]
    assert top_p_mask(logit_14, 0.4).tolist() == [[True, False, False, False]]
    assert top_p_mask(logit_14, 0.4, min_keep=3).tolist() == [[True, True, True, False]]
    assert top_p_mask(logit_14, 0.4, always=(3,)).tolist() == [[True, False, False, True]]
    assert top_k_mask(logit_14, 2, always=(3,)).tolist() == [[True, True, False, True]]


def test_actions_are_drawn_from_the_mask() -> None:
    log_14 = masked_log_probabilities(torch.tensor([[0.0, 9.0, 1.0, 0.0]]), torch.tensor([[True, False, True, True]]))
    uniform_N = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:-1]
    drawn_N = drawn_actions(log_14.expand(10_000, -1), uniform_N)
    share_4 = torch.bincount(drawn_N, minlength=4) / 10_000
    torch.testing.assert_close(share_4, log_14.exp()[0], atol=2e-4, rtol=0)


def test_controller_follows_the_target() -> None:
    controller = KLController(0.1, 0.1)
    path = []
    for kl in (0.3, 0.05, -0.2):
        one = KLController(0.1, 0.1)
        one.update(torch.tensor(kl))
        controller.update(kl)
        path.append((one.coefficient.item(), controller.coefficient.item()))
    assert [one for one, _ in path] == pytest.approx([0.102, 0.098, 0.098])
    assert [chained for _, chained in path] == pytest.approx([0.102, 0.09996, 0.0979608])
    fixed = KLController(0.1)
    fixed.update(5.0)
    assert fixed.coefficient.item() == pytest.approx(0.1, abs=1e-12)
    assert "coefficient" in fixed.state_dict()
    with pytest.raises(ConfigError, match="target 0"):
        KLController(0.1, 0.0)


def test_estimates_of_the_divergence() -> None:
    p, q = torch.tensor([0.7, 0.3], dtype=torch.float64), torch.tensor([0.4, 0.6], dtype=torch.float64)
    exact = (p * (p / q).log()).sum()
    for kind in ("k1", "k3"):
        estimate = kl_estimate(p.log(), q.log(), kind)  # type: ignore[arg-type]
        torch.testing.assert_close((p * estimate).sum(), exact)
    assert bool((kl_estimate(p.log(), q.log(), "k3") >= 0).all())
    assert kl_estimate(p.log(), q.log(), "k1", floor=0.0).tolist() == [pytest.approx(0.559616, abs=1e-5), 0.0]
    torch.testing.assert_close(kl_estimate(p.log(), q.log(), "k2"), 0.5 * (p / q).log() ** 2)
    with pytest.raises(ConfigError, match=r"expected k1 \| k2 \| k3"):
        kl_estimate(p, q, "k4")  # type: ignore[arg-type]


def test_answers_pass_over_what_was_not_chosen() -> None:
    torch.manual_seed(0)
    reward_BL, value_BL = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    chosen_BL = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0]]).bool()
    got = answer_gae(reward_BL, value_BL, chosen_BL, gamma=0.9, lam=0.8)
    for row in range(3):
        steps = chosen_BL[row].nonzero()[:, 0]
        reward, value = reward_BL[row, steps].tolist(), value_BL[row, steps].tolist()
        later = 0.0
        for t in range(len(steps) - 1, -1, -1):
            following = value[t + 1] if t + 1 < len(steps) else 0.0
            later = reward[t] + 0.9 * following - value[t] + 0.9 * 0.8 * later
            assert got.advantage[row, steps[t]].item() == pytest.approx(later)
            assert got.returns[row, steps[t]].item() == pytest.approx(later + value[t])
    assert bool((got.advantage[~chosen_BL] == 0).all())
    with pytest.raises(ShapeError, match="answer 1 has no token"):
        answer_gae(reward_BL, value_BL, chosen_BL & torch.tensor([True, False, True])[:, None])


def test_baselines_without_a_value_model() -> None:
    reward_BS = torch.tensor([[1.0, 0.0, 0.0, 3.0], [2.0, 2.0, 2.0, 2.0]])
    torch.testing.assert_close(group_relative(reward_BS, scale=False)[0], torch.tensor([0.0, -1.0, -1.0, 2.0]))
    torch.testing.assert_close(group_relative(reward_BS)[0], torch.tensor([0.0, -1.0, -1.0, 2.0]) / (2.0**0.5 + 1e-4))
    torch.testing.assert_close(leave_one_out(reward_BS)[0], torch.tensor([1 - 1.0, 0 - 4 / 3, 0 - 4 / 3, 3 - 1 / 3]))
    assert bool((group_relative(reward_BS)[1] == 0).all())
    assert self_critical(reward_BS, torch.tensor([1.0, 2.0])).tolist() == [[0.0, -1.0, -1.0, 2.0], [0.0] * 4]
    with pytest.raises(ShapeError, match="2 answers or more"):
        group_relative(reward_BS[:, :1])


def test_masks_of_the_release(parity: Any) -> None:
    """Numbers of `MaskableCategorical` and of both logits processors of RL4LMs at 97df0bd."""
    logit_NV = torch.tensor([[2.0, 0.5, -1.0, 3.0, 0.0], [0.1, 0.2, 0.3, 0.4, 0.5]], dtype=torch.float64)
    mask_NV = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 0, 0, 1]]).bool()
    outside = -36.04365338911715
    released = [
        [-1.4174379118897062, outside, -4.4174379118897065, -0.41743791188970636, outside],
        [outside, -1.7194163314769022, outside, outside, -1.4194163314769022],
    ]
    found = masked_log_probabilities(logit_NV, mask_NV, renormalised=False)
    entropy = masked_entropy(logit_NV, mask_NV, renormalised=False)
    pairs = [(found, torch.tensor(released)), (entropy, torch.tensor([0.735677388477106, 1.5470835764334043]))]
    parity("rl4lms", "log-probabilities and entropy, not renormalised", "MaskableCategorical of RL4LMs", pairs, tolerance=1e-6)
    rare_NV = torch.tensor([[30.0, 0.0, 1.0]])  # those inside the mask are rarer than the least that a float32 can add to 1
    rare = masked_entropy(rare_NV, torch.tensor([[False, True, True]]), renormalised=False)
    assert float(rare) == pytest.approx(-math.log(torch.finfo(torch.float32).eps), rel=1e-6)

    logit_NV = torch.tensor([[2.0, 0.5, -1.0, 3.0, 0.0, 1.0], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]])
    kept = [
        top_p_mask(logit_NV, 0.5, min_keep=4, always=(0, 5)),
        top_p_mask(logit_NV, 0.5, min_keep=5, always=(0, 5)),  # four of an encoder-decoder
        top_p_mask(logit_NV, 0.7, always=(2,)),
    ]
    theirs = [
        [[1, 1, 0, 1, 0, 1], [1, 0, 1, 1, 1, 1]],
        [[1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]],
        [[1, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]],
    ]
    masks = [(one.float(), torch.tensor(other).float()) for one, other in zip(kept, theirs, strict=True)]
    parity("rl4lms", "nucleus masks that keep some", "MaskLogitsProcessor of RL4LMs", masks, tolerance=0)


def test_whitening() -> None:
    x = torch.tensor([[1.0, 2.0, 9.0], [3.0, 9.0, 9.0]])
    counts = torch.tensor([[True, True, False], [True, False, False]])
    white = whitened(x, counts)
    assert white[counts].tolist() == pytest.approx([-1.224745, 0.0, 1.224745], abs=1e-5)
    assert white[~counts].tolist() == [9.0, 9.0, 9.0]
    assert whitened(x, counts, shift_mean=False)[counts].mean().item() == pytest.approx(2)
    assert whitened(x[:, 0], unbiased=True).tolist() == pytest.approx([-0.707107, 0.707107], abs=1e-5)
    assert standardised(torch.tensor([4.0])).tolist() == [4.0]


def test_pessimistic_value_loss() -> None:
    value, old, target = torch.tensor([2.0]), torch.tensor([0.0]), torch.tensor([3.0])
    assert value_loss(value, target, old_value=old, clip=0.5, form="pessimistic").item() == pytest.approx(0.5 * 2.5**2)
    assert value_loss(value, target, old_value=old, clip=0.5).item() == pytest.approx(2.5**2)
    assert value_loss(value, target).item() == pytest.approx(1)


def test_gradient_of_the_surrogate_is_the_policy_gradient_at_the_start() -> None:
    """E[R grad log p] over all outcomes of two tokens is the gradient of the expected reward."""
    torch.manual_seed(0)
    logit_2V = torch.randn(2, 16, dtype=torch.float64, requires_grad=True)
    reward_VV = torch.rand(16, 16, dtype=torch.float64)
    log_2V = logit_2V.log_softmax(1)
    log_VV = log_2V[0][:, None] + log_2V[1][None]
    weight_VV = log_VV.exp().detach() * 256  # outcomes weighed by their probability stand for draws
    loss = clipped_surrogate(log_VV, log_VV.detach(), weight_VV * reward_VV).loss
    (got,) = torch.autograd.grad(loss, logit_2V, retain_graph=True)
    (expected,) = torch.autograd.grad((log_VV.exp() * reward_VV).sum(), logit_2V)
    torch.testing.assert_close(-got, expected)


def test_shapes_are_checked() -> None:
    with pytest.raises(ShapeError, match="one shape, and a step"):
        gae(torch.zeros(0), torch.zeros(0), torch.zeros(0), last_value=0.0, last_done=True)
    with pytest.raises(ShapeError, match=r"mask is \[2, 3\]"):
        masked_log_probabilities(torch.zeros(2, 4), torch.ones(2, 3).bool())
