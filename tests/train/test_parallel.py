"""One, two and four processes end in the same weights, wrapped by DDP and cut by FSDP2; `torchrun` starts such a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.multiprocessing import ProcessRaisedException
from toy_processes import run, torchrun, trained


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        if name != "seen":  # counts the rows of a process
            torch.testing.assert_close(one[name], other[name], rtol=1e-9, atol=1e-9, msg=name)


RECIPE = {"steps": 6, "clip_norm": 0.5, "average": True}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return trained(1, tmp_path_factory.mktemp("alone") / "run", recipe=RECIPE)


@pytest.mark.parametrize(
    ("processes", "shard", "micro_batch", "tiled"),
    [
        (2, "ddp", 2, True),
        (2, "fsdp", 3, False),
        pytest.param(4, "fsdp", 0, True, marks=pytest.mark.slow),
        pytest.param(2, "ddp", 0, False, marks=pytest.mark.slow),
        pytest.param(2, "fsdp", 0, True, marks=pytest.mark.slow),
        pytest.param(4, "ddp", 1, True, marks=pytest.mark.slow),
    ],
)
def test_equals_the_single_process(
    processes: int, shard: str, micro_batch: int, tiled: bool, alone: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """`alone` has the dense loss; `tiled` ones take the library's own, so that both are compared."""
    options = {"shard": shard, "micro_batch": micro_batch, "save_every": 4}
    recipe = {**RECIPE, "witness": str(tmp_path / "witness"), "tiled": tiled}
    together = trained(processes, tmp_path / "run", recipe=recipe, options=options)
    assert_equal(alone, together)
    assert together["log_scale"].shape == (1,)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [6]
    for rank in range(processes):
        seen = [json.loads(line) for line in (tmp_path / f"witness.{rank}").read_text().splitlines()]
        assert all(line["sharded"] if shard == "fsdp" else not line["any"] for line in seen)
        assert all(len(line["uids"]) == 8 // processes for line in seen)


@pytest.mark.parametrize("shard", ["fsdp", pytest.param("ddp", marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_with_another_number_of_processes(
    shard: str, alone: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    recipe = {**RECIPE, "witness": str(tmp_path / "witness"), "stop_at": 2}
    plan = {"out": str(tmp_path / "run"), "recipe": recipe, "options": {"shard": shard}, "resume": True}
    run(2, plan)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "stopped"
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]
    assert_equal(alone, trained(1, tmp_path / "run", **{key: value for key, value in plan.items() if key != "out"}))
    assert "went on with 1 processes after 2" in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sgd", "lamb"])
def test_every_optimiser_is_exact_when_sharded(kind: str, tmp_path: Path) -> None:
    recipe = {**RECIPE, "kind": kind}
    one = trained(1, tmp_path / "one", recipe=recipe)
    assert_equal(one, trained(2, tmp_path / "two", recipe=recipe, options={"shard": "fsdp"}))


def test_a_model_in_double_precision_is_written_so_when_sharded(tmp_path: Path) -> None:
    plan = {"recipe": {"steps": 3, "double": False}}
    one = trained(1, tmp_path / "one", **plan, options={"precision": "fp64"})
    two = trained(2, tmp_path / "two", **plan, options={"precision": "fp64", "shard": "fsdp"})
    assert {tensor.dtype for tensor in two.values()} == {torch.float64}
    assert_equal(one, two)


def test_torchrun_without_a_way_to_share_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProcessRaisedException, match=r"started 2 processes, but shard is none \(expected ddp or fsdp\)"):
        run(2, {"out": str(tmp_path / "run"), "recipe": RECIPE})
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_parameter_without_gradient_is_named_under_ddp(tmp_path: Path) -> None:
    plan = {"out": str(tmp_path / "run"), "recipe": {**RECIPE, "idle": True}, "options": {"shard": "ddp"}}
    with pytest.raises(ProcessRaisedException, match=r"no gradient reaches idle\.weight"):
        run(2, plan)


@pytest.mark.slow
def test_torchrun_trains_on_two_processes(alone: dict[str, torch.Tensor], tmp_path: Path) -> None:
    done = torchrun(2, {"out": str(tmp_path / "run"), "recipe": RECIPE, "options": {"shard": "ddp"}})
    assert done.returncode == 0, done.stderr[-3000:]
    assert_equal(alone, load_file(tmp_path / "run/model/model.safetensors"))
