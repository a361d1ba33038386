"""Settings that determine the answers of a pipeline, as plain values: they are stored in the answer file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any


def settings_of(pipeline: Any) -> dict[str, Any]:
    """Options of a pipeline by name, without its models; paths as strings."""
    roles = {role.name for role in pipeline.roles}
    plain = {item.name: getattr(pipeline, item.name) for item in fields(pipeline) if item.name not in roles}
    return {name: str(value) if isinstance(value, Path) else value for name, value in plain.items()}


def identity_of(model: Any) -> str | None:
    """Name and fingerprint of a model; None if there is none."""
    return (
        None if model is None else f"{getattr(model, 'name', type(model).__name__)} {getattr(model, 'fingerprint', '')}".strip()
    )
