"""Inference engine of a frozen image encoder: PyTorch, or ONNX Runtime on an export in the cache folder.

On processors ONNX Runtime runs convolutional towers two to three times as fast (its batch norms are folded into the convolutions), with
the same features to about 1e-5 of the largest; transformers gain little in batches and stay with PyTorch. `auto` follows this rule and
not a measurement, so that a machine always computes the same numbers. DIPTYCH_FROZEN_ENGINE=torch|onnx chooses otherwise.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from diptych.core.disk.cache import cache_folder
from diptych.core.disk.files import atomic_folder
from diptych.core.errors import ConfigError, MissingExtra
from diptych.models.io.device import onnx_providers
from diptych.models.io.inference import evaluating

Engine = Literal["torch", "onnx", "double", "cuda", "mps"]
"""`double` is PyTorch in float64, rounded to float32 at the end: the same digits on every processor. `torch` is PyTorch on the processor,
the last two on another device."""
WISH = "DIPTYCH_FROZEN_ENGINE"
OPSET = 17

_wish: ContextVar[str] = ContextVar("frozen_engine", default="")


@contextmanager
def frozen_engine(name: Literal["auto", "torch", "onnx", "double"]) -> Iterator[None]:
    """Context in which frozen encoders use this inference engine, regardless of the environment variable."""
    before = _wish.set(name)
    try:
        yield
    finally:
        _wish.reset(before)


def in_double() -> bool:
    """True where frozen encoders are to be computed in float64."""
    return _wish.get() == "double"


@contextmanager
def computing(tower: nn.Module) -> Iterator[torch.dtype | None]:
    """Inside, a frozen tower of single precision has float64 where that was asked for. Gives the type that its images need."""
    types = {p.dtype for p in tower.parameters() if p.is_floating_point()}
    if not in_double() or types != {torch.float32}:
        yield torch.float64 if types == {torch.float64} else None  # opened while float64 was the default type
        return
    tower.double()
    try:
        yield torch.float64
    finally:
        tower.float()


def engine_for(tower: nn.Module, *, bf16: bool = False) -> Engine:
    """Inference engine of this tower. Raises ConfigError for an unknown name, MissingExtra where onnx is missing."""
    requested = _wish.get() or os.environ.get(WISH) or "auto"
    if requested == "double":
        return "double"
    if requested not in ("auto", "torch", "onnx"):
        raise ConfigError(f"{WISH} is {requested!r} (expected auto, torch or onnx)")
    if requested == "onnx" and not _installed():
        raise MissingExtra("onnxruntime", "onnx", needed_for=f"{WISH}=onnx")
    on_cpu = next(tower.parameters()).device.type == "cpu"
    folds = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in tower.modules())
    fast = on_cpu and folds and not bf16 and _installed()
    return "onnx" if requested == "onnx" or (requested == "auto" and fast) else device_engine(tower)


def device_engine(tower: nn.Module) -> Engine:
    """PyTorch, by the type of the device that the tower is on."""
    kinds: dict[str, Engine] = {"cuda": "cuda", "mps": "mps"}
    return kinds.get(next(tower.parameters()).device.type, "torch")


class OnnxTower:
    """The pooled features of a tower, by ONNX Runtime: float32 [B, 3, H, W] of the size it was exported for -> [B, D]."""

    def __init__(self, file: Path, device: torch.device) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(file, options, providers=onnx_providers(device))

    def __call__(self, image_BCHW: Tensor) -> npt.NDArray[np.float32]:
        features_BD: npt.NDArray[np.float32] = self.session.run(None, {"image": image_BCHW.cpu().contiguous().numpy()})[0]
        return features_BD


def onnx_tower(tower: nn.Module, fingerprint: str, height: int, width: int) -> OnnxTower:
    """The tower of this fingerprint for images of this size; exported once, and found again by fingerprint, size and versions."""
    from importlib.metadata import version

    folder = (
        cache_folder() / "onnx" / f"{fingerprint[:16]}-{height}x{width}-opset{OPSET}-torch{version('torch').partition('+')[0]}"
    )
    if not (folder / "image.onnx").is_file():
        with atomic_folder(folder) as work, evaluating(tower):
            _export(tower, height, width, work / "image.onnx")
    return _opened(folder / "image.onnx", torch.get_num_threads(), next(tower.parameters()).device)


@lru_cache(maxsize=4)
def _opened(file: Path, threads: int, device: torch.device) -> OnnxTower:
    return OnnxTower(file, device)


class _Pooled(nn.Module):
    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, image_BCHW: Tensor) -> Tensor:
        pooled_BD: Tensor = self.tower(image_BCHW).pooled_BD
        return pooled_BD.float()


def _export(tower: nn.Module, height: int, width: int, file: Path) -> None:
    free: dict[str, Any] = {"image": {0: "batch"}, "features": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)  # shape checks become constants
        warnings.simplefilter("ignore", DeprecationWarning)  # of the older exporter, which needs nothing but `onnx`
        torch.onnx.export(
            _Pooled(tower).eval(),
            (torch.zeros(2, 3, height, width, device=next(tower.parameters()).device),),
            str(file),
            input_names=["image"],
            output_names=["features"],
            dynamic_axes=free,
            opset_version=OPSET,
            dynamo=False,
        )


@cache
def _installed() -> bool:
    return bool(find_spec("onnxruntime") and find_spec("onnx"))
