"""What a run leaves behind, and the order in which things happen in it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from toy import WIDTH, Toy, ToyBatch, ToyDeployed, ToyModel, toy_pool

from diptych.core.config import from_plain
from diptych.core.contracts import Hook
from diptych.core.errors import ConfigError, RunError
from diptych.core.image import BytesImage
from diptych.core.run_folder import RunFolder
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.train.estimate import estimate
from diptych.train.fit import fit, resume
from diptych.train.hooks import WeightAverage
from diptych.train.options import TrainOptions

QUIET = TrainOptions(progress=False, log_every=1, precision="fp32")


def quiet(**changes: Any) -> TrainOptions:
    return TrainOptions(**{"progress": False, "log_every": 1, "precision": "fp32", **changes})


def weights(run: RunFolder) -> dict[str, Tensor]:
    return load_file(run.model / "model.safetensors")


def test_a_run_folder_holds_everything(tmp_path: Path) -> None:
    run = fit(Toy(steps=6, lr=0.02), toy_pool(), tmp_path / "run", quiet(seed=3, save_every=2), record={"source": "toys/"})
    assert run.state["status"] == "finished"
    assert run.state["slug"] == "toy"
    assert run.state["source"] == "toys/"
    assert run.state["data"] == {"name": "toy", "fingerprint": toy_pool().fingerprint}
    assert from_plain(Toy, run.config["recipe"]) == Toy(steps=6, lr=0.02)
    assert from_plain(TrainOptions, run.config["run"]) == quiet(seed=3, save_every=2)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-00000004", "step-00000006"]
    assert not list(run.path.rglob("*.pt")) + list(run.path.rglob("*.pkl"))
    lines = list(run.metrics())
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(
        {"kind", "loss", "rows", "columns", "scale", "lr", "grad_norm", "images_per_second", "seconds"} <= set(line)
        for line in lines
    )
    assert lines[0]["loss"] == pytest.approx(lines[0]["rows"] + lines[0]["columns"])
    with pytest.raises(RunError, match=r"holds a run: choose another folder, go on with .* or replace it with --overwrite"):
        fit(Toy(), toy_pool(), tmp_path / "run", QUIET)


def test_it_learns_and_the_seed_decides(tmp_path: Path) -> None:
    runs = [fit(Toy(steps=60), toy_pool(16), tmp_path / name, quiet(seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    losses = [line["loss"] for line in runs[0].metrics()]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    content = [(run.model / "model.safetensors").read_bytes() for run in runs]
    assert content[0] == content[1] != content[2]


def test_workers_and_micro_batches_change_nothing(tmp_path: Path) -> None:
    one = fit(Toy(steps=5), toy_pool(), tmp_path / "one", QUIET)
    two = fit(Toy(steps=5), toy_pool(), tmp_path / "two", quiet(workers=2))
    assert (one.model / "model.safetensors").read_bytes() == (two.model / "model.safetensors").read_bytes()
    small = weights(fit(Toy(steps=5), toy_pool(), tmp_path / "small", quiet(micro_batch=3)))
    for name, tensor in weights(one).items():
        torch.testing.assert_close(small[name], tensor, rtol=1e-9, atol=1e-10)


def test_the_loop_equals_one_written_out_by_hand(tmp_path: Path) -> None:
    from diptych.core.randomness import keyed_seed
    from diptych.data.load.stream import batches

    recipe = Toy(steps=5, clip_norm=0.1, warmup=2, dropout=0.2)
    run = fit(recipe, toy_pool(), tmp_path / "run", quiet(seed=4))
    torch.manual_seed(keyed_seed(4, "model", 0))
    model = recipe.model()
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) == wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.2}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6, foreach=False)
    rates = [0.005, 0.01, 0.01, 0.0075, 0.0025]
    for item, rate in zip(batches(toy_pool(), recipe, seed=4, start=0, stop=5), rates, strict=True):
        torch.manual_seed(keyed_seed(4, "step", item.step, 0))
        optimiser.zero_grad()
        sum(recipe.losses(recipe.features(model, item.batch), item.batch).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(weights(run)[name], parameter.detach(), rtol=1e-9, atol=1e-10)


def test_evaluators_see_the_deployed_model_and_share_one_line(tmp_path: Path) -> None:
    seen: list[tuple[bool, int]] = []

    def count(deployed: Any) -> Mapping[str, float]:
        assert isinstance(deployed, ToyDeployed)
        seen.append((deployed.model.training, int(deployed.model.seen.numel())))
        torch.rand(3)  # evaluators may use random numbers without disturbing the run
        return {"value": len(seen)}

    options = quiet(eval_every=4, save_every=4)
    run = fit(
        Toy(steps=10, dropout=0.2),
        toy_pool(),
        tmp_path / "run",
        options,
        [("count", count), ("nan", lambda _: {"x": float("nan")})],
    )
    evaluations = [line for line in run.metrics() if line["kind"] == "eval"]
    assert evaluations == [
        {"step": step, "kind": "eval", "count/value": n, "nan/x": None} for n, step in enumerate((4, 8, 10), start=1)
    ]
    assert seen == [(False, 1)] * 3
    plain = fit(Toy(steps=10, dropout=0.2), toy_pool(), tmp_path / "plain", QUIET)
    assert (plain.model / "model.safetensors").read_bytes() == (run.model / "model.safetensors").read_bytes()


def test_an_evaluation_that_a_stop_cut_off_is_made_up_for(tmp_path: Path) -> None:
    steps: list[str] = []
    recipe = Toy(steps=8, witness=str(tmp_path / "witness"), stop_at=3)
    tasks = [("t", lambda _: {"x": float(len(steps))})]
    run = fit(recipe, toy_pool(), tmp_path / "run", quiet(eval_every=4), tasks)
    assert [line["step"] for line in run.metrics() if line["kind"] == "eval"] in ([], [4])
    resume(run.path, toy_pool(), tasks, kind=Toy)
    assert [line["step"] for line in run.metrics() if line["kind"] == "eval"] == [4, 8]


@pytest.mark.parametrize("early", [True, False])
def test_weight_average_follows_the_formula_and_ends_in_the_model(early: bool, tmp_path: Path) -> None:
    raw: list[Tensor] = []

    class Watch(Hook):
        def on_start(self, run: Any) -> None:
            raw.append(run.model.log_scale.detach().clone())

        def after_step(self, run: Any, losses: Mapping[str, float]) -> None:
            raw.append(run.model.log_scale.detach().clone())

    class Averaged(Toy):
        def hooks(self) -> Sequence[Hook]:
            return [Watch(), WeightAverage(0.3, early=early)]

    run = fit(Averaged(steps=8), toy_pool(), tmp_path / "run", QUIET)
    average = raw[0]
    for count, value in enumerate(raw[1:], start=1):
        decay = min(0.3, (1 + count) / (10 + count)) if early else 0.3
        average = decay * average + (1 - decay) * value
    torch.testing.assert_close(weights(run)["log_scale"], average, rtol=1e-12, atol=0)
    kept = load_file(run.checkpoints / "step-00000008" / "model.safetensors")["log_scale"]
    assert torch.equal(kept, raw[-1])
    with pytest.raises(ConfigError, match=r"decay of a weight average is 1.0"):
        WeightAverage(1.0)


class Diary(Hook):
    name = "diary"
    pages: list[str] = []

    def on_start(self, run: Any) -> None:
        self.pages.append(f"start {run.step}/{run.steps}")

    def on_epoch(self, run: Any, epoch: int) -> None:
        self.pages.append(f"epoch {epoch} at {run.step}")

    def before_step(self, run: Any, batch: Any) -> None:
        self.pages.append(f"before {run.step}")

    def after_step(self, run: Any, losses: Mapping[str, float]) -> None:
        assert set(losses) == {"rows", "columns"}
        self.pages.append(f"after {run.step}")

    def on_stage(self, run: Any, stage: Any) -> None:
        self.pages.append(f"stage {stage.name}")

    def on_stage_end(self, run: Any, stage: Any) -> None:
        self.pages.append(f"stage end {stage.name}")

    def on_end(self, run: Any) -> None:
        self.pages.append("end")


def test_hooks_are_called_in_this_order(tmp_path: Path) -> None:
    class Told(Toy):
        def hooks(self) -> Sequence[Hook]:
            return [Diary()]

    Diary.pages.clear()
    fit(Told(steps=4), toy_pool(20), tmp_path / "run", QUIET)
    assert Diary.pages == [
        *("start 0/4", "stage toy", "epoch 0 at 0", "before 0", "after 1", "before 1", "after 2"),
        *("epoch 1 at 2", "before 2", "after 3", "before 3", "after 4", "stage end toy", "end"),
    ]


class Grow(Hook):
    """Adds a block after step 3 and repeats that on resume."""

    name = "grow"

    def __init__(self) -> None:
        self.grown = False

    def after_step(self, run: Any, losses: Mapping[str, float]) -> None:
        if run.step == 3:
            extra = [batch.uid_B for batch in run.batches(2, seed=1)]
            assert len(extra) == 2
            assert extra == [batch.uid_B for batch in run.batches(2, seed=1)]
            self.grown = True
            momentum = run.optimiser.state[run.model.log_scale]["exp_avg"]
            run.replace_model(self.reshape(run.model))
            assert run.optimiser.state[run.model.log_scale]["exp_avg"] is momentum
            run.log("growth", blocks=3)

    def reshape(self, model: nn.Module) -> nn.Module:
        if self.grown:
            model.image.append(nn.Linear(WIDTH, WIDTH, dtype=torch.float64))  # type: ignore[union-attr, operator]
        return model

    def state(self) -> dict[str, Any]:
        return {"grown": self.grown}

    def load(self, state: dict[str, Any]) -> None:
        self.grown = state["grown"]


@dataclass(frozen=True, kw_only=True)
class Growing(Toy):
    def hooks(self) -> Sequence[Hook]:
        return [Grow(), *super().hooks()]


def test_a_model_that_grew_is_resumed_grown(tmp_path: Path) -> None:
    whole = fit(Growing(steps=8), toy_pool(), tmp_path / "whole", QUIET)
    assert "image.2.weight" in weights(whole)
    assert {"step": 3, "kind": "growth", "blocks": 3} in list(whole.metrics())
    recipe = Growing(steps=8, witness=str(tmp_path / "witness"), stop_at=5)
    cut = fit(recipe, toy_pool(), tmp_path / "cut", quiet(save_every=2))
    assert cut.state["status"] == "stopped"
    resume(cut.path, toy_pool(), kind=Growing)
    assert (whole.model / "model.safetensors").read_bytes() == (cut.model / "model.safetensors").read_bytes()


def test_frozen_parameters_stay_and_unstored_tensors_stay_out(tmp_path: Path) -> None:
    class Part(Toy):
        def stored(self, name: str) -> bool:
            return not name.startswith("text.")

    recipe = Part(steps=4, frozen=r"^text\.", witness=str(tmp_path / "witness"), stop_at=2)
    run = fit(recipe, toy_pool(), tmp_path / "run", QUIET)
    held = load_file(run.checkpoints / "step-00000003" / "model.safetensors")
    assert not any(name.startswith("text.") for name in held)
    assert "image.0.body.1.weight" in held


def test_a_parameter_that_nothing_trains_is_noted_once(tmp_path: Path) -> None:
    run = fit(Toy(steps=3, idle=True), toy_pool(), tmp_path / "run", QUIET)
    notes = [line["text"] for line in run.metrics() if line["kind"] == "note"]
    assert notes == ["no gradient reaches idle.weight, idle.bias"]


def test_bad_samples_go_to_quarantine_and_too_many_stop_the_run(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, "PNG")
    good, bad = BytesImage(buffer.getvalue()), BytesImage(buffer.getvalue()[:40])
    samples = [Sample(uid=f"s{n}", image=bad if n in (3, 7) else good, texts=(Text("x"),)) for n in range(40)]
    pool = Pool.from_samples(samples, name="pictures")
    run = fit(Toy(steps=10), pool, tmp_path / "run", quiet(log_every=4))
    lines = [json.loads(line) for line in (run.path / "quarantine.jsonl").read_text().splitlines()]
    assert {line["uid"] for line in lines} == {"s3", "s7"}
    assert all(line["stage"] == "image" and line["reason"] for line in lines)
    broken = Pool.from_samples([Sample(uid=f"s{n}", image=bad if n % 2 else good) for n in range(40)], name="broken")
    with pytest.raises(Exception, match=r"more than the limit of 1\.0%"):
        fit(Toy(steps=10), broken, tmp_path / "broken", QUIET)
    assert not (tmp_path / "broken").exists()


def test_an_undefined_loss_stops_the_run_and_names_the_cause(tmp_path: Path) -> None:
    class Broken(Toy):
        def losses(self, features: Any, batch: Any) -> dict[str, Tensor]:
            return {"nothing": features.image_ND.sum() * float("nan")}

    with pytest.raises(RunError, match="the gradient norm is nan"):
        fit(Broken(steps=3), toy_pool(), tmp_path / "run", QUIET)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep": 1}, "keep is 1"),
        ({"steps": -1}, "steps is -1"),
        ({"log_every": 0}, "log_every is 0"),
        ({"bad_limit": 2.0}, "bad_limit is 2.0"),
        ({"device": "abacus"}, "device is 'abacus'"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        fit(Toy(steps=1), toy_pool(), tmp_path / "run", quiet(**options))
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = fit(Toy(steps=3), toy_pool(), tmp_path / "run", quiet(tensorboard=True))
    events = accumulator.EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    logged = [line["loss"] for line in run.metrics()]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(logged)


def test_estimate_counts_what_a_run_costs(tmp_path: Path) -> None:
    recipe = Toy(steps=30, frozen="log_scale")
    cost = estimate(recipe, toy_pool(), QUIET, tmp_path / "not" / "there")
    count = sum(p.numel() for p in ToyModel(0.0).parameters())
    assert cost["steps"] == 30
    assert cost["epochs"] == 30 * 8 / 50
    assert cost["parameters"] == count
    assert cost["trained_parameters"] == count - 1
    assert cost["seconds"] == pytest.approx(cost["seconds_per_step"] * 30)
    assert cost["peak_memory_bytes"] > 50e6
    run = fit(recipe, toy_pool(), tmp_path / "run", QUIET)
    files = sum(path.stat().st_size for path in (run.checkpoints / "step-00000030").glob("*.safetensors"))
    assert cost["checkpoint_bytes"] == pytest.approx(files, rel=0.5)
    assert cost["checkpoint_bytes"] < files  # headers come on top


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_the_gpu_equals_one_on_the_cpu(tmp_path: Path) -> None:
    runs = [
        fit(Toy(steps=3, clip_norm=1.0), toy_pool(), tmp_path / device, quiet(device=device, micro_batch=3))
        for device in ("cpu", "cuda")
    ]
    one, other = map(weights, runs)
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-8, atol=1e-9)


def test_batches_are_moved_to_the_device_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[str] = []
    whole = ToyBatch.to
    monkeypatch.setattr(ToyBatch, "to", lambda self, device: (places.append(str(device)), whole(self, device))[1])
    fit(Toy(steps=2), toy_pool(), tmp_path / "run", quiet(device="cpu"))
    assert places == ["cpu", "cpu"]


def test_features_whose_rows_are_not_those_of_the_batch_are_refused_at_the_first_step(tmp_path: Path) -> None:
    class Short(Toy):
        def features(self, model: nn.Module, batch: ToyBatch) -> Any:
            pairs = super().features(model, batch)
            return type(pairs)(pairs.image_ND[1:], pairs.text_ND[1:], pairs.scale)

    with pytest.raises(ConfigError, match=r"ToyPairs.image_ND is declared `Rows` and has 7, the batch has 8 rows"):
        fit(Short(steps=2), toy_pool(), tmp_path / "run", quiet())
