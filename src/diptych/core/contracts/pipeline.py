"""A pipeline: a system that acts at inference time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from typing_extensions import TypeVar

from diptych.core.contracts.role import Role

RequestT = TypeVar("RequestT", default=Any, contravariant=True)
OutputT = TypeVar("OutputT", bound="PipelineOutput", default="PipelineOutput", covariant=True)


class PipelineOutput(Protocol):
    """Result of a pipeline, as printed lines and as JSON."""

    def lines(self) -> Sequence[str]:
        """The lines that `diptych run` prints."""

    def to_json(self) -> dict[str, Any]:
        """The output as plain JSON values."""


@runtime_checkable
class Pipeline(Protocol[RequestT, OutputT]):
    """Models that answer a request together; nothing is trained. A frozen dataclass, whose fields are the models and indexes that it uses,
    by the names of its roles, and its configuration.

    slug     its name in the registry
    roles    the models and indexes it needs; it opens nothing itself. A role that is optional may be None
    request  a dataclass of the request. Its fields are options of `diptych run`, pictures among them (`ImageSource`) as files

    A pipeline that has the methods of a capability (`generate`, `embed_images`, ...) is a model for every task that needs that capability.
    """

    slug: ClassVar[str]
    roles: ClassVar[tuple[Role, ...]]
    request: ClassVar[type]

    def run(self, request: RequestT) -> OutputT: ...
