"""Phases of a run: their steps, rows, weights and hooks, and that a stop in any of them changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from toy import Toy, toy_pool

from diptych.core.contracts import Hook, Stage
from diptych.core.errors import ConfigError
from diptych.core.sample import Sample, Text
from diptych.data.shards.build import open_built
from diptych.train.estimate import estimate
from diptych.train.fit import fit, resume
from diptych.train.options import TrainOptions
from diptych.train.stages import plan, total_steps

QUIET = TrainOptions(progress=False, log_every=1, save_every=3, precision="fp32")


@dataclass(frozen=True, kw_only=True)
class Shares(Toy):
    shares: tuple[float, ...] = (1.0,)

    def stages(self) -> Sequence[Stage]:
        return [Stage(f"s{n}", self, share=share) for n, share in enumerate(self.shares)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=6), st.integers(6, 500))
def test_phases_cover_all_steps_without_gaps(shares: list[float], steps: int) -> None:
    phases = plan(Shares(shares=tuple(shares), steps=steps), toy_pool(8), QUIET)
    assert [phase.start for phase in phases] == [0, *(phase.stop for phase in phases[:-1])]
    assert phases[-1].stop == steps
    for phase in phases:
        assert phase.stop > phase.start
        fair = steps * phase.stage.share / sum(shares)
        assert abs((phase.stop - phase.start) - fair) <= len(shares) + 1


def test_steps_come_from_options_recipe_or_epochs() -> None:
    data = toy_pool(50)
    assert total_steps(Toy(steps=7), data, TrainOptions(steps=3)) == 3
    assert total_steps(Toy(steps=7), data, TrainOptions()) == 7
    assert total_steps(Toy(steps=0, epochs=2.0), data, TrainOptions()) == 13  # 100 samples in batches of 8
    with pytest.raises(ConfigError, match=r"2 steps cannot be shared by stages"):
        plan(Shares(shares=(1, 1, 1), steps=2), data, QUIET)


@dataclass(frozen=True, kw_only=True)
class MadeLater(Shares):
    def stages(self) -> Sequence[Stage]:
        given = super().stages()
        return [*given[:-1], replace(given[-1], make=lambda run: pytest.fail("a dry run makes no samples"))]


def test_a_dry_run_measures_each_stage_and_names_those_that_it_cannot() -> None:
    cost = estimate(Shares(shares=(1.0, 3.0), steps=40), toy_pool(8), QUIET)
    assert [(one["stage"], one["steps"]) for one in cost["stages"]] == [("s0", 10), ("s1", 30)]
    assert cost["seconds"] == pytest.approx(sum(one["steps"] * one["seconds_per_step"] for one in cost["stages"]))
    assert cost["tensor_memory_bytes"] == max(one["tensor_memory_bytes"] for one in cost["stages"])
    assert [one["trained_parameters"] for one in cost["stages"]] == [cost["parameters"]] * 2
    cost = estimate(MadeLater(shares=(1.0, 3.0), steps=40), toy_pool(8), QUIET)
    assert cost["stages"][1] == {"stage": "s1", "steps": 30, "seconds_per_step": None}
    assert cost["seconds"] == pytest.approx(10 * cost["stages"][0]["seconds_per_step"])
    assert "stages" not in estimate(Toy(steps=3), toy_pool(8), QUIET)


class Story(Hook):
    name = "story"
    told: list[str] = []

    def __init__(self, who: str) -> None:
        self.who = who

    def on_start(self, run: Any) -> None:
        self.told.append(f"{self.who} start")

    def on_stage(self, run: Any, stage: Stage) -> None:
        self.told.append(f"{self.who} {stage.name} {len(run.data)}")

    def on_stage_end(self, run: Any, stage: Stage) -> None:
        self.told.append(f"{self.who} {stage.name} end {run.step}")


@dataclass(frozen=True, kw_only=True)
class Other(Toy):
    def hooks(self) -> Sequence[Hook]:
        return [Story("other")]


@dataclass(frozen=True, kw_only=True)
class Three(Toy):
    """Even rows, then another system on all rows, then samples that the model makes."""

    def stages(self) -> Sequence[Stage]:
        def make(run: Any) -> Iterator[Sample]:
            for n in range(20):
                value = float(run.model.log_scale.detach())
                yield Sample(uid=f"made{n}", texts=(Text(f"{value:.12f}"),))

        def carry(before: nn.Module, after: nn.Module) -> None:
            after.load_state_dict(before.state_dict())
            after.log_scale.data.fill_(0.5)

        return [
            Stage("even", self, share=1, keep=lambda sample: int(sample.uid[1:]) % 2 == 0),
            Stage("other", Other(dropout=0.1), share=1, carry=carry),
            Stage("made", replace(self, lr=0.001), share=2, make=make),
        ]

    def hooks(self) -> Sequence[Hook]:
        return [Story("run"), *super().hooks()]


def test_stages_in_order(tmp_path: Path) -> None:
    Story.told.clear()
    run = fit(Three(steps=12, witness=str(tmp_path / "witness")), toy_pool(40), tmp_path / "run", QUIET)
    assert Story.told == [
        *("run start", "run even 20", "run even end 3"),
        *("run other 40", "other other 40", "run other end 6", "other other end 6"),
        *("run made 20", "run made end 12"),
    ]
    lines = list(run.metrics())
    assert [line["step"] for line in lines] == list(range(1, 13))
    scales = [line["scale"] for line in lines]
    assert abs(scales[3] - torch.tensor(0.5).exp()) < 1e-6, "the second stage begins with what carry set"
    assert scales[6] != pytest.approx(torch.tensor(1.0).exp().item(), abs=1e-3), "the third goes on from the second"
    assert (run.path / "stages/02-made/diptych.json").is_file()


@pytest.mark.parametrize("stop_at", [1, 2, 3, 5, 7, 11])
def test_a_stop_in_any_stage_changes_nothing(stop_at: int, tmp_path: Path) -> None:
    whole = fit(Three(steps=12), toy_pool(40), tmp_path / "whole", QUIET)
    recipe = Three(steps=12, witness=str(tmp_path / "witness"), stop_at=stop_at)
    cut = fit(recipe, toy_pool(40), tmp_path / "cut", QUIET)
    assert cut.state["status"] == ("stopped" if stop_at < 11 else "finished")
    resume(cut.path, toy_pool(40), kind=Three)
    one, other = (load_file(run.model / "model.safetensors") for run in (whole, cut))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [line["step"] for line in cut.metrics()] == list(range(1, 13))


@dataclass(frozen=True, kw_only=True)
class Rounds(Toy):
    """Two rounds on samples that are drawn with torch's random numbers, from what the stage before trained on."""

    broken: str = ""

    def stages(self) -> Sequence[Stage]:
        def make(run: Any) -> Iterator[Sample]:
            run.model.eval()
            for row in range(len(run.data) - 4):
                yield Sample(uid=f"{run.data[row].uid[:4]}x{int(torch.randint(10**9, ()))}", texts=(Text("made"),))
            if run.step and self.broken and not Path(self.broken).exists():
                Path(self.broken).touch()
                raise RuntimeError("broken while making")

        return [Stage("first", self, make=make), Stage("second", self, make=make)]


def test_a_first_stage_makes_its_samples_too(tmp_path: Path) -> None:
    run = fit(Rounds(steps=6, dropout=0.5, witness=str(tmp_path / "witness")), toy_pool(20), tmp_path / "run", QUIET)
    first, second = (open_built(run.path / f"stages/{name}").uids for name in ("00-first", "01-second"))
    assert (len(first), len(second)) == (16, 12)
    assert {uid[:4] for uid in second} < {uid[:4] for uid in first} < set(toy_pool(20).uids), "a round reads the one before"
    assert len({uid[4:] for uid in (*first, *second)}) == 28, "rounds draw different numbers"


def test_a_stop_while_samples_are_made_changes_nothing(tmp_path: Path) -> None:
    whole = fit(Rounds(steps=6), toy_pool(20), tmp_path / "whole", QUIET)
    recipe = Rounds(steps=6, broken=str(tmp_path / "broken"))
    with pytest.raises(RuntimeError, match="broken while making"):
        fit(recipe, toy_pool(20), tmp_path / "cut", QUIET)
    cut = resume(tmp_path / "cut", toy_pool(20), kind=Rounds)
    assert cut.state["status"] == "finished"
    assert open_built(cut.path / "stages/01-second").uids == open_built(whole.path / "stages/01-second").uids
    assert (whole.model / "model.safetensors").read_bytes() == (cut.model / "model.safetensors").read_bytes()


def test_making_samples_leaves_the_model_in_training_mode(tmp_path: Path) -> None:
    modes: list[bool] = []

    class Watch(Hook):
        name = "watch"

        def before_step(self, run: Any, batch: Any) -> None:
            modes.append(run.model.training)

    class Watched(Rounds):
        def hooks(self) -> Sequence[Hook]:
            return [Watch()]

    fit(Watched(steps=4), toy_pool(20), tmp_path / "run", QUIET)
    assert modes == [True] * 4
