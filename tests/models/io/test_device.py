"""The device of a model: names, what is not there, memory that runs out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from diptych.cli import main
from diptych.core.errors import ConfigError, RunError
from diptych.core.machine import DEVICE_VARIABLE
from diptych.models.io import device as devices
from diptych.models.io.device import batched, choose_device, device_default, onnx_providers, place

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.delenv(DEVICE_VARIABLE, raising=False)


def test_without_a_gpu(no_gpu: None) -> None:
    assert choose_device() == choose_device("cpu") == CPU
    for name in ("cuda", "cuda:0", "mps", "gpu", "xla", "cuda:x", "meta"):
        with pytest.raises(ConfigError, match=f"^device is '{name}'.*expected [^\n]*$"):
            choose_device(name)


def test_with_two_gpus(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEVICE_VARIABLE, raising=False)
    assert choose_device() == choose_device("cuda") == torch.device("cuda", 1), "the current one"
    assert choose_device("auto", local_rank=0) == torch.device("cuda", 0)
    assert choose_device("cuda:1", local_rank=0) == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match=r"^device is 'cuda:2', but torch finds 2 CUDA devices \(expected cuda:0 to cuda:1\)$"):
        choose_device("cuda:2")
    with device_default("cpu"):
        assert choose_device() == CPU
        assert os.environ[DEVICE_VARIABLE] == "cpu"
        with device_default("auto"):
            assert choose_device() == CPU
    assert DEVICE_VARIABLE not in os.environ


COMMANDS = [
    "eval MODEL retrieval --data D",
    "index build MODEL D OUT",
    "index add INDEX D",
    "search INDEX words",
    "detect MODEL picture.png",
    "caption MODEL picture.png",
    "ask MODEL picture.png why",
    "classify MODEL picture.png --classes a,b",
    "curate metaclip D OUT",
    "slides embed MODEL D OUT",
    "serve MODEL",
    "claims run clip",
    "train clip --data D --out R",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_a_device_that_is_not_there(command: str, no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--device", "cuda"]) == 2
    assert "error: device is 'cuda', but torch" in capsys.readouterr().err
    assert DEVICE_VARIABLE not in os.environ, "--device is for one command"


def holds(most: int) -> tuple[list[int], object]:
    """Work that memory holds for so many items, and the sizes that it was tried with."""
    sizes: list[int] = []

    def work(part: Sequence[int]) -> list[int]:
        sizes.append(len(part))
        if len(part) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return [item * item for item in part]

    return sizes, work


def test_out_of_memory_halves_the_batch(two_gpus: None, capsys: pytest.CaptureFixture[str]) -> None:
    sizes, work = holds(5)
    blocks = batched(range(30), 4, torch.device("cuda", 0), work)  # type: ignore[arg-type]
    assert [item for block in blocks for item in block] == [item * item for item in range(30)]
    assert sizes == [16, 8, 4, 4, 4, 4, 4, 4, 4, 2], "four times as many as on a processor, then halves, for good"
    assert capsys.readouterr().err.splitlines() == [
        "the memory of cuda:0 does not hold 16 items at once: 8 from here on",
        "the memory of cuda:0 does not hold 8 items at once: 4 from here on",
    ]
    with pytest.raises(RunError, match=r"^the memory of cuda:0 does not hold one of the items"):
        batched(range(3), 1, torch.device("cuda", 0), holds(0)[1])  # type: ignore[arg-type]


def test_batches_of_a_processor_are_as_given() -> None:
    sizes, work = holds(100)
    assert len(batched(range(10), 4, CPU, work)) == 3  # type: ignore[arg-type]
    assert sizes == [4, 4, 2]
    assert batched([], 4, CPU, work) == []  # type: ignore[arg-type]


@dataclass
class Held:
    heads: nn.Module = field(default_factory=lambda: nn.Linear(2, 2))
    table_ND: Tensor = field(default_factory=lambda: torch.zeros(3, 2))
    parts: tuple[nn.Module, ...] = field(default_factory=lambda: (nn.Linear(1, 1),))


def test_everything_that_a_model_holds_is_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    Held.__module__ = "diptych.held"  # objects of others than the package are left alone
    model, inner = Held(), Held()
    model.inner = inner  # type: ignore[attr-defined]
    inner.outer = model  # type: ignore[attr-defined]
    model.heads.plain_D = torch.zeros(2)  # type: ignore[assignment]  # no buffer: `nn.Module.to` leaves it
    assert place(model, META) is model
    for each in (model, inner):
        assert each.table_ND.device == each.parts[0].weight.device == each.heads.weight.device == META
    assert model.heads.plain_D.device == META


def test_precision_of_an_embedder(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Embeds:
        autocasts, bf16 = True, False

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    cuda = torch.device("cuda", 0)
    assert place(Embeds(), cuda).bf16
    assert not place(Embeds(), cuda, "fp32").bf16
    assert not place(Embeds(), CPU).bf16
    assert place(Embeds(), CPU, "bf16").bf16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    assert not place(Embeds(), cuda).bf16
    with pytest.raises(ConfigError, match=r"^precision is 'half'"):
        place(Embeds(), CPU, "half")  # type: ignore[arg-type]


def test_providers_by_what_is_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert onnx_providers(torch.device("cuda", 0)) == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert onnx_providers(CPU) == ["CPUExecutionProvider"]
    assert not capsys.readouterr().err
    assert onnx_providers(torch.device("mps")) == ["CPUExecutionProvider"]
    assert "has no CoreMLExecutionProvider: it computes on the processor" in capsys.readouterr().err


def test_a_model_that_does_not_fit(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(devices, "_move", full)
    with pytest.raises(RunError, match=r"^'Linear' does not fit into the memory of cuda:0: use another device, such as cpu$"):
        place(nn.Linear(1, 1), torch.device("cuda", 0))
