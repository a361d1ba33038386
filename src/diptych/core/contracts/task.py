"""An evaluation protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from diptych.core.contracts.data import Dataset
from diptych.core.result import Result

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa


@runtime_checkable
class Task(Protocol):
    """An evaluation protocol in two phases: `predict` runs the model and writes records, `score` reads records and nothing else."""

    name: ClassVar[str]
    version: ClassVar[int]
    needs: ClassVar[type]
    main: ClassVar[str]

    def predict(self, model: Any, data: Dataset, *args: Any, **roles: Any) -> pa.Table:
        """Records with a row an item. Models of roles come by keyword: ``def predict(self, model, data, *, judge: Generator)``."""

    def score(self, records: pa.Table) -> Result: ...


@dataclass(frozen=True, slots=True)
class ReportColumns:
    """Columns of a task's records that reports read: a task declares them as ``report_columns: ClassVar = ReportColumns(...)``.

    item    identifier of the row, the same under every model
    right   1 or True where the answer is right
    truth   the right answer as text
    answer  the model's answer as text
    uid     of the sample whose picture is shown; "" if there is none
    """

    item: str
    right: str
    truth: str
    answer: str
    uid: str = "uid"


@runtime_checkable
class TaskByItem(Task, Protocol):
    """A task with metrics that are means over items, so that two models can be compared item by item."""

    def item_values(self, records: pa.Table, metric: str) -> npt.NDArray[np.float64] | None:
        """[N, M]: what each item adds to that metric, NaN where a column does not apply. None when it is no mean over items.

        The metric is the mean over columns of the mean over items.
        """
        ...


@dataclass(frozen=True, slots=True)
class ReadableRow:
    """A row of records in words.

    uid       of the sample
    case      names the row among those of other models
    question  as it was put
    truth     the right answer, "" if it is kept secret
    answer    the parsed answer; the raw reply, where it cannot be parsed
    """

    uid: str
    case: str
    question: str
    truth: str
    answer: str


@runtime_checkable
class ReadableTask(TaskByItem, Protocol):
    """A task whose records can be shown as text, so that two models can be compared side by side."""

    def in_words(self, records: pa.Table) -> list[ReadableRow]: ...
