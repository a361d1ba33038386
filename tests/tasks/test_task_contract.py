"""What every registered protocol keeps to, whatever it measures."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from diptych.core.contracts import Task
from diptych.core.registry import TASKS


@pytest.mark.parametrize("name", TASKS)
def test_a_registered_task_is_one_under_its_name_and_takes_the_roles_that_it_declares(name: str) -> None:
    kind: Any = TASKS.load(name)
    assert isinstance(kind(), Task)
    assert kind.name == name
    signed = inspect.signature(kind.predict).parameters
    assert list(signed)[:3] == ["self", "model", "data"]
    asked = {role.name: role for role in getattr(kind, "roles", ())}
    taken = {one.name: one for one in list(signed.values())[3:] if one.kind == one.KEYWORD_ONLY}
    assert taken.keys() == asked.keys()
    for role in asked.values():
        assert (taken[role.name].default is inspect.Parameter.empty) <= (not role.optional), (
            f"{name} cannot do without {role.name}"
        )
