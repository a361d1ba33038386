"""A system that acts at inference time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from typing_extensions import TypeVar

from diptych.core.contracts.role import Role

Request = TypeVar("Request", default=Any, contravariant=True)
Answered = TypeVar("Answered", bound="Answer", default="Answer", covariant=True)


class Answer(Protocol):
    """What a pipeline says, for people and for programs."""

    def lines(self) -> Sequence[str]:
        """As `diptych run` prints it."""

    def to_json(self) -> dict[str, Any]:
        """The same in plain values."""


@runtime_checkable
class Pipeline(Protocol[Request, Answered]):
    """Models that answer together: nothing is trained, one request has one answer. A frozen dataclass, whose fields are the models and
    indexes that it asks, by the names of its roles, and its configuration.

    slug     its name in the registry
    roles    whom it asks; it opens nothing itself. A role that is optional may be None
    request  a dataclass: what is asked of it. Its fields are options of `diptych run`, pictures among them (`ImageSource`) as files

    A pipeline that has the methods of a capability (`generate`, `embed_images`, ...) is a model for every task that asks for one.
    """

    slug: ClassVar[str]
    roles: ClassVar[tuple[Role, ...]]
    request: ClassVar[type]

    def run(self, request: Request) -> Answered: ...
