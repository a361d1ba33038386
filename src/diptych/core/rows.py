"""Fields of a batch, or of its features, that have one entry per row.

    @dataclass(frozen=True)
    class Pairs:
        image_ND: Embeddings[Tensor]        # a vector per row, of the space in which things are compared
        label_N: Rows[Tensor] | None        # an entry a row
        class_KD: Tensor                    # shared by all rows

A declaration is the only thing that decides. Gradient caching, chunks of a batch and prefixes of embeddings ask here. Names end in
their shape (B batch, N items), so they are compared with the declarations once a class: a field that is named one way and declared
the other is refused.

Letters: B batch, N items, C channel, H W pixels, P patches, L text tokens, D width, K classes or prototypes, Q queries, R relations,
T frames, V vocabulary. A file that uses others says so at its head.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

from diptych.core.errors import ConfigError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class RowAxis:
    """Marks a field whose first axis (or whose items) are the rows of the batch. embedding: its last axis is the embedding."""

    embedding: bool = False


Rows = Annotated[T, RowAxis()]
"""A tensor [N, ...], a tuple or a list with one entry for each row of the batch."""
Embeddings = Annotated[T, RowAxis(embedding=True)]
"""`Rows` [N, ..., D] whose last axis is the embedding that similarities are taken of."""


def is_record(value: Any) -> bool:
    """True for an instance of a dataclass, the only kind that can declare rows."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def row_fields(kind: type) -> tuple[str, ...]:
    """Names of the fields that are declared rows, in order.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Boxes:
    ...     box_BQ4: Rows[list[float]]
    ...     label_KD: list[float]
    >>> row_fields(Boxes)
    ('box_BQ4',)
    >>> @dataclass
    ... class Forgotten:
    ...     box_BQ4: list[float]
    >>> row_fields(Forgotten)
    Traceback (most recent call last):
    ...
    diptych.core.errors.ConfigError: Forgotten.box_BQ4 is named like rows, but is not declared `Rows`
    """
    return tuple(_axes(kind))


def embedding_fields(kind: type) -> tuple[str, ...]:
    """Names of the fields that are declared embeddings, in order."""
    return tuple(name for name, axis in _axes(kind).items() if axis.embedding)


def check_rows(value: Any, count: int) -> None:
    """Refuses a batch, or features, in which a field that is declared rows has not `count` of them; records inside are visited."""
    if not is_record(value):
        raise ConfigError(f"a {type(value).__name__} cannot declare which of its fields are rows (expected a dataclass)")
    for name, rows in _declared_fields(value):
        if len(rows) != count:
            raise ConfigError(f"{type(value).__name__}.{name} is declared `Rows` and has {len(rows)}, the batch has {count} rows")
    for inner in dataclasses.fields(value):
        if is_record(rows := getattr(value, inner.name)):
            check_rows(rows, count)


def _declared_fields(value: Any) -> Iterator[tuple[str, Any]]:
    return ((name, rows) for name in row_fields(type(value)) if (rows := getattr(value, name)) is not None)


@functools.cache
def _axes(kind: type) -> dict[str, RowAxis]:
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except NameError as error:
        raise ConfigError(
            f"the fields of {kind.__name__} cannot be read: {error} (expected types that its module imports when it runs)"
        ) from error
    axes: dict[str, RowAxis] = {}
    for field in dataclasses.fields(kind):
        axis, shape = _mark_of(hints[field.name]), _shape(field.name)
        if shape and (shape[0] in "BN") != (axis is not None):
            what = (
                "named like rows, but is not declared `Rows`"
                if axis is None
                else f"declared `Rows`, but its name says that {shape[0]} comes first (expected B or N)"
            )
            raise ConfigError(f"{kind.__name__}.{field.name} is {what}")
        if axis is not None:
            axes[field.name] = axis
    return axes


def _mark_of(hint: Any) -> RowAxis | None:
    """The mark of an annotation, also under `| None`."""
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, RowAxis):
            return mark
    return next((mark for option in typing.get_args(hint) if (mark := _mark_of(option)) is not None), None)


def _shape(name: str) -> str:
    """The shape letters at the end of a name, "" when there are none."""
    stem, _, shape = name.rpartition("_")
    return shape if stem and shape[:1].isalpha() and shape.isalnum() and shape.isupper() else ""
