"""Engines on toys whose steps can be written down: a table of preferences, a bandit. The loops by hand know nothing of the engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.multiprocessing import ProcessRaisedException
from toy import Toy, toy_pool
from toy_engines import ACTIONS, BETA, PROMPTS, Average, Bandit, Prefer, Rollout, Table
from toy_processes import run, trained

from diptych.core.contracts import Hook, Recipe
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.randomness import keyed_seed
from diptych.data.load.stream import batches
from diptych.train.engines.companions import frozen_copy
from diptych.train.estimate import estimate
from diptych.train.fit import fit, resume
from diptych.train.options import TrainOptions

OPTIONS = TrainOptions(progress=False, log_every=1, save_every=2, keep=9, precision="fp32", seed=3)


# ---------------------------------------------------------------- preference


def start() -> Tensor:
    torch.manual_seed(keyed_seed(OPTIONS.seed, "model", 0))
    return Table().logit_PA.detach()


def weights(folder: Path) -> Tensor:
    return load_file(folder / "model/model.safetensors")["logit_PA"]


def preferred_by_hand() -> Tensor:
    logit_PA, reference_PA = start().requires_grad_(), start()
    for item in batches(toy_pool(), Prefer(), seed=OPTIONS.seed, stop=6):
        rows = item.batch.prompt_B.tolist()
        loss = torch.zeros((), dtype=torch.float64)
        for p in rows:
            ratio_A = logit_PA[p].log_softmax(0) - reference_PA[p].log_softmax(0)
            loss = loss - torch.log(torch.sigmoid(BETA * (ratio_A[p % ACTIONS] - ratio_A[(p + 1) % ACTIONS]))) / len(rows)
        (grad_PA,) = torch.autograd.grad(loss, logit_PA)
        logit_PA = (logit_PA - 0.3 * grad_PA).detach().requires_grad_()
    return logit_PA.detach()


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_preference_is_the_loop_by_hand(tmp_path: Path, micro_batch: int) -> None:
    fit(Prefer(), toy_pool(), tmp_path / "run", replace(OPTIONS, micro_batch=micro_batch))
    torch.testing.assert_close(weights(tmp_path / "run"), preferred_by_hand(), rtol=1e-12, atol=1e-12)


def test_the_reference_stays_what_the_model_was_also_across_a_stop(tmp_path: Path) -> None:
    stopped(Prefer(), tmp_path)
    held = load_file(tmp_path / "broken/checkpoints/step-00000006/hooks.safetensors")
    (reference_PA,) = [tensor for name, tensor in held.items() if "reference" in name]
    assert torch.equal(reference_PA, start())


# ---------------------------------------------------------------- policy


def acted_by_hand(recipe: Bandit) -> Tensor:
    logit_PA, reference_PA = start().requires_grad_(), start().log_softmax(1)
    for step, item in enumerate(batches(toy_pool(), recipe, seed=OPTIONS.seed, stop=6)):
        prompt = item.batch.prompt_B.tolist()
        torch.manual_seed(keyed_seed(OPTIONS.seed, "step", step, 0))
        old_PA = logit_PA.detach().log_softmax(1)
        action = torch.multinomial(old_PA[prompt].exp(), 1)[:, 0].tolist()
        reward = [
            float(a == p % ACTIONS) - 0.01 * float(old_PA[p, a] - reference_PA[p, a]) for p, a in zip(prompt, action, strict=True)
        ]
        advantage = [r - sum(reward) / len(reward) for r in reward]
        rows = list(zip(prompt, action, advantage, strict=True))
        for _ in range(recipe.passes):
            for part in (rows[0:3], rows[3:6], rows[6:8]):
                now_PA = logit_PA.log_softmax(1)
                terms = []
                for p, a, gain in part:
                    ratio = (now_PA[p, a] - old_PA[p, a]).exp()
                    terms.append(-torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain))
                (grad_PA,) = torch.autograd.grad(torch.stack(terms).mean(), logit_PA)
                logit_PA = (logit_PA - 0.3 * grad_PA).detach().requires_grad_()
    return logit_PA.detach()


def test_policy_is_the_loop_by_hand(tmp_path: Path) -> None:
    fit(Bandit(), toy_pool(), tmp_path / "run", OPTIONS)
    torch.testing.assert_close(weights(tmp_path / "run"), acted_by_hand(Bandit()), rtol=1e-12, atol=1e-12)


def test_what_nothing_trains_is_noted_once_though_a_step_has_many_updates(tmp_path: Path) -> None:
    class Idle(Bandit):
        def model(self) -> Table:
            table = super().model()
            table.idle = torch.nn.Linear(2, 2).double()
            return table

    run = fit(Idle(steps=2), toy_pool(), tmp_path / "run", OPTIONS)
    notes = [line["text"] for line in run.metrics() if line["kind"] == "note"]
    assert notes == ["no gradient reaches idle.weight, idle.bias"]


def test_policy_is_rewarded_more_and_more(tmp_path: Path) -> None:
    run = fit(Bandit(lr=2.0, batch_size=24, minibatch=0, steps=60), toy_pool(), tmp_path / "run", OPTIONS)
    reward = [line["reward"] for line in run.metrics() if line["kind"] == "train"]
    assert sum(reward[:5]) / 5 < 0.5
    assert sum(reward[-5:]) / 5 > 0.9


# ---------------------------------------------------------------- one resume, one refusal, for all


class Breaks(Hook):
    """Raises before step 4, the first time that a folder sees it."""

    name = "breaks"

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def before_step(self, run: Any, batch: Any) -> None:
        if run.step == 4 and not self.marker.exists():
            self.marker.touch()
            raise RuntimeError("broken")


def stopped(recipe: Recipe, tmp_path: Path) -> None:
    """A run that broke at step 4 and one that did not end in the same bytes."""
    whole = fit(recipe, toy_pool(), tmp_path / "whole", OPTIONS)
    marker = tmp_path / "marker"
    kind = type(recipe)
    broken = type("Broken", (kind,), {"hooks": lambda self: [Breaks(marker)], "slug": kind.slug})
    with pytest.raises(RuntimeError, match="broken"):
        fit(broken(), toy_pool(), tmp_path / "broken", OPTIONS)
    run = resume(tmp_path / "broken", toy_pool(), kind=broken)
    assert (whole.model / "model.safetensors").read_bytes() == (run.model / "model.safetensors").read_bytes()


def test_a_stopped_policy_ends_in_the_same_bytes(tmp_path: Path) -> None:
    stopped(Bandit(), tmp_path)


@dataclass(frozen=True, kw_only=True)
class Remembering(Bandit):
    """Two answers a prompt, a companion that follows the model every second rollout, and a coefficient that follows the drift."""

    slug = "remembering"
    steps: int = 7

    def model(self) -> Table:
        table = super().model()
        table.register_buffer("beta", torch.tensor([0.1], dtype=torch.float64))
        table.register_buffer("rollouts", torch.zeros(1, dtype=torch.float64))
        return table

    def companions(self, model: torch.nn.Module) -> dict[str, torch.nn.Module]:
        return {name: frozen_copy(model) for name in ("reference", "behind")}

    def rollout(self, model: Any, companions: Mapping[str, torch.nn.Module], batch: Rollout) -> Rollout:
        if model.rollouts.item() % 2 == 0:
            companions["behind"].load_state_dict(model.state_dict())
        model.rollouts += 1
        prompt_B = batch.prompt_B.repeat_interleave(2)
        action_B = torch.multinomial(companions["behind"](prompt_B).exp(), 1)[:, 0]
        log_prob_B, reference_B = (m(prompt_B).gather(1, action_B[:, None])[:, 0] for m in (model, companions["reference"]))
        drift_B = log_prob_B - reference_B
        reward_B = (action_B == prompt_B % ACTIONS).double() - model.beta * drift_B
        model.beta *= 1 + 0.1 * drift_B.mean().clamp(-1, 1)
        return Rollout(prompt_B, action_B, log_prob_B, reward_B - reward_B.mean(), reward_B)


def test_what_rollouts_remember_is_in_the_checkpoints(tmp_path: Path) -> None:
    stopped(Remembering(), tmp_path)
    ends = load_file(tmp_path / "whole/model/model.safetensors")
    assert ends["rollouts"].item() == 7
    assert ends["beta"].item() != 0.1


def test_there_may_be_more_answers_than_prompts(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Counted(Remembering):
        def after_update(self, model: Any, features: Any, batch: Rollout, progress: float) -> None:
            sizes.append(len(batch))

    fit(Counted(steps=2, passes=1, minibatch=6), toy_pool(), tmp_path / "run", OPTIONS)
    assert sizes == [6, 6, 4] * 2


def test_a_recipe_that_lacks_what_its_engine_asks_is_refused(tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Unsolved(Toy):
        engine = "solve"

    @dataclass(frozen=True, kw_only=True)
    class Misspelt(Toy):
        engine = "supervized"

    with pytest.raises(ConfigError, match="Unsolved names the engine 'solve', but has no solve and no statistics"):
        fit(Unsolved(), toy_pool(), tmp_path / "a", OPTIONS)
    with pytest.raises(UnknownName, match="unknown engine 'supervized'; did you mean 'supervised'"):
        fit(Misspelt(), toy_pool(), tmp_path / "b", OPTIONS)


def test_an_engine_of_another_package_is_an_entry(tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Elsewhere(Toy):
        engine = "diptych.train.engines.supervised:Supervised"

    fit(Elsewhere(steps=3), toy_pool(), tmp_path / "a", OPTIONS)
    fit(Toy(steps=3), toy_pool(), tmp_path / "b", OPTIONS)
    assert (tmp_path / "a/model/model.safetensors").read_bytes() == (tmp_path / "b/model/model.safetensors").read_bytes()


@pytest.mark.parametrize(("kind", "shard"), [("average", "ddp"), ("prefer", "fsdp")])
def test_two_processes_are_one(kind: str, shard: str, tmp_path: Path) -> None:
    """A policy draws its actions by rank, so its steps are not those of one process."""
    alone = fit({"average": Average, "prefer": Prefer}[kind](), toy_pool(), tmp_path / "alone", OPTIONS)
    together = trained(2, tmp_path / "two", program="toy_engines", kind=kind, options={"shard": shard})
    torch.testing.assert_close(together["logit_PA"], weights(alone.path), rtol=1e-12, atol=1e-12)


def test_a_solution_is_evaluated_when_it_is_there(tmp_path: Path) -> None:
    asked: list[float] = []

    def first(deployed: Any) -> dict[str, float]:
        asked.append(float(deployed.model.logit_PA[0, 0]))
        return {"first": asked[-1]}

    fit(Average(), toy_pool(), tmp_path / "run", replace(OPTIONS, eval_every=2), [("table", first)])
    assert asked == [pytest.approx(sum(n % 6 for n in range(50)) / 50)]


def test_the_estimate_counts_what_the_engine_keeps() -> None:
    table = PROMPTS * ACTIONS * 8
    assert estimate(Prefer(), toy_pool(), OPTIONS)["checkpoint_bytes"] == 2 * table, (
        "model and reference; plain SGD keeps nothing"
    )
    assert estimate(Average(), toy_pool(), OPTIONS)["checkpoint_bytes"] == table + 2 * 8


def test_a_solution_is_not_sharded(tmp_path: Path) -> None:
    plan = {"out": str(tmp_path / "two"), "kind": "average", "options": {"shard": "fsdp"}}
    with pytest.raises(ProcessRaisedException, match="'solve' takes no gradient steps that fsdp could share: use --shard ddp"):
        run(2, plan, program="toy_engines")
