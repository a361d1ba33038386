"""Model FLOPs of a step: counted as by hand, what is computed again left out, shown in log and report; a trace of some steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from diptych.core.registry import RECIPES
from diptych.core.run_folder import RunFolder
from diptych.report.pages.run import run_report
from diptych.train.devices.flops import StepFlops, peak_flops, speed, uncounted
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.resolve import resolve

pytestmark = pytest.mark.usefixtures("counted_flops")
ROWS, TOKENS, WIDTH, HEADS, HIDDEN = 8, 16, 64, 4, 128


def layer() -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, batch_first=True, dropout=0.0)


def by_hand() -> int:
    """Two operations a weight and token forward, as many for each of the two gradients; attention's backward pass has five products."""
    places = ROWS * TOKENS
    weights = WIDTH * 3 * WIDTH + WIDTH * WIDTH + 2 * WIDTH * HIDDEN
    product = 2 * ROWS * HEADS * TOKENS * TOKENS * (WIDTH // HEADS)
    return 3 * 2 * places * weights + (2 + 5) * product


def test_a_layer_is_counted_as_by_hand() -> None:
    x_BLD = torch.randn(ROWS, TOKENS, WIDTH, requires_grad=True)
    with StepFlops() as count:
        layer()(x_BLD).sum().backward()
    assert count.total == by_hand()


def test_what_is_computed_again_is_left_out() -> None:
    x_BLD = torch.randn(ROWS, TOKENS, WIDTH, requires_grad=True)
    block = layer()
    with StepFlops() as count:
        with uncounted(), torch.no_grad():
            block(x_BLD)
        checkpoint(block, x_BLD, use_reentrant=False).sum().backward()
    assert count.total == by_hand()


def flops_of(run: RunFolder) -> list[float]:
    return [line["tflops"] * 1e12 * line["seconds"] for line in run.metrics() if line["kind"] == "train"]


def train(out: Path, **changes: object) -> RunFolder:
    data = resolve("world:scenes?n=24").split("train")
    recipe = replace(RECIPES.load("clip").tiny(), batch_size=8, steps=3)
    options = TrainOptions(progress=False, log_every=1, precision="fp32", **changes)  # type: ignore[arg-type]
    return fit(recipe, data, out, options)


def test_the_log_has_the_same_flops_however_memory_is_saved(tmp_path: Path) -> None:
    plain = flops_of(train(tmp_path / "plain"))
    assert plain == pytest.approx([plain[0]] * 3), "counted once, the same for every step"
    saving = flops_of(train(tmp_path / "saving", micro_batch=4, checkpoint_layers=1))
    assert saving == pytest.approx(plain, rel=1e-9)
    model = RECIPES.load("clip").tiny()
    assert plain[0] > 3 * 2 * 8 * model.width, "more than its last projection alone"


def test_the_share_of_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda", 0)
    names = {
        "H100 80GB HBM3": 989e12,
        "H100 PCIe": 756e12,
        "A100-SXM4-80GB": 312e12,
        "L4": 121e12,
        "L40": 181e12,
        "H200 NVL": 835e12,
    }
    for name, peak in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=f"NVIDIA {name}": name)
        assert peak_flops(cuda) == peak
        assert speed(peak / 4, "bf16", cuda) == {"tflops": peak / 4e12, "mfu": 0.25}
        assert "mfu" not in speed(peak / 4, "fp32", cuda), "the peak is that of bf16"
    for name in ("a device of tomorrow", "NVIDIA RTX A4000", "NVIDIA A1000 Laptop GPU"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_flops(cuda) is None
    assert peak_flops(torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("name", "multiprocessors", "gigahertz", "each"),
    [
        ("A100-SXM4-40GB", 108, 1.41, 2048),
        ("A40", 84, 1.74, 1024),
        ("RTX A6000", 84, 1.8, 1024),
        ("A10", 72, 1.695, 1024),
        ("GeForce RTX 3090", 82, 1.695, 512),
        ("GeForce RTX 4090", 128, 2.52, 512),
        ("L4", 58, 2.04, 1024),
        ("L40", 142, 2.49, 512),
    ],
)
def test_peaks_are_those_of_the_multiprocessors(
    name: str, multiprocessors: int, gigahertz: float, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the boost clock, times the operations of one in a cycle: bf16 with float32 sums."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA {name}")
    assert peak_flops(torch.device("cuda", 0)) == pytest.approx(multiprocessors * gigahertz * 1e9 * each, rel=0.003)


def test_a_trace_of_two_steps_and_the_report(tmp_path: Path) -> None:
    data = resolve("world:scenes?n=24").split("train")
    recipe = replace(RECIPES.load("clip").tiny(), batch_size=8, steps=6)
    run = fit(recipe, data, tmp_path / "run", TrainOptions(progress=False, log_every=1, profile=2))
    events = json.loads((run.path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    steps = {event["name"] for event in events if str(event.get("name", "")).startswith("ProfilerStep")}
    assert steps == {"ProfilerStep#3", "ProfilerStep#4"}
    assert any("mm" in str(event.get("name")) for event in events)
    assert "model TFLOP/s of a process" in run_report(run).read_text(encoding="utf-8")
