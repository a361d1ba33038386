"""Roles: further models that a task needs besides the evaluated one, and the models of a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from types import UnionType
from typing import ClassVar, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Role:
    """A model that a task or pipeline needs: a judge, a reference, the earlier snapshots of a run; or an index.

    A task names its roles and gets the models as keywords of `predict`, a pipeline as fields; neither opens any itself. On the command
    line and in `evaluate` a role is an option of its name, and takes an address.

    needs     the capability that the model must have, or several of which one will do (`Embedder | TokenEmbedder`)
    about     a line for the help
    many      several models, in order; the address is then a folder that holds model folders, taken in the order of their names
    optional  None when no model is given
    """

    name: str
    needs: type | UnionType
    about: str
    many: bool = False
    optional: bool = False


@runtime_checkable
class TaskWithRoles(Protocol):
    """A task with roles."""

    roles: ClassVar[tuple[Role, ...]]
