"""The score matrix of a stream of tasks: numbers worked out on paper, models whose answers are known, tasks that come from the data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.tasks.evaluate import evaluate
from diptych.tasks.pairs.continual import Continual, TaskStream, stream_of, summary, union_loss

MATRIX = np.array([[0.1, 0.2, 0.0], [0.8, 0.3, 0.1], [0.5, 0.9, 0.2], [0.4, 0.6, 0.7]])
"""Rows: before the first task, then after tasks 1, 2, 3."""


def test_five_numbers_worked_out_on_paper(parity: Any) -> None:
    found = summary(MATRIX)
    assert found["average"] == pytest.approx((0.4 + 0.6 + 0.7) / 3)
    assert found["incremental"] == pytest.approx((0.8 + (0.5 + 0.9) / 2 + (0.4 + 0.6 + 0.7) / 3) / 3)
    assert found["backward"] == pytest.approx(((0.4 - 0.8) + (0.6 - 0.9)) / 2)
    assert found["forgetting"] == pytest.approx(((0.8 - 0.4) + (0.9 - 0.6)) / 2)
    assert found["forward"] == pytest.approx(((0.3 - 0.2) + (0.2 - 0.0)) / 2)
    matrix = MATRIX[1:]
    forgotten = np.mean([matrix[:, task].max() - matrix[-1, task] for task in range(2)])
    parity(
        "ctp",
        "forgetting",
        "the best score of each earlier task minus its last",
        [(found["forgetting"], forgotten)],
        tolerance=1e-12,
    )


def test_forgetting_counts_from_the_best_moment_and_not_from_the_tasks_own_end() -> None:
    later = MATRIX.copy()
    later[2, 0] = 0.95  # task 1 is known best after task 2
    assert summary(later)["forgetting"] == pytest.approx(((0.95 - 0.4) + (0.9 - 0.6)) / 2)
    assert summary(later)["backward"] == pytest.approx(summary(MATRIX)["backward"])


def test_the_union_form_has_the_opposite_sign() -> None:
    union = np.array([[np.nan] * 2, [0.8, np.nan], [0.5, 0.6]])
    assert union_loss(union) == pytest.approx(((0.8 - 0.5) + 0) / 2)


def test_one_task_has_nothing_to_forget() -> None:
    found = summary(np.array([[0.1], [0.7]]))
    assert found["average"] == 0.7
    assert all(math.isnan(found[name]) for name in ("backward", "forgetting", "forward"))
    with pytest.raises(ConfigError, match="start first"):
        summary(MATRIX[1:])


# ---------------------------------------------------------------- a stream from the data


def picture(uid: str, **extras: str) -> Sample:
    image = ArrayImage(np.full((4, 4, 3), hash(uid) % 200, np.uint8), uid)
    return Sample(uid, image, (Text(f"thing {uid}", "en"),), extras=extras)


def pool() -> Pool:
    domains = ["b", "a", "c", "a", "b", "c", "b"]
    return Pool.from_samples([picture(f"u{n}", domain=domain, half="x" if n < 3 else "y") for n, domain in enumerate(domains)])


def test_tasks_come_from_a_column_whatever_the_order_of_the_rows() -> None:
    data = pool()
    stream = stream_of(data, ("task", "domain"))
    assert stream == TaskStream("domain", (("a",), ("b",), ("c",)))
    assert stream_of(data.select([6, 5, 4, 3, 2, 1, 0]), ("task", "domain")) == stream
    assert [stream.task_of(data[row]) for row in range(7)] == [1, 0, 2, 0, 1, 2, 1]
    assert stream_of(data, ("domain",), order=("c", "a")).values == (("c",), ("a",))


def test_values_can_share_a_task_and_none_is_lost() -> None:
    for count in (1, 2, 3, 9):
        values = stream_of(pool(), ("domain",), at_most=count).values
        assert len(values) == min(count, 3)
        assert [value for task in values for value in task] == ["a", "b", "c"]


def test_a_column_that_is_not_there_says_what_is() -> None:
    with pytest.raises(DataError, match=r"no column task or year in every row.*domain, half"):
        stream_of(pool(), ("task", "year"))
    with pytest.raises(UnknownName, match="domain"):
        stream_of(pool(), ("domain",), order=("a", "d"))


def test_a_stream_survives_its_file(tmp_path: Path) -> None:
    stream = stream_of(pool(), ("domain",))
    stream.write(tmp_path)
    assert TaskStream.read(tmp_path / "stream.json") == stream
    with pytest.raises(ConfigError, match=r"stream\.json"):
        TaskStream.read(tmp_path / "elsewhere")


# ---------------------------------------------------------------- models whose answers are known


class Knows:
    """Finds everything of the tasks that it knows and nothing of the others (whose texts point away from all images)."""

    def __init__(self, data: Pool, stream: TaskStream, known: set[int]) -> None:
        self.name, self.fingerprint = f"knows {sorted(known)}", str(sorted(known))
        self.place = {uid: row for row, uid in enumerate(data.uids)}
        self.known = {uid for uid, row in self.place.items() if stream.task_of(data[row]) in known}

    def embed_images(self, images, *, batch_size: int = 64):  # type: ignore[no-untyped-def]
        return self._rows([image.name for image in images], 1.0)

    def embed_texts(self, texts, *, batch_size: int = 256):  # type: ignore[no-untyped-def]
        return self._rows([text.removeprefix("thing ") for text in texts], -1.0)

    def _rows(self, uids: list[str], unknown: float) -> np.ndarray:
        rows = np.zeros((len(uids), len(self.place)), np.float32)
        for row, uid in enumerate(uids):
            rows[row, self.place[uid]] = 1.0 if uid in self.known else unknown
        return rows


def scored(*known: set[int]) -> dict[str, float]:
    data = pool()
    stream = stream_of(data, ("domain",))
    task = Continual()
    result = task.score(task.records([Knows(data, stream, k) for k in known], stream, data))
    assert {name for name, metric in result.metrics.items() if not metric.higher_is_better} == {"forgetting", "union_loss"}
    return {name: metric.value for name, metric in result.metrics.items()}


def test_a_tasks_own_gallery_holds_no_other_task() -> None:
    """A model that cannot tell the n-th thing of one task from the n-th of another is perfect in each and not in all of them."""
    data = pool()
    stream = stream_of(data, ("domain",))
    model = Knows(data, stream, {0, 1, 2})
    seen = [0, 0, 0]
    for row in range(len(data)):
        task = stream.task_of(data[row])
        model.place[data.uids[row]] = seen[task]
        seen[task] += 1
    task = Continual()
    found = task.score(task.records([model] * 4, stream, data)).metrics
    assert all(found[f"r[3,{number}]"].value == 1 for number in (1, 2, 3))
    assert found["union"].value < 0.6


def test_a_model_that_keeps_everything_forgets_nothing() -> None:
    found = scored(set(), {0}, {0, 1}, {0, 1, 2})
    assert found["average"] == found["union"] == 1
    assert found["forgetting"] == found["backward"] == found["union_loss"] == 0
    assert (found["r[1,1]"], found["r[0,1]"]) == (1, 0)


def test_a_model_that_knows_the_last_task_only_forgets_all() -> None:
    found = scored(set(), {0}, {1}, {2})
    assert found["average"] == pytest.approx(1 / 3)
    assert (found["forgetting"], found["backward"]) == (1, -1)
    assert found["union"] == pytest.approx(2 / 7), "two of the seven samples are of the last task"
    assert found["union_r@10"] == 1, "fewer than ten"
    assert found["union"] <= found["union_r@5"] < 1
    assert found["union_mean"] == pytest.approx((found["union"] + found["union_r@5"] + found["union_r@10"]) / 3)
    assert found["union_loss"] == pytest.approx(((1 - 0) + (3 / 5 - 0) + 0) / 3)


def test_the_models_of_a_run_are_asked_for(tmp_path: Path) -> None:
    data = pool()
    stream = stream_of(data, ("domain",))
    model = Knows(data, stream, set())
    with pytest.raises(ConfigError, match=r"task 'continual' asks for snapshots: .* \(expected --snapshots FOLDER\)"):
        evaluate(Continual(), model, data)
    with pytest.raises(ConfigError, match="has no role judge"):
        evaluate(Continual(), model, data, others={"judge": model})
    with pytest.raises(ConfigError, match="for its snapshots needs a model that is an Embedder"):
        evaluate(Continual(), model, data, others={"snapshots": [object()]})
    with pytest.raises(ConfigError, match=r"--stream RUN/snapshots/stream\.json"):
        evaluate(Continual(), model, data, others={"snapshots": [model]})
    stream.write(tmp_path)
    task = Continual(stream=str(tmp_path / "stream.json"))
    with pytest.raises(ConfigError, match="1 snapshots"):
        evaluate(task, model, data, others={"snapshots": [model]})
    with pytest.raises(ConfigError, match="got \\[\\]"):
        evaluate(task, model, data, others={"snapshots": tmp_path})
    known = [Knows(data, stream, set(range(count))) for count in range(4)]
    with pytest.raises(ConfigError, match="is not the model that is evaluated"):
        evaluate(task, model, data, others={"snapshots": known})
    result = evaluate(task, known[-1], data, others={"snapshots": known})
    assert [one["name"] for one in result.notes["roles"]["snapshots"]] == [one.name for one in known]
