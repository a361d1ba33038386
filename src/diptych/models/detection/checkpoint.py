"""Checkpoint files of released detectors, such as RLIPv2's `main.py` saves, opened without running anything that they hold."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.core.errors import DataError


@dataclass(frozen=True)
class Released:
    """What a checkpoint holds: the tensors of the model, and the options of `main.py` as they were ({} where a file has none)."""

    tensors: Mapping[str, Tensor]
    options: Mapping[str, Any]
    file: str = ""


def read_released(path: str | Path) -> dict[str, Tensor]:
    """The state dict of the model: the entry "model" of a file that holds optimiser, schedule, epoch and options beside it."""
    return dict(read_checkpoint(path).tensors)


def read_checkpoint(path: str | Path) -> Released:
    """Model and options of a file of `main.py`. What `read_content` refuses, and a file without a model, is a `DataError`."""
    content = read_content(path)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not all(isinstance(tensor, Tensor) for tensor in model.values()):
        found = f"holds {sorted(map(str, content))}" if isinstance(content, dict) else f"holds a {type(content).__name__}"
        raise DataError(found, file=path, expected="an entry 'model' with the tensors of the model")
    options = content.get("args")
    return Released(model, vars(options) if isinstance(options, argparse.Namespace) else {}, str(path))


def read_content(path: str | Path) -> Any:
    """What a PyTorch file holds: tensors, plain values, and an `argparse.Namespace`, a record without behaviour, which is let in for the
    time of reading. A file that is missing, or holds anything else, is refused with a `DataError`."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError("there is no such file", file=path) from error
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError) as error:
        asked = re.search(r"unsupported global:? (?:global )?(\S+)", str(error), re.IGNORECASE)
        problem = f"not read, since it asks for {asked[1]}" if asked else "not a PyTorch file of tensors"
        raise DataError(
            problem, file=path, expected="tensors, plain values and an argparse.Namespace, as main.py saves"
        ) from error


def needed(tensors: Mapping[str, Tensor], name: str, source: str) -> Tensor:
    """The tensor of that name; DataError, which says what `source` was expected, where there is none."""
    if name not in tensors:
        raise DataError(f"tensor {name} is missing", expected=source)
    return tensors[name]
