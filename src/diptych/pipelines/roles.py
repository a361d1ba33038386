"""Pipelines by name, with their roles filled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from diptych.core.contracts import Pipeline
from diptych.core.errors import UnknownName
from diptych.core.registry import PIPELINES
from diptych.tasks.roles import fill_roles


def start(kind: str | type[Pipeline], given: Mapping[str, Any], **options: Any) -> Pipeline[Any, Any]:
    """Pipeline of a name, with its models opened.

    kind     a name (`core.registry.PIPELINES`), or a class
    given    models, or their addresses, and open indexes, by role
    options  its configuration: the fields that are no role
    Raises ConfigError for a role that nobody fills or a model without the capability, UnknownName for an option that it does not have.
    """
    made: Any = PIPELINES.load(kind) if isinstance(kind, str) else kind
    roles = {role.name for role in made.roles}
    names = [item.name for item in fields(made) if item.name not in roles]
    for name in options:
        if name not in names:
            raise UnknownName(f"option of pipeline '{made.slug}'", name, names)
    ready: Pipeline[Any, Any] = made(**fill_roles(made.roles, given, who=f"pipeline '{made.slug}'"), **options)
    return ready
