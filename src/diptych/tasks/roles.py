"""Helper models of tasks and pipelines (judges, embedders): opened from addresses, checked, passed by role name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.core.contracts import MatchMapper, Role, Task, TaskWithRoles, VectorIndex
from diptych.core.errors import ConfigError, RunError
from diptych.models.io.foreign.matchers import open_matcher
from diptych.models.io.open_address import open_address, require


def roles_of(task: Task | type[Task]) -> tuple[Role, ...]:
    """Roles of a task (its other models); empty for a task without any."""
    return task.roles if isinstance(task, TaskWithRoles) else ()


def open_roles(task: Task, given: Mapping[str, Any]) -> dict[str, Any]:
    """Models of every role, by role name.

    given  models, lists of models for a role of many, or addresses of them
    Raises ConfigError for an unfilled role, an unknown role name, or a model without the capability.
    """
    return fill_roles(roles_of(task), given, who=f"task '{task.name}'", beside=" beside the model")


def fill_roles(roles: Sequence[Role], given: Mapping[str, Any], *, who: str, beside: str = "") -> dict[str, Any]:
    """Models of a list of roles, by role name. who, beside: for messages."""
    names = [role.name for role in roles]
    if unknown := sorted(set(given) - set(names)):
        raise ConfigError(f"{who} has no role {unknown[0]} (its roles are {', '.join(names) or 'nobody'}{beside})")
    return {role.name: _fill_role(role, given.get(role.name), who) for role in roles}


def _fill_role(role: Role, given: Any, asker: str) -> Any:
    if given is None or (isinstance(given, str) and given == ""):
        if role.optional:
            return None
        what = "FOLDER" if role.many else "INDEX" if role.needs is VectorIndex else "MODEL"
        raise ConfigError(f"{asker} asks for {role.name}: {role.about} (expected --{role.name.replace('_', '-')} {what})")
    who = f"{asker} for its {role.name}"
    if role.needs is VectorIndex and isinstance(given, str | Path):
        raise ConfigError(f"{who} got the address {given} (expected an open index: diptych.open_index)")
    if not role.many:
        model = _open_for(given, role.needs) if isinstance(given, str | Path) else given
        require(model, role.needs, who=who)
        return model
    models = _folder(Path(given)) if isinstance(given, str | Path) else given
    if not isinstance(models, Sequence) or not models:
        raise ConfigError(f"{who} got {models!r} (expected several models, in order)")
    for model in models:
        require(model, role.needs, who=who)
    return list(models)


def _open_for(address: str | Path, needs: Any) -> Any:
    """Opens the model at an address; a BLIP retrieval model is opened with its matching head if that is needed, else as an
    embedder."""
    if needs is MatchMapper and str(address).startswith("hf:"):
        return open_matcher(str(address))
    return open_address(address)


def _folder(folder: Path) -> list[Any]:
    """The models in a folder, in the order of their names."""
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder (expected one that holds model folders)")
    return [open_address(path) for path in sorted(folder.iterdir()) if (path / "config.json").is_file()]
