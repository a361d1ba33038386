"""GrowCLIP: data that hold each other, a search that is counted, an optimiser that remembers, and a stop anywhere that changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from few_words import FEW_WORDS
from invariants import stopped_and_resumed
from safetensors.torch import load_file

from diptych.api import load
from diptych.core.contracts import Hook
from diptych.core.errors import ConfigError
from diptych.data.dataset import Pool
from diptych.models.pairs.encoders.growing_encoder import GrowingEncoder
from diptych.models.towers.growth import TowerSizes
from diptych.recipes.contrastive import growclip as module
from diptych.recipes.contrastive.growclip import GrowCLIP, size_of
from diptych.train import halving
from diptych.train.fit import fit, resume
from diptych.train.halving import halving_rounds, successive_halving
from diptych.train.optimise import build_optimiser
from diptych.train.options import TrainOptions
from diptych.train.weights import zero_pad
from diptych.worlds.scenes.world import scenes

OPTIONS = TrainOptions(save_every=2, log_every=1, progress=False, precision="fp32", keep=9)


@cache
def rows() -> Any:
    return scenes(48, size=32, lengths=("short",), paraphrases=0, negatives=False).to_pool()


def small(**changes: Any) -> GrowCLIP:
    settings = {
        "image_tower": "vit_micro",
        "text_tower": "text_micro",
        "width": 16,
        "image_size": 32,
        "text_length": 8,
        "pieces": 300,
    }
    settings |= {"batch_size": 8, "steps": 9, "warmup": 1.0, "layers": (1, 1, 0), "parts": (0.4, 0.7, 1.0), "more": (1, 1, 1)}
    return replace(GrowCLIP.tiny(), **{**settings, "candidates": 3, "trial": 2, "budget": 3.0, "wider": 1, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(small(), rows(), tmp_path_factory.mktemp("whole") / "run", OPTIONS).path


def lines_of(path: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, (path / "metrics.jsonl").read_text().splitlines()) if line["kind"] == kind]


def test_each_part_holds_the_one_before() -> None:
    data, stages = rows(), small().stages()
    kept = [{row for row in range(48) if stage.keep(data[row])} for stage in stages]
    assert kept[0] < kept[1] < kept[2] == set(range(48))


def test_a_group_is_in_a_part_or_out_of_it_as_a_whole() -> None:
    data = Pool.from_samples(replace(rows()[row], group=f"g{row // 6}") for row in range(48))
    for stage in small().stages()[:2]:
        kept = [sum(stage.keep(data[row]) for row in range(6 * group, 6 * group + 6)) for group in range(8)]
        assert set(kept) == {0, 6}


def test_the_model_that_is_grown_is_the_one_that_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New blocks are drawn at random: those of the trial that won, before it was trained, are those that stay."""
    tried: dict[str, Any] = {}

    def search(run: Any, trials: Any, **options: Any) -> Any:
        tried.update({name: tensor.clone() for name, tensor in trials[1].state_dict().items()})
        return SimpleNamespace(best=1, losses=(1.0, 0.0), steps=0)

    class After(Hook):
        name = "after"

        def on_stage(self, run: Any, stage: Any) -> None:
            if tried:
                grown.update({name: tensor.clone() for name, tensor in run.model.state_dict().items()})

    hooks, grown = GrowCLIP.hooks, dict[str, Any]()
    monkeypatch.setattr(module, "successive_halving", search)
    monkeypatch.setattr(GrowCLIP, "hooks", lambda self: [*hooks(self), After()])
    fit(small(parts=(0.5, 1.0), steps=2), rows(), tmp_path / "run", OPTIONS)
    assert grown.keys() == tried.keys()
    assert all(torch.equal(grown[name], tensor) for name, tensor in tried.items())


def test_the_growth_space_is_bounded_and_larger_than_now() -> None:
    recipe = small(**FEW_WORDS, candidates=99)
    model = recipe.model()
    shapes = recipe.growth_space(model)
    now = size_of(model, model.shape)
    blocks = [*model.image_tower.transformer.blocks, *model.text_tower.transformer.blocks, *model.shared]
    assert now == sum(p.numel() for block in blocks for p in block.parameters())
    for shape in shapes:
        assert model.shape.within(shape)
        assert now < size_of(model, shape) <= 3 * now
        grown = recipe.model()
        grown.grow_(shape, recipe.inherit)
        blocks = [*grown.image_tower.transformer.blocks, *grown.text_tower.transformer.blocks, *grown.shared]
        assert size_of(model, shape) == sum(p.numel() for block in blocks for p in block.parameters())
    assert len(shapes) == len(set(shapes))
    with pytest.raises(ConfigError, match=r"within a budget of 1\.01"):
        small(**FEW_WORDS, budget=1.01).growth_space(model)


def test_rounds_halve_and_are_counted() -> None:
    assert halving_rounds(8, 5) == [(8, 5), (4, 5), (2, 5)]
    assert halving_rounds(5, 1) == [(5, 1), (3, 1), (2, 1)]


def test_a_run_grows_twice_and_says_how(whole: Path) -> None:
    grown = lines_of(whole, "growth")
    assert [line["part"] for line in grown] == [1, 2]
    for line in grown:
        assert line["search_steps"] == 3 * 2 + 2 * 2
        assert line["chosen"] in line["shapes"]
        own = line["losses"][line["shapes"].index(line["chosen"])]
        assert own < max(line["losses"]), "two of three stay for the last round, and the better of them wins"
    final = TowerSizes(**grown[1]["chosen"])
    assert TowerSizes(**grown[0]["chosen"]).within(final)
    deployed = load(whole).model
    model = small(**FEW_WORDS).model()
    model.grow_(final, small().inherit)
    assert len(deployed.image_tower.transformer.blocks) == final.image_layers
    assert len(getattr(deployed, "shared", ())) == final.shared_layers


def test_the_model_says_the_same_right_after_growth_and_the_moments_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Before(Hook):
        name = "before"

        def on_stage(self, run: Any, stage: Any) -> None:
            batch = next(run.ahead(1))
            with torch.no_grad():
                pairs = run.recipe.features(run.model.eval(), batch)
            run.model.train()
            seen.setdefault("said", []).append((stage.name, self.name, torch.cat([pairs.image_ND, pairs.text_ND])))
            memory = {id(p): state["exp_avg"].abs().sum() for p, state in run.optimiser.state.items()}
            parameters = list(run.model.parameters())
            counts = (len(parameters), sum(p.numel() for p in parameters))
            seen.setdefault("memory", []).append((len(memory), float(sum(memory.values())), *counts))

    class After(Before):
        name = "after"

    hooks = GrowCLIP.hooks
    monkeypatch.setattr(GrowCLIP, "hooks", lambda self: [Before(), *hooks(self), After()])
    fit(small(), rows(), tmp_path / "run", OPTIONS)
    pairs = list(zip(seen["said"][::2], seen["said"][1::2], strict=True))
    assert [one[0] for one, _ in pairs] == ["part0", "part1", "part2"]
    for (_, _, before), (_, _, after) in pairs[1:]:
        assert (after - before).abs().max() < 1e-5
    for before, after in list(zip(seen["memory"][::2], seen["memory"][1::2], strict=True))[1:]:
        assert before[0] == before[2], "every parameter that was trained is remembered when the next part begins"
        assert after[3] > before[3], "it has grown"
        assert after[0] == before[0]
        assert after[1] == pytest.approx(before[1], rel=1e-6), "old moments stay, new ones are zero"


def test_moments_are_padded_with_zeros() -> None:
    wide = torch.zeros(3, 4)
    found = zero_pad(torch.ones(2, 3), wide)
    assert found.tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    step = torch.tensor(7.0)
    assert zero_pad(step, wide) is step


def test_the_search_finds_the_model_that_learns() -> None:
    """Of two equal models one is frozen: its loss stays, the other's falls."""
    data, recipe = rows(), small(lr=3e-3).prepare(rows())
    from diptych.data.load.stream import batches

    class Run:
        step, steps = 0, 1

        def batches(self, count: int, *, seed: int) -> Any:
            return (item.batch for item in batches(data, recipe, seed=seed, stop=count))

        def ahead(self, count: int) -> Any:
            return self.batches(count, seed=99)

    run: Any = Run()
    run.recipe = recipe
    torch.manual_seed(0)
    frozen, learns = recipe.model(), recipe.model()
    learns.load_state_dict(frozen.state_dict())
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad_(name == "log_scale")
    run.model = frozen
    found = successive_halving(run, [frozen, learns], steps=12, seed=1)
    assert found.best == 1
    assert found.losses[1] < found.losses[0]
    assert found.steps == 24


def test_half_of_the_models_stay_after_each_round_by_the_loss_that_they_have_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted losses: the first of the first round is not the best of the last, and who has left cannot come back."""
    planted = {0: [0.9], 1: [0.1, 0.9], 2: [0.8], 3: [0.2, 0.4, 0.3], 4: [0.3, 0.5, 0.2]}
    models = [torch.nn.Linear(1, 1) for _ in planted]
    left = {id(model): iter(planted[place]) for place, model in enumerate(models)}
    trained: list[int] = []
    monkeypatch.setattr(halving, "_optimiser", lambda run, model: None)
    monkeypatch.setattr(halving, "_step", lambda run, model, *_: trained.append(models.index(model)))
    monkeypatch.setattr(halving, "_mean_loss", lambda run, model, judges: next(left[id(model)]))

    class Run:
        model = models[0]

        def batches(self, count: int, *, seed: int) -> Any:
            return range(count)

        def ahead(self, count: int) -> Any:
            return range(count)

    found = successive_halving(Run(), models, steps=2, seed=0)  # type: ignore[arg-type]
    assert (found.best, found.losses, found.steps) == (4, (0.9, 0.9, 0.8, 0.3, 0.2), 2 * (5 + 3 + 2))
    assert trained == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 1, 1, 3, 3, 4, 4, 3, 3, 4, 4]


def growths(path: Path) -> dict[int, Any]:
    """By part; every time that one was done has to say the same."""
    found: dict[int, Any] = {}
    for line in lines_of(path, "growth"):
        told = {key: line[key] for key in ("chosen", "losses", "search_steps")}
        assert found.setdefault(line["part"], told) == told
    return found


@pytest.mark.parametrize("step", [2, 3, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1, 4, 5, 6, 7))])
def test_a_stop_anywhere_changes_nothing(step: int, whole: Path, tmp_path: Path) -> None:
    """Before a growth (2, 5), in the first step after it (3, 6) and later."""
    run = stopped_and_resumed(small(), rows(), tmp_path, OPTIONS, step=step)
    last = "checkpoints/step-00000009"
    for file in ("model.safetensors", "optimiser.safetensors"):
        assert (run.path / last / file).read_bytes() == (whole / last / file).read_bytes()
    assert growths(run.path) == growths(whole), "a growth that was done again came out the same"


def test_a_kill_right_after_growth_before_anything_is_saved(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(Exception):
        pass

    class Kill(Hook):
        name = "kill"

        def on_stage(self, run: Any, stage: Any) -> None:
            if stage.name == "part1" and not marker.exists():
                marker.touch()
                raise Killed

    hooks, marker = GrowCLIP.hooks, tmp_path / "killed"
    monkeypatch.setattr(GrowCLIP, "hooks", lambda self: [*hooks(self), Kill()])
    with pytest.raises(Killed):
        fit(small(), rows(), tmp_path / "run", OPTIONS)
    state = json.loads((tmp_path / "run/checkpoints/step-00000003/state.json").read_text())
    assert state["stage"] == 0
    run = resume(tmp_path / "run", rows())
    last = "checkpoints/step-00000009/model.safetensors"
    assert (run.path / last).read_bytes() == (whole / last).read_bytes()
    assert load_file(run.path / last).keys() == load_file(whole / last).keys()


def test_the_optimiser_of_a_grown_model_covers_all_of_it() -> None:
    recipe = small(**FEW_WORDS)
    model = recipe.model()
    model.grow_(model.shape.plus(image_layers=1, text_mlp=1), recipe.inherit)
    optimiser = build_optimiser(model, recipe.optimiser())
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(list(model.parameters()))


def test_wrong_settings_are_refused() -> None:
    for changes, word in (
        ({"parts": (0.5, 0.2)}, "parts"),
        ({"shares": (1.0,)}, "shares"),
        ({"layers": (0, 1, 0)}, "layers"),
        ({"budget": 1.0}, "budget"),
    ):
        with pytest.raises(ConfigError, match=word):
            small(**changes)


def test_the_paper_builds_with_its_parameter_count() -> None:
    paper = GrowCLIP.paper()
    with torch.device("meta"):
        model = paper.model()
    assert isinstance(model, GrowingEncoder)
    block = 7_087_872  # of width 768
    image = 3 * 32 * 32 * 768 + 768 + 50 * 768 + 4 * 768 + 8 * block
    text = 49_408 * 768 + 77 * 768 + 2 * 768 + 8 * block
    assert sum(p.numel() for p in model.parameters()) == image + text + 2 * 768 * 512 + 1
    most = model.shape.plus(image_layers=2, text_layers=2, shared_layers=2, image_mlp=1, text_mlp=1)
    everything = replace(paper, candidates=10_000, budget=9.0).growth_space(model)
    assert everything[0] == most, "MLPs grow as well as layers"
    assert all(shape.within(most) for shape in everything)
    assert {shape.image_mlp for shape in everything} == {4, 5} == {shape.text_mlp for shape in everything}
    assert any(s.image_mlp == 5 or s.text_mlp == 5 for s in paper.growth_space(model)), "and within the budget"
