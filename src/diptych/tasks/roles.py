"""The models that a task asks beside the one that is evaluated: opened from addresses, checked, and handed over by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.core.contracts import AsksOthers, Role, Task
from diptych.core.errors import ConfigError, RunError
from diptych.models.io.opened import open_address, require


def roles_of(task: Task | type[Task]) -> tuple[Role, ...]:
    """What the task asks for; empty for one that asks nobody else."""
    return task.roles if isinstance(task, AsksOthers) else ()


def cast(task: Task, given: Mapping[str, Any]) -> dict[str, Any]:
    """The models of every role, by its name.

    given  models, lists of models for a role of many, or addresses of them
    Raises ConfigError for a role that nobody fills, a name that is no role, or a model without the capability.
    """
    roles = {role.name: role for role in roles_of(task)}
    if unknown := sorted(set(given) - set(roles)):
        raise ConfigError(
            f"task '{task.name}' asks for no {unknown[0]} (it asks for {', '.join(roles) or 'nobody'} beside the model)"
        )
    return {name: _filled(task, role, given.get(name)) for name, role in roles.items()}


def _filled(task: Task, role: Role, given: Any) -> Any:
    if given is None or given == "":
        what = "FOLDER" if role.many else "MODEL"
        raise ConfigError(
            f"task '{task.name}' asks for {role.name}: {role.about} (expected --{role.name.replace('_', '-')} {what})"
        )
    who = f"task '{task.name}' for its {role.name}"
    if not role.many:
        model = open_address(given) if isinstance(given, str | Path) else given
        require(model, role.needs, who=who)
        return model
    models = _folder(Path(given)) if isinstance(given, str | Path) else given
    if not isinstance(models, Sequence) or not models:
        raise ConfigError(f"{who} got {models!r} (expected several models, in order)")
    for model in models:
        require(model, role.needs, who=who)
    return list(models)


def _folder(folder: Path) -> list[Any]:
    """The models in a folder, in the order of their names."""
    if not folder.is_dir():
        raise RunError(f"{folder} is no folder (expected one that holds model folders)")
    return [open_address(path) for path in sorted(folder.iterdir()) if (path / "config.json").is_file()]
