"""Checkpoints: everything from which a run goes on as if it had never stopped.

    checkpoints/step-00000120/
        model.safetensors        every tensor of the module that the recipe stores
        optimiser.safetensors    "parameter name|key" -> tensor
        optimiser.json           the scalars of the optimiser's state
        hooks.safetensors, hooks.json
        state.json               step, stage, seed, fingerprints, and size and SHA-256 of the files above

A folder appears whole or not at all (written beside, flushed, renamed); nothing is pickled. Sharded tensors are put together
before writing, so that a run may go on with another number of processes. Random states are not here because there are none to
keep: every step seeds its own.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diptych.core.disk.files import atomic_folder
from diptych.core.disk.json_text import parse_json
from diptych.core.errors import RunError

FORMAT = 1
TENSOR = "$tensor"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of one checkpoint folder, in main memory.

    optimiser   parameter name -> key -> tensor or number
    hooks       hook key -> what its `state` returned: nested dicts and lists of JSON values and tensors
    """

    step: int
    state: dict[str, Any]
    model: dict[str, Tensor]
    optimiser: dict[str, dict[str, Tensor | float | int]] = field(default_factory=dict)
    hooks: dict[str, Any] = field(default_factory=dict)


def folder_of(checkpoints: Path, step: int) -> Path:
    """Checkpoint folder of a step; names sort by step."""
    return checkpoints / f"step-{step:08d}"


def steps_of(checkpoints: Path) -> list[int]:
    """Steps of which there is a checkpoint folder, oldest first."""
    return sorted(int(path.name[5:]) for path in checkpoints.glob("step-*") if path.name[5:].isdigit())


def save(checkpoints: Path, content: Checkpoint, *, keep: int) -> Path:
    """Writes the folder, then removes all but the newest `keep`. A disk that is full leaves the older checkpoints as they are."""
    path = folder_of(checkpoints, content.step)
    try:
        with atomic_folder(path) as work:
            _write(work, content)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{path} could not be written ({error}); the checkpoints before it are whole: make room and --resume"
        ) from error
    for step in steps_of(checkpoints)[:-keep]:
        _remove(folder_of(checkpoints, step))
    return path


def _write(work: Path, content: Checkpoint) -> None:
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, float | int]] = {}
    for name, values in content.optimiser.items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{name}|{key}"] = value
            else:
                numbers.setdefault(name, {})[key] = value
    hook_tensors: dict[str, Tensor] = {}
    hooks = _split(content.hooks, "", hook_tensors)
    _write_tensors(work / "model.safetensors", content.model)
    _write_tensors(work / "optimiser.safetensors", tensors)
    _write_tensors(work / "hooks.safetensors", hook_tensors)
    (work / "optimiser.json").write_text(json.dumps(numbers), encoding="utf-8")
    (work / "hooks.json").write_text(json.dumps(hooks), encoding="utf-8")
    files = {file.name: {"size": file.stat().st_size, "sha256": _sha256(file)} for file in sorted(work.iterdir())}
    state = {"format": FORMAT, "step": content.step, **content.state, "files": files}
    (work / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tied tensors are written once a name, since the format refuses shared memory."""
    seen: set[int] = set()
    flat: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        flat[name] = tensor.clone() if address in seen or tensor.untyped_storage().nbytes() != tensor.nbytes else tensor
        seen.add(address)
    save_file(flat, path)


def _remove(path: Path) -> None:
    """Renamed first, so that a kill in between leaves no folder that looks like a checkpoint."""
    grave = Path(tempfile.mkdtemp(dir=path.parent, prefix=".old."))
    path.rename(grave / path.name)
    shutil.rmtree(grave)


def sweep(checkpoints: Path) -> None:
    """Removes what a kill left half written."""
    for path in checkpoints.glob(".*"):
        shutil.rmtree(path, ignore_errors=True)


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint whole; one whose files are missing, short or changed is refused with the file's name."""
    try:
        state = parse_json((path / "state.json").read_bytes())
        if state["format"] != FORMAT:
            raise RunError(f"{path} has checkpoint format {state['format']}; this version reads {FORMAT}")
        for name, recorded in state["files"].items():
            size = (path / name).stat().st_size
            if size != recorded["size"]:
                raise RunError(f"{path / name} is damaged: {size} of {recorded['size']} bytes")
            if _sha256(path / name) != recorded["sha256"]:
                raise RunError(f"{path / name} is damaged: its bytes are not those that were written")
        optimiser: dict[str, dict[str, Tensor | float | int]] = parse_json((path / "optimiser.json").read_bytes())
        for path_and_key, tensor in load_file(path / "optimiser.safetensors").items():
            name, _, key = path_and_key.rpartition("|")
            optimiser.setdefault(name, {})[key] = tensor
        plain = parse_json((path / "hooks.json").read_bytes())
        hooks = _merge(plain, load_file(path / "hooks.safetensors"))
        return Checkpoint(state["step"], state, load_file(path / "model.safetensors"), optimiser, hooks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise RunError(f"{path} is not a whole checkpoint: {type(error).__name__}: {error}") from error


def newest(checkpoints: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a line about each damaged one that was passed over.

    None when there is no checkpoint at all; when there are some and all are damaged, that is an error and not a fresh start.
    """
    notes: list[str] = []
    for step in reversed(steps_of(checkpoints)):
        try:
            return load(folder_of(checkpoints, step)), notes
        except RunError as error:
            notes.append(f"checkpoint passed over: {error}")
    if notes:
        raise RunError(f"no checkpoint in {checkpoints} is whole; the newest: {notes[0]}")
    return None, notes


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _split(value: Any, key_path: str, tensors: dict[str, Tensor]) -> Any:
    """JSON values with a marker for each tensor; the tensors go into `tensors` by their path."""
    if isinstance(value, Tensor):
        tensors[key_path] = value
        return {TENSOR: key_path}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise RunError(f"the hook state{key_path} has the key {key!r} (expected strings)")
        return {key: _split(item, f"{key_path}/{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_split(item, f"{key_path}/{index}", tensors) for index, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise RunError(f"the hook state{key_path} holds a {type(value).__name__} (expected JSON values or tensors)")


def _merge(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        return tensors[value[TENSOR]] if set(value) == {TENSOR} else {key: _merge(item, tensors) for key, item in value.items()}
    return [_merge(item, tensors) for item in value] if isinstance(value, list) else value
