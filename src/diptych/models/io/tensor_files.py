"""Tensor files: finding the file of an address, and reading it without executing code."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from diptych.core.errors import ConfigError, DataError

FILES = ("model.safetensors", "pytorch_model.bin")
"""What transformers calls the weights of a folder."""
_SCALAR: Any = getattr(np, "_core").multiarray.scalar  # noqa: B009  # no public name
ALLOWED: tuple[Any, ...] = (
    argparse.Namespace,
    (OrderedDict, "yacs.config.CfgNode"),
    np.dtype,
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLefd"),
)
"""Records without behaviour that PyTorch files may hold beside tensors and plain values: options of a script (`argparse.Namespace`),
yacs configurations (read as ordered dicts) and numpy scalars. All else is refused."""


def chosen_weights(spec: str, weights: str, download: bool, tags: Sequence[str]) -> tuple[Path | None, str | None]:
    """(file, tag); both None for random weights, which must be asked for by name."""
    if weights == "random":
        return None, None
    if not weights:
        raise ConfigError(
            f"{spec} does not name a weights file; pass {spec.rstrip('/')}/FILE, or {spec.rstrip('/')}/random for fresh ones"
        )
    path = Path(weights).expanduser()
    if path.is_file():
        return path, None
    if weights not in tags:
        raise ConfigError(f"{spec}: no such weights file" + (f", and no tag (known: {', '.join(tags)})" if tags else ""))
    if not download:
        raise ConfigError(f"{spec}: '{weights}' is a tag on the hub; pass --download to fetch it, or a weights file in its place")
    return None, weights


def weights_file(address: str) -> Path:
    """The file of that name, or that of a folder as transformers writes them, in one piece. Raises DataError if there is none."""
    path = Path(address).expanduser()
    files = [path] if path.is_file() else [file for name in FILES if (file := path / name).is_file()]
    if not files:
        raise DataError("no weights", file=path, expected=f"a file of tensors, or a folder with {' or '.join(FILES)}")
    return files[0]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, from a PyTorch file that holds tensors only, or from a TorchScript archive (OpenAI's
    files), of which only the tensors are used."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:  # the library raises its own kind
            raise DataError(f"not a file of tensors: {error}", file=path, expected=".safetensors with a state dict") from error
    if is_torchscript(path):
        return {name: tensor.float() for name, tensor in torch.jit.load(path, map_location="cpu").state_dict().items()}
    content = read_content(path)
    for within in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(within), dict):
            content = content[within]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError("holds more than tensors", file=path, expected="a state dict, alone or as 'state_dict' or 'model'")
    tensors: dict[str, Tensor] = content
    return tensors


def read_content(path: str | Path, *, mapped: bool = False) -> Any:
    """Content of a PyTorch file, read without pickle: tensors, plain values and the records in `ALLOWED`.

    mapped  leaves the numbers on disk until they are used, where the file's format can
    Raises DataError for a file that is missing or holds anything else.
    """
    try:
        with torch.serialization.safe_globals(list(ALLOWED)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped or None)
    except FileNotFoundError as error:
        raise DataError("there is no such file", file=path) from error
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError, AttributeError, TypeError) as error:
        unsupported = re.search(r"unsupported global:? (?:global )?(\S+)", str(error), re.IGNORECASE)
        problem = f"not read, since it asks for {unsupported[1]}" if unsupported else "not a PyTorch file of tensors"
        expected = "tensors, plain values, options of a script and numpy scalars; or the state dict alone as .safetensors"
        raise DataError(problem, file=path, expected=expected) from error


def is_torchscript(path: Path) -> bool:
    """True for an archive of TorchScript, as OpenAI publishes CLIP."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
    return any(name.endswith("/constants.pkl") for name in names)
