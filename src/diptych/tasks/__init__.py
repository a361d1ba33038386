"""Evaluation protocols: predict -> records -> score. A task asks for a capability and never for a class of model.

`find` answers a name with a task; nothing heavy is imported before that.
"""

from __future__ import annotations

from typing import Any

from diptych.core.config import from_plain
from diptych.core.contracts import Task
from diptych.core.registry import TASKS


def find(name: str, **options: Any) -> Task:
    """The task of that name with its options; published benchmarks are found by their slug.

    >>> find("zero_shot", label="group_name").label
    'group_name'
    """
    task: Task = from_plain(TASKS.load(name), options)
    return task
