"""Files of tensors: which one an address means, and what is in it. Nothing of a file is run."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from diptych.core.errors import ConfigError, DataError

FILES = ("model.safetensors", "pytorch_model.bin")
"""What transformers calls the weights of a folder."""


def chosen_weights(spec: str, weights: str, download: bool, tags: Sequence[str]) -> tuple[Path | None, str | None]:
    """(file, tag); both None for random weights, which must be asked for by name."""
    if weights == "random":
        return None, None
    if not weights:
        raise ConfigError(f"{spec} names no weights; pass {spec.rstrip('/')}/FILE, or {spec.rstrip('/')}/random for fresh ones")
    path = Path(weights).expanduser()
    if path.is_file():
        return path, None
    if weights not in tags:
        raise ConfigError(f"{spec}: no such weights file" + (f", and no tag (known: {', '.join(tags)})" if tags else ""))
    if not download:
        raise ConfigError(f"{spec}: '{weights}' is a tag on the hub; pass --download to fetch it, or a weights file in its place")
    return None, weights


def weights_file(address: str) -> Path:
    """The file of that name, or that of a folder as transformers writes them, in one piece. Raises DataError where there is none."""
    path = Path(address).expanduser()
    files = [path] if path.is_file() else [file for name in FILES if (file := path / name).is_file()]
    if not files:
        raise DataError("no weights", file=path, expected=f"a file of tensors, or a folder with {' or '.join(FILES)}")
    return files[0]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, from a PyTorch file that holds tensors only, or from a TorchScript archive (OpenAI's files), of which
    only the tensors are used."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:  # the library raises its own kind
            raise DataError(f"not a file of tensors: {error}", file=path, expected=".safetensors with a state dict") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        if "TorchScript" in str(error):
            return {name: tensor.float() for name, tensor in torch.jit.load(path, map_location="cpu").state_dict().items()}
        raise DataError("not a file of tensors", file=path, expected=".safetensors, or .pth with a state dict") from error
    for within in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(within), dict):
            content = content[within]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError("holds more than tensors", file=path, expected="a state dict, alone or as 'state_dict' or 'model'")
    tensors: dict[str, Tensor] = content
    return tensors
