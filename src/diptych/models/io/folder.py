"""The folder of a saved model: config.json, model.safetensors, README.md, and what else its kind needs."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from diptych.core.disk.files import atomic_folder, write_json
from diptych.core.disk.json_text import read_object
from diptych.core.errors import RunError

FORMAT = 1


def write_model(folder: Path, model: nn.Module, config: Mapping[str, Any], readme: str, *more: Callable[[Path], object]) -> None:
    """Writes config.json (the format beside what `config` holds), the weights, README.md, and what each of `more` adds to the folder,
    which is replaced as a whole."""
    with atomic_folder(Path(folder)) as work:
        write_json(work / "config.json", {"format": FORMAT, **config})
        save_file(_apart(model.state_dict()), work / "model.safetensors", metadata={"format": "pt"})
        for add in more:
            add(work)
        (work / "README.md").write_text(readme, encoding="utf-8")


def _apart(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors as a file takes them: of tied ones, such as a language model's table and its head, each has memory of its own."""
    apart: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage().data_ptr()
        apart[name] = plain.clone() if storage in seen else plain
        seen.add(storage)
    return apart


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """config.json of a model folder. Raises RunError for none, for another kind, and for a format that this version does not know."""
    path = Path(folder, "config.json")
    if not path.is_file():
        raise RunError(f"{folder}: no config.json (expected a model folder of kind '{kind}')")
    try:
        config = read_object(path)
    except ValueError as error:
        raise RunError(f"{path} {error} (expected the configuration of a model)") from error
    stored = config.get("kind")
    if stored != kind:
        raise RunError(f"{path}: kind is {stored!r} (expected '{kind}'); a transformers folder opens as 'hf:{folder}'")
    if config.get("format") != FORMAT:
        raise RunError(f"{path}: format {config.get('format')} is not known to this version (expected {FORMAT})")
    return config


def load_weights(model: nn.Module, folder: Path) -> None:
    """Fills a module from model.safetensors. Raises RunError for a missing file, and for names or shapes that differ."""
    path = Path(folder, "model.safetensors")
    if not path.is_file():
        raise RunError(f"{folder}: model.safetensors is missing (expected a folder that save wrote)")
    try:
        model.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError, OSError) as error:
        raise RunError(f"{path}: {' '.join(str(error).split())[:300]}") from error


def fingerprint(model: nn.Module, settings: Mapping[str, Any]) -> str:
    """sha256 of every named tensor and of the settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def in_single_precision(model: nn.Module) -> nn.Module:
    """The model, or where it is of double precision a copy in single: frozen weights were read as such, so that nothing is lost."""
    doubled = any(parameter.dtype == torch.float64 for parameter in model.parameters())
    return copy.deepcopy(model).float() if doubled else model


def parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
