"""Checkpoint files of released detectors, such as RLIPv2's `main.py` saves: opened without executing anything that they contain,
and loaded into a model all or nothing."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diptych.core.errors import ConfigError, DataError
from diptych.models.io.tensor_files import read_content, read_tensors

SHOWN = 5
"""Maximum number of names in an error message."""


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """Content of a released checkpoint: the model's tensors, and the options of its `main.py` ({} where a file has none)."""

    tensors: Mapping[str, Tensor]
    options: Mapping[str, Any]
    file: str = ""


def read_released(path: str | Path) -> dict[str, Tensor]:
    """The state dict of the model: the entry "model" of a file that holds optimiser, schedule, epoch and options beside it."""
    return dict(read_checkpoint(path).tensors)


def read_checkpoint(path: str | Path) -> ReleasedCheckpoint:
    """Model and options of a file of `main.py`. What `read_content` refuses, and a file without a model, is a `DataError`."""
    content = read_content(path)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not all(isinstance(tensor, Tensor) for tensor in model.values()):
        problem = f"holds {sorted(map(str, content))}" if isinstance(content, dict) else f"holds a {type(content).__name__}"
        raise DataError(problem, file=path, expected="an entry 'model' with the tensors of the model")
    options = content.get("args")
    return ReleasedCheckpoint(model, vars(options) if isinstance(options, argparse.Namespace) else {}, str(path))


def required_tensor(tensors: Mapping[str, Tensor], name: str, source: str) -> Tensor:
    """Tensor of that name. Raises DataError with the expected `source` where it is missing."""
    if name not in tensors:
        raise DataError(f"tensor {name} is missing", expected=source)
    return tensors[name]


def checkpoint_and_encoder(spec: str, encoder: str) -> tuple[Path, Path]:
    """File and folder of an address "KIND:CHECKPOINT#FOLDER", whose folder is a text encoder's as transformers saves it.

    encoder  its name in messages, such as "roberta-base"
    Raises ConfigError for an address without both, DataError for a folder that holds no encoder.
    """
    kind, _, rest = spec.partition(":")
    file, _, folder = rest.partition("#")
    if not file or not folder:
        form = f"{kind}:CHECKPOINT#{encoder.partition('-')[0].upper()}-FOLDER"
        raise ConfigError(f"{spec!r} does not name a checkpoint and a text encoder (expected {form})")
    if not (Path(folder).expanduser() / "config.json").is_file():
        raise DataError(
            "the folder has no config.json",
            file=Path(folder).expanduser(),
            expected=f"{encoder} as transformers saves it, with its tokenizer",
        )
    return Path(file).expanduser(), Path(folder).expanduser()


def released_tensors(file: Path, source: str) -> dict[str, Tensor]:
    """Tensors of a released .pth, or of a .safetensors with the same names; without the prefix of a model that was trained in
    parallel."""
    if not file.is_file():
        raise DataError("there is no such file", file=file, expected=source)
    tensors = read_tensors(file) if file.suffix == ".safetensors" else read_released(file)
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def load_strictly(model: nn.Module, read: Mapping[str, Tensor], *, title: str = "network", shown: int = SHOWN) -> None:
    """Puts tensors into a model whose names and sizes they have, all or nothing: a ConfigError names those that are left over, missing
    or of another size, `shown` of each at most."""
    held = model.state_dict()
    sizes = [
        f"{name} {list(read[name].shape)} for {list(held[name].shape)}"
        for name in sorted(read.keys() & held.keys())
        if read[name].shape != held[name].shape
    ]
    mismatches = {
        "not in the model": sorted(read.keys() - held.keys()),
        "not in the file": sorted(held.keys() - read.keys()),
        "of another size": sizes,
    }
    if problems := [f"{what}: {first_names(names, shown)}" for what, names in mismatches.items() if names]:
        raise ConfigError(f"the file is not of this {title}; " + "; ".join(problems))
    model.load_state_dict(dict(read))


def first_names(names: Sequence[str], shown: int = SHOWN) -> str:
    """The first of them, and how many more."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
