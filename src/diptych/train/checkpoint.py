"""Checkpoints: the complete state from which a run resumes as if it had never stopped.

    checkpoints/step-00000120/
        model.safetensors        every tensor of the module that the recipe stores
        optimiser.safetensors    "parameter name|key" -> tensor
        optimiser.json           the scalars of the optimiser's state
        hooks.safetensors, hooks.json
        state.json               step, stage, seed, fingerprints, and size and SHA-256 of the files above

A folder appears whole or not at all (written beside, flushed, renamed); nothing is pickled. Of sharded tensors each process
writes its own part (model.00001-of-00008.safetensors, and so on; `devices/shared_save.py`), and any number of processes reads
them. Random states are not here because there are none to keep: every step seeds its own.
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
from diptych.train.devices.shard_files import ShardedState, ShardedTensors, local_part
from diptych.train.devices.shared_save import SharedSave
from diptych.train.parallel import DistributedContext, gather_text

FORMAT, SHARDED = 1, 2
TENSOR = "$tensor"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of one checkpoint folder, in main memory.

    optimiser   parameter name -> key -> tensor or number
    hooks       hook key -> what its `state` returned: nested dicts and lists of JSON values and tensors
    """

    step: int
    state: dict[str, Any]
    model: Mapping[str, Tensor]
    optimiser: Mapping[str, Mapping[str, Tensor | float | int]] = field(default_factory=dict)
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
    remove_old(checkpoints, keep)
    return path


def remove_old(checkpoints: Path, keep: int) -> None:
    """Removes all but the newest `keep`."""
    for step in steps_of(checkpoints)[:-keep]:
        _remove(folder_of(checkpoints, step))


def write_shards(checkpoints: Path, content: Checkpoint, *, rank: int, size: int, keep: int) -> SharedSave:
    """Starts to write the parts of this process of a checkpoint; all processes call it. The first one's `content` has the rest, too."""
    main = rank == 0
    tensors, numbers = _flat(content.optimiser)
    parts = {
        stem: {name: part for name, value in values.items() if (part := local_part(value, main=main)) is not None}
        for stem, values in (("model", content.model), ("optimiser", tensors))
    }

    def finish(work: Path, files: dict[str, Any]) -> None:
        files |= _write_hooks(work, content, numbers)
        state = {"format": SHARDED, "step": content.step, **content.state, "files": files}
        (work / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")

    saving = SharedSave(folder_of(checkpoints, content.step), rank, size)
    saving.begin(parts, _facts, finish if main else None, lambda: remove_old(checkpoints, keep))
    return saving


def _write(work: Path, content: Checkpoint) -> None:
    tensors, numbers = _flat(content.optimiser)
    _write_tensors(work / "model.safetensors", content.model)
    _write_tensors(work / "optimiser.safetensors", tensors)
    _write_hooks(work, content, numbers)
    files = {file.name: _facts(file) for file in sorted(work.iterdir())}
    state = {"format": FORMAT, "step": content.step, **content.state, "files": files}
    (work / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")


def _flat(
    optimiser: Mapping[str, Mapping[str, Tensor | float | int]],
) -> tuple[dict[str, Tensor], dict[str, dict[str, float | int]]]:
    """Tensors of an optimiser's state by "parameter name|key", and its numbers by name and key."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, float | int]] = {}
    for name, values in optimiser.items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{name}|{key}"] = value
            else:
                numbers.setdefault(name, {})[key] = value
    return tensors, numbers


def _write_hooks(work: Path, content: Checkpoint, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Writes what is no tensor of the model or of the optimiser; the facts of the files."""
    hook_tensors: dict[str, Tensor] = {}
    hooks = _split(content.hooks, "", hook_tensors)
    _write_tensors(work / "hooks.safetensors", hook_tensors)
    (work / "optimiser.json").write_text(json.dumps(numbers), encoding="utf-8")
    (work / "hooks.json").write_text(json.dumps(hooks), encoding="utf-8")
    return {name: _facts(work / name) for name in ("hooks.safetensors", "optimiser.json", "hooks.json")}


def _facts(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": _sha256(file)}


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
    """Reads a checkpoint; one whose files are missing, short or changed is refused with the file's name. Of a sharded one,
    tensors are put together when they are asked for."""
    return _read(path, verify(path))


def verify(path: Path, rank: int = 0, size: int = 1) -> dict[str, Any]:
    """`state.json`. Compares files with their hashes: all of them, or every `size`-th from the `rank`-th on. Raises RunError."""
    try:
        state: dict[str, Any] = parse_json((path / "state.json").read_bytes())
        if state["format"] not in (FORMAT, SHARDED):
            raise RunError(f"{path} has checkpoint format {state['format']}; this version reads {FORMAT} and {SHARDED}")
        for name, recorded in state["files"].items():
            size_now = (path / name).stat().st_size
            if size_now != recorded["size"]:
                raise RunError(f"{path / name} is damaged: {size_now} of {recorded['size']} bytes")
        for name in list(state["files"])[rank::size]:
            if _sha256(path / name) != state["files"][name]["sha256"]:
                raise RunError(f"{path / name} is damaged: its bytes are not those that were written")
        return state
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is not a whole checkpoint: {type(error).__name__}: {error}") from error


def _read(path: Path, state: dict[str, Any]) -> Checkpoint:
    try:
        numbers: dict[str, dict[str, float | int]] = parse_json((path / "optimiser.json").read_bytes())
        hooks = _merge(parse_json((path / "hooks.json").read_bytes()), load_file(path / "hooks.safetensors"))
        if state["format"] == SHARDED:
            model, moments = (
                ShardedTensors([path / name for name in state["files"] if name.startswith(f"{stem}.0")])
                for stem in ("model", "optimiser")
            )
            return Checkpoint(state["step"], state, model, ShardedState(moments, numbers), hooks)
        optimiser: dict[str, dict[str, Tensor | float | int]] = {name: dict(values) for name, values in numbers.items()}
        for path_and_key, tensor in load_file(path / "optimiser.safetensors").items():
            name, _, key = path_and_key.rpartition("|")
            optimiser.setdefault(name, {})[key] = tensor
        return Checkpoint(state["step"], state, load_file(path / "model.safetensors"), optimiser, hooks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise RunError(f"{path} is not a whole checkpoint: {type(error).__name__}: {error}") from error


def newest(checkpoints: Path, world: DistributedContext | None = None) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a line about each damaged one that was passed over. Processes share the work of comparing
    hashes, and agree.

    None when there is no checkpoint at all; when there are some and all are damaged, that is an error and not a fresh start.
    """
    notes: list[str] = []
    for step in reversed(steps_of(checkpoints)):
        path, problem = folder_of(checkpoints, step), ""
        try:
            state = verify(path, world.rank, world.size) if world else verify(path)
        except RunError as error:
            problem = str(error)
        if problems := [text for text in (gather_text(problem, world) if world else [problem]) if text]:
            notes.append(f"checkpoint passed over: {problems[0]}")
        else:
            return _read(path, state), notes
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
