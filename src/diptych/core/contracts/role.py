"""Whom a task asks beside the model that is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Role:
    """Another model that takes part: a judge, a reference, the earlier snapshots of a run.

    A task names its roles and gets the models as keywords of `predict`; it opens none itself. On the command line and in `evaluate`
    a role is an option of its name, and takes an address.

    needs   the capability that the model must have
    about   a line for the help
    many    several models, in order; the address is then a folder that holds model folders, taken in the order of their names
    """

    name: str
    needs: type
    about: str
    many: bool = False


@runtime_checkable
class AsksOthers(Protocol):
    """A task with roles."""

    roles: ClassVar[tuple[Role, ...]]
