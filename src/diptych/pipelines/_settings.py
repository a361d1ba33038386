"""Settings that the answers of a pipeline depend on, as plain values: for the file that they are kept in."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any


def settings_of(pipeline: Any) -> dict[str, Any]:
    """Options of a pipeline by name, without its roles; paths as text."""
    roles = {role.name for role in pipeline.roles}
    plain = {item.name: getattr(pipeline, item.name) for item in fields(pipeline) if item.name not in roles}
    return {name: str(value) if isinstance(value, Path) else value for name, value in plain.items()}


def identity_of(model: Any) -> str | None:
    """Name and fingerprint of a model; None if there is none."""
    return (
        None if model is None else f"{getattr(model, 'name', type(model).__name__)} {getattr(model, 'fingerprint', '')}".strip()
    )
