"""Cells are equal but for arm and seed, kept, and gone on with; seeds decide about recipes and items about given models."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.claims.cell import CellResult
from diptych.claims.verdict import Margins, equivalence_p, paired_difference
from diptych.comparisons import job as cells
from diptych.comparisons.arms import check_version
from diptych.comparisons.budget import Budget
from diptych.comparisons.compare import ComparedArm, Comparison, compare
from diptych.comparisons.job import Job
from diptych.comparisons.results import judge_contrasts
from diptych.core.contracts import Draws
from diptych.core.errors import ConfigError, DataError, RunError, UnknownName
from diptych.core.terminal.spelling import options, parse_name, split_names
from diptych.data.dataset import Pool
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.siglip import SigLIP
from diptych.report.comparison_result import ComparisonResult, Contrast, Measure
from diptych.train.options import TrainOptions
from diptych.worlds.resolve import resolve
from diptych.worlds.scenes.world import scenes

RETRIEVAL = "retrieval:draws=100"
TASKS = (RETRIEVAL, "probe:minimum=2,draws=100")
QUIET = TrainOptions(progress=False)
ONE_POINT = Margins(0.01, 0.01)
SMALL = {"batch_size": 8, "steps": 2, "warmup": 0.0, "width": 16, "image_size": 32, "text_length": 12, "pieces": 300}


def clip(**changes: Any) -> CLIP:
    return replace(CLIP.tiny(), **{**SMALL, **changes})


def siglip(**changes: Any) -> SigLIP:
    return replace(SigLIP.tiny(), **{**SMALL, **changes})


@pytest.fixture(scope="module")
def world() -> Any:
    return resolve("world:scenes?n=24&val=6&test=12&size=32")


@pytest.fixture(scope="module")
def done(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    arms = [ComparedArm("clip", clip()), ComparedArm("siglip", siglip()), ComparedArm("clip again", clip(lr=CLIP.tiny().lr))]
    out = tmp_path_factory.mktemp("compare")
    return compare(arms, world, out, tasks=TASKS, seeds=(0, 1, 2), options=QUIET)


@pytest.fixture
def finished(done: Comparison, tmp_path: Path) -> Path:
    """A copy of the cells of clip and siglip under three seeds."""
    return Path(shutil.copytree(done.out, tmp_path / "finished"))


# ---------------------------------------------------------------- what came out


def test_means_and_differences_are_those_of_the_cells(done: Comparison) -> None:
    m = done.measured
    measure = next(x for x in m.measures if x.split == "test" and x.metric == "r@1")
    for arm in m.arms:
        for seed, value in measure.values[arm].items():
            kept = CellResult.read(Path(m.folders[arm][seed]))
            assert kept is not None
            assert kept.results[RETRIEVAL]["test"].metrics["r@1"].value == value
    expected = paired_difference(list(measure.values["clip"].values()), list(measure.values["siglip"].values()))
    contrast = measure.contrasts[0]
    assert (contrast.arm, contrast.difference, contrast.low) == ("siglip", expected.mean, expected.low)


def test_an_arm_that_is_the_first_under_another_name_gives_no_difference(done: Comparison) -> None:
    """Same recipe, same seeds, same order of the data: bit for bit the same cells."""
    for measure in done.measured.measures:
        assert measure.values["clip again"] == measure.values["clip"]
        assert measure.contrasts[1].difference == 0.0
        assert measure.contrasts[1].verdict in ("equal within the margin", "no verdict")  # of what is below a control none


def test_the_item_view_of_the_first_seed_agrees_with_its_results(done: Comparison) -> None:
    for measure in done.measured.main_measures:
        view = measure.contrasts[0].items
        assert view is not None
        assert view.difference == pytest.approx(measure.values["siglip"][0] - measure.values["clip"][0], abs=1e-12)
        assert view.low <= view.difference <= view.high


def test_everything_that_was_asked_for_is_in_the_json_and_the_lines(done: Comparison) -> None:
    plain = json.loads(json.dumps(done.to_json(), allow_nan=False))
    assert plain["costs"][0]["trained_parameters"] == sum(p.numel() for p in clip().prepare(_rows()).model().parameters())
    assert plain["costs"][0]["images_per_second"] > 0
    assert plain["costs"][0]["cpu_seconds"] > 0
    assert {measure["split"] for measure in plain["measures"]} == {"val", "test"}
    text = "\n".join(done.lines())
    assert "(Holm)" in text
    assert "for these runs only" in text
    assert "to see a difference of 1 point" in text
    assert set(done.measured.differing_fields()) >= {"recipe", "betas", "start_bias"}
    assert "batch_size" not in done.measured.differing_fields()


def _rows() -> Any:
    return resolve("world:scenes?n=24&val=6&test=12&size=32").split("train")


# ---------------------------------------------------------------- cells are kept


def test_a_comparison_that_was_killed_runs_only_what_is_missing(world: Any, tmp_path: Path, monkeypatch: Any) -> None:
    arms = [ComparedArm("clip", clip()), ComparedArm("siglip", siglip())]
    run, calls = cells.run_job, []

    def killed(job: Job, whole: Any, **more: Any) -> CellResult:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append((job.arm, job.seed))
        return run(job, whole, **more)

    monkeypatch.setattr(cells, "run_job", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(arms, world, tmp_path, seeds=(0, 1), options=QUIET)
    assert calls == [("clip", 0), ("siglip", 0), ("clip", 1)]
    made = {path: path.read_bytes() for path in tmp_path.glob("cells/*/cell.json")}
    assert len(made) == 3
    calls[:] = []
    compare(arms, world, tmp_path, seeds=(0, 1), options=QUIET)
    assert calls == [("siglip", 1)]
    assert all(path.read_bytes() == content for path, content in made.items())


def test_a_half_run_goes_on_and_ends_where_a_whole_one_does(world: Any, tmp_path: Path, monkeypatch: Any) -> None:
    job = Job("clip", 0, clip(steps=4), replace(QUIET, save_every=2), ("retrieval",), tmp_path / "half")
    score = cells.score

    def fail(*args: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(cells, "score", fail)
    with pytest.raises(MemoryError):
        cells.run_job(job, world)
    assert CellResult.read(job.folder) is None
    monkeypatch.setattr(cells, "score", score)
    resumed = cells.run_job(job, world)
    straight = cells.run_job(replace(job, folder=tmp_path / "whole"), world)
    assert resumed.resumed
    assert not straight.resumed
    assert math.isnan(resumed.cost["wall_seconds"])
    assert straight.cost["wall_seconds"] > 0
    same = [r.results["retrieval"]["test"].metrics for r in (resumed, straight)]
    assert same[0] == same[1]
    assert not (job.folder / "checkpoints").exists()


def test_a_run_killed_before_cell_json_is_not_scored_again(world: Any, tmp_path: Path, monkeypatch: Any) -> None:
    job = Job("clip", 0, clip(), QUIET, ("retrieval",), tmp_path / "cell")
    before = cells.run_job(job, world)
    (job.folder / "cell.json").unlink()
    monkeypatch.setattr(cells, "score", lambda *args: pytest.fail("scored again"))
    assert cells.run_job(job, world).results == before.results


@dataclass(frozen=True, kw_only=True)
class Broken(CLIP):
    def batch(self, draws: Draws) -> Any:
        raise RuntimeError("the paper forgot a bracket")


def test_an_arm_that_crashes_costs_itself(world: Any, finished: Path) -> None:
    broken = Broken(**{f: getattr(clip(), f) for f in SMALL}, tokenizer="data", image_tower="vit_tiny", text_tower="text_tiny")
    arms = [ComparedArm("clip", clip()), ComparedArm("broken", broken)]
    out = compare(arms, world, finished, tasks=TASKS, seeds=(0,), options=QUIET).measured
    assert [(f.arm, f.seed) for f in out.failures] == [("broken", 0)]
    assert "bracket" in out.failures[0].reason
    assert out.main_measures[0].values["broken"] == {}
    assert out.main_measures[0].contrasts[0].verdict == "no verdict"


def test_one_seed_gives_numbers_and_two_give_no_verdict(world: Any, finished: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(cells, "run_job", lambda *args, **more: pytest.fail("something was trained"))
    arms = [ComparedArm("clip", clip()), ComparedArm("siglip", siglip())]
    one, two = (
        compare(arms, world, finished, tasks=TASKS, seeds=seeds, options=QUIET).measured.main_measures[0].contrasts[0]
        for seeds in ((0,), (0, 1))
    )
    assert one.verdict == two.verdict == "no verdict"
    assert (one.why, two.why) == ("one seed", "2 seeds; a verdict needs 3")
    assert math.isnan(one.low)
    assert math.isfinite(two.low)


# ---------------------------------------------------------------- budgets and words


def test_budgets_become_steps() -> None:
    assert Budget.parse("steps:100").steps_of(64) == 100
    assert Budget.parse("samples:1,000").steps_of(64) == 16  # 15.6 batches, rounded up
    assert Budget.parse("seconds:30").steps_of(64, 0.25) == 120
    for words in ("100", "steps", "steps:0", "steps:-3", "minutes:3", "steps:1.5", ""):
        with pytest.raises(ConfigError, match="expected steps:N, samples:N or seconds:N"):
            Budget.parse(words)


def test_an_equal_number_of_samples_is_another_number_of_steps(world: Any, tmp_path: Path) -> None:
    arms = [ComparedArm("clip", clip()), ComparedArm("half", clip(batch_size=4))]
    costs = compare(arms, world, tmp_path, seeds=(0,), budget=Budget.parse("samples:16"), options=QUIET).measured.costs
    assert [(c.steps, c.samples) for c in costs] == [(2, 16), (4, 16)]


def test_seconds_are_measured_once(world: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from diptych.train import estimate as module

    paces = iter((0.5, 0.25))
    monkeypatch.setattr(module, "estimate", lambda *args: {"seconds_per_step": next(paces)})
    arms = [ComparedArm("clip", clip()), ComparedArm("siglip", siglip())]
    for _ in range(2):  # the second time reads the paces of the first
        costs = compare(arms, world, tmp_path, seeds=(0,), budget=Budget.parse("seconds:1"), options=QUIET).measured.costs
        assert [c.steps for c in costs] == [2, 4]


def test_words_of_arms_and_tasks() -> None:
    assert parse_name("clip") == ("clip", {})
    assert parse_name("clip:lr=2e-4,same_group=negative,flip=true") == (
        "clip",
        {"lr": 2e-4, "same_group": "negative", "flip": True},
    )
    assert split_names("retrieval,zero_shot:label=style,language=de, probe") == (
        "retrieval",
        "zero_shot:label=style,language=de",
        "probe",
    )
    assert options(["batch_size=64", "betas=[0.9, 0.95]"]) == {"batch_size": 64, "betas": [0.9, 0.95]}
    with pytest.raises(ConfigError, match="expected FIELD=VALUE"):
        options(["batch_size"])


# ---------------------------------------------------------------- refusals come before any training


def test_what_cannot_be_compared_is_refused(world: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(cells, "run_job", lambda *args, **more: pytest.fail("something was trained"))
    two = [ComparedArm("clip", clip()), ComparedArm("siglip", siglip())]

    def ask(arms: Sequence[ComparedArm] = two, data: Any = world, **more: Any) -> None:
        compare(arms, data, tmp_path, **{"seeds": (0,), **more})

    with pytest.raises(ConfigError, match="two arms or more, got 1"):
        ask(two[:1])
    with pytest.raises(ConfigError, match="'clip' is given twice"):
        ask([two[0], two[0]])
    with pytest.raises(ConfigError, match=r"seeds are \[\]"):
        ask(seeds=())
    with pytest.raises(UnknownName, match="did you mean 'retrieval'"):
        ask(tasks=("retrival",))
    with pytest.raises(UnknownName, match="field of ZeroShot"):
        ask(tasks=("zero_shot:lable=a",))
    with pytest.raises(DataError, match="no held-out rows"):
        ask(data=Pool.from_samples([world[0], world[1]], name="whole"))
    with pytest.raises(DataError, match="has no case for this task"):
        ask(data=resolve("world:scenes?n=8&val=4&test=4&negatives=false"), tasks=("probe",))
    with pytest.raises(ConfigError, match="'siglip' is a recipe and 'planted' a model"):
        ask([ComparedArm("planted", model=Near(0.0)), two[1]])


def test_another_version_of_the_data_is_refused_with_both_fingerprints(done: Comparison) -> None:
    other = resolve("world:scenes?n=25&val=6&test=12&size=32")
    before, now = done.measured.data["fingerprint"], other.split("train").fingerprint
    with pytest.raises(RunError, match=f"(?s){before}.*{now}"):
        compare([ComparedArm("clip", clip()), ComparedArm("siglip", siglip())], other, done.out, seeds=(0,))
    state = {"data": {"name": "scenes", "fingerprint": before}}
    with pytest.raises(RunError, match=f"(?s)runs/a.*{before}.*{now}"):
        check_version("runs/a", state, other)
    check_version("runs/a", state, done.data)


# ---------------------------------------------------------------- given models


class Near:
    """Texts near the images of their sample: the smaller the noise, the better."""

    def __init__(self, noise: float, data: Any = None) -> None:
        self.noise, self.name, self.fingerprint = noise, f"near {noise}", f"near-{noise}"
        self.known = {text.string: row for row in range(len(data or ())) for text in data[row].positives()}
        self.rows = {data[row].image.name: row for row in range(len(data or ()))}

    def _vectors(self, rows: list[int], noise: float, key: int) -> Any:
        base_ND = np.random.default_rng(1).standard_normal((len(self.rows), 32))
        noise_ND = np.random.default_rng(key).standard_normal(base_ND.shape) * noise
        found = (base_ND + noise_ND)[rows]
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

    def embed_images(self, images: Sequence[Any], *, batch_size: int = 64) -> Any:
        return self._vectors([self.rows[image.name] for image in images], 0.0, 2)

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> Any:
        return self._vectors([self.known[text] for text in texts], self.noise, 3)


def test_given_models_are_decided_over_items_and_swapping_mirrors(tmp_path: Path) -> None:
    data = scenes(60, seed=3, size=32, split="test")
    good, bad = ComparedArm("good", model=Near(1.0, data)), ComparedArm("bad", model=Near(4.0, data))
    there = compare([bad, good], data, tmp_path / "a", seeds=()).measured
    back = compare([good, bad], data, tmp_path / "b", seeds=()).measured
    one, two = (m.main_measures[0].contrasts[0] for m in (there, back))
    assert there.given
    assert there.seeds == ()
    assert one.verdict == "shown"
    assert two.verdict == "reversed"
    assert (one.difference, one.low, one.high) == pytest.approx((-two.difference, -two.high, -two.low))
    assert one.items is not None
    assert two.items is not None
    assert (one.items.wins, one.items.losses) == (two.items.losses, two.items.wins)
    equal = compare([good, replace(good, name="twin")], data, tmp_path / "c").measured.main_measures[0].contrasts[0]
    assert equal.verdict == "equal within the margin"
    assert equal.p == 1.0


# ---------------------------------------------------------------- verdicts of recipes


def contrast(first: Sequence[float], other: Sequence[float]) -> Contrast:
    d = paired_difference(first, other)
    return Contrast("other", d.mean, d.low, d.high, d.p, d.p, "no verdict", p_equal=equivalence_p(d, ONE_POINT.equivalence))


@pytest.mark.parametrize("seeds", [3, 5])
def test_two_thousand_null_comparisons_are_seldom_called_a_difference(seeds: int) -> None:
    """Seed noise (.03) is larger than the item noise of 2,000 items (.011); pairs share a part of it."""
    rng = np.random.default_rng(seeds)
    false = items_would = 0
    for _ in range(2000):
        shared = rng.normal(0.6, 0.02, seeds)
        arms = [rng.binomial(2000, np.clip(shared + rng.normal(0, 0.03, seeds), 0, 1)) / 2000 for _ in range(2)]
        found = judge_contrasts([contrast(*arms)], ONE_POINT, seeds_decide=True, higher_is_better=True, pairs=[seeds])
        false += found[0].p_holm < 0.05
        (a, b), n = (arms[0][0], arms[1][0]), 2000
        items_would += abs(b - a) > 1.96 * math.sqrt((a * (1 - a) + b * (1 - b)) / n)
    assert items_would / 2000 > 0.4  # an interval over the items of one run would call half of them a difference
    assert 0.03 <= false / 2000 <= 0.065


def test_swapped_arms_give_the_mirrored_verdict_and_equal_ones_none() -> None:
    low, high = (0.50, 0.52, 0.51), (0.60, 0.61, 0.62)

    def word(first: Sequence[float], other: Sequence[float], *, more: bool = True) -> str:
        return judge_contrasts([contrast(first, other)], ONE_POINT, seeds_decide=True, higher_is_better=more, pairs=[3])[
            0
        ].verdict

    assert (word(low, high), word(high, low), word(low, low)) == ("shown", "reversed", "equal within the margin")
    assert word(low, high, more=False) == "reversed"


def test_holm_counts_the_arms() -> None:
    """p = .04 decides alone and not among three: the smallest of three is held against .05 / 3."""
    one = replace(contrast((0.1, 0.2, 0.3), (0.2, 0.3, 0.4)), p=0.04, p_holm=0.04)
    assert judge_contrasts([one], ONE_POINT, seeds_decide=True, higher_is_better=True, pairs=[3])[0].verdict == "shown"
    three = judge_contrasts(
        [one, replace(one, p=0.5), replace(one, p=0.9)], ONE_POINT, seeds_decide=True, higher_is_better=True, pairs=[3] * 3
    )
    assert three[0].p_holm == pytest.approx(0.12)
    assert three[0].verdict == "open"


def test_measured_values_stay_plain() -> None:
    measure = Measure("retrieval", "test", "r@1", True, True, math.nan, 1, 1, {"a": {0: 0.5}})
    m = ComparisonResult(("a",), (0,), {}, "steps:1", ("retrieval",), False, (measure,), (), (), {}, {"a": {"lr": 1}}, {})
    assert m.to_json()["measures"][0]["chance"] is None
    assert math.isnan(measure.mean("b"))
