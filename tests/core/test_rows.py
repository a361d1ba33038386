"""Declarations of rows against names and against values."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.core.rows import Embeddings, Rows, check_rows, embedding_fields, row_fields


@dataclass(frozen=True, slots=True)
class Base:
    image_ND: Embeddings[Tensor]
    scale: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived(Base):
    uid: Rows[tuple[str, ...]]
    label_KD: Tensor
    mask_BP: Rows[Tensor] | None = None
    n_B_d: int = 0


@dataclass(frozen=True)
class Nested:
    inner: Base
    group_B: Rows[Tensor]


def derived(rows: int = 3, names: int = 3) -> Derived:
    return Derived(torch.zeros(rows, 4), torch.ones(1), uid=("x",) * names, label_KD=torch.zeros(7, 4))


def test_the_declaration_decides() -> None:
    assert row_fields(Derived) == ("image_ND", "uid", "mask_BP")
    assert embedding_fields(Derived) == ("image_ND",)
    assert row_fields(Base) == ("image_ND",)


def test_a_name_that_contradicts_its_declaration_is_refused() -> None:
    @dataclass
    class Shared:
        label_KD: Rows[Tensor]

    @dataclass(frozen=True)
    class Forgotten(Base):
        box_BQ4: Tensor

    with pytest.raises(ConfigError, match=r"Shared.label_KD is declared `Rows`, but its name says that K comes first"):
        row_fields(Shared)
    with pytest.raises(ConfigError, match=r"Forgotten.box_BQ4 is named like rows, but is not declared `Rows`"):
        embedding_fields(Forgotten)


def test_rows_that_are_not_as_many_as_declared_are_refused() -> None:
    check_rows(derived(), 3)
    with pytest.raises(ConfigError, match=r"Derived.uid is declared `Rows` and has 2, the batch has 3 rows"):
        check_rows(derived(3, 2), 3)
    with pytest.raises(ConfigError, match=r"Base.image_ND is declared `Rows` and has 2, the batch has 3 rows"):
        check_rows(Nested(Base(torch.zeros(2, 4), torch.ones(1)), torch.zeros(3)), 3)
    with pytest.raises(ConfigError, match="a dict cannot declare which of its fields are rows"):
        check_rows({"image_ND": torch.zeros(3, 4)}, 3)


def test_types_that_are_only_there_for_the_checker_are_refused_by_name() -> None:
    @dataclass
    class Unread:
        image_ND: Rows[Missing]  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ConfigError, match="the fields of Unread cannot be read: name 'Missing' is not defined"):
        row_fields(Unread)
