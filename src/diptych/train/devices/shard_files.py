"""Sharded tensors in safetensors files: every process writes its parts, and any number of processes reads them.

A file's header says in JSON where each part begins, under the key and in the form of `torch.distributed.checkpoint`, whose
`HuggingFaceStorageReader` reads these files, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from diptych.core.errors import RunError

HEADER, OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"


@dataclass(frozen=True, slots=True)
class TensorPart:
    """Part of a tensor that this process has, in main memory, and where it begins in the whole."""

    tensor: Tensor
    offset: tuple[int, ...]


def local_part(tensor: Tensor, *, main: bool) -> TensorPart | None:
    """The part that this process writes: of a sharded tensor its own, of any other the whole, by the main process alone."""
    if not isinstance(tensor, DTensor):
        return TensorPart(tensor.detach().cpu().clone(), (0,) * tensor.ndim) if main else None
    mesh, placements = tensor.device_mesh, tensor.placements
    copies = [mesh.get_local_rank(axis) for axis, placement in enumerate(placements) if placement.is_replicate()]
    local = tensor.to_local().detach()
    if any(copies) or not local.numel():
        return None
    _, offset = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
    return TensorPart(local.cpu().clone(), tuple(offset))


def write_parts(path: Path, parts: Mapping[str, TensorPart]) -> None:
    """A safetensors file of parts, with where they begin in its header."""
    info = {name: {OFFSETS: list(part.offset)} for name, part in parts.items()}
    save_file({name: part.tensor.contiguous() for name, part in parts.items()}, path, {HEADER: json.dumps(info)})


class ShardedTensors(Mapping[str, Tensor]):
    """Whole tensors by name, put together from the files of all processes when they are asked for: one at a time in main memory.

    Raises RunError for files whose parts do not make up a tensor.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._parts: dict[str, list[tuple[Any, list[int]]]] = {}
        self._names = [path.name for path in files]
        for path in files:
            opened: Any = safe_open(path, framework="pt")
            info = json.loads((opened.metadata() or {}).get(HEADER, "{}"))
            for name in opened.keys():  # noqa: SIM118  it is no mapping
                self._parts.setdefault(name, []).append((opened, info[name][OFFSETS]))

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __getitem__(self, name: str) -> Tensor:
        parts = [(opened.get_tensor(name), offset) for opened, offset in self._parts[name]]
        first: Tensor = parts[0][0]
        if len(parts) == 1 and not any(parts[0][1]):
            return first
        ends = [[begin + length for begin, length in zip(offset, part.shape, strict=True)] for part, offset in parts]
        shape = [max(sizes) for sizes in zip(*ends, strict=True)]
        if sum(part.numel() for part, _ in parts) != math.prod(shape):
            raise RunError(f"'{name}' is not whole in {', '.join(self._names[:2])} and so on: a part of it is missing")
        whole = torch.empty(shape, dtype=first.dtype)
        for part, offset in parts:
            whole[tuple(slice(begin, begin + length) for begin, length in zip(offset, part.shape, strict=True))] = part
        return whole


class ShardedState(Mapping[str, dict[str, Tensor | float | int]]):
    """State of an optimiser, parameter name -> key -> value, put together when it is asked for.

    tensors  by "parameter name|key"; numbers  the values that are none
    """

    def __init__(self, tensors: ShardedTensors, numbers: Mapping[str, Mapping[str, float | int]]) -> None:
        self._tensors, self._numbers = tensors, numbers
        self._keys: dict[str, list[str]] = {name: [] for name in numbers}
        for name_and_key in tensors:
            name, _, key = name_and_key.rpartition("|")
            self._keys.setdefault(name, []).append(key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __getitem__(self, name: str) -> dict[str, Tensor | float | int]:
        tensors = {key: self._tensors[f"{name}|{key}"] for key in self._keys[name]}
        return {**self._numbers.get(name, {}), **tensors}
