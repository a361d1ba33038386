"""Boards get the numbers of the log, once, and a resumed run goes on with the same one. The libraries are stood in for: no account here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from toy import Toy, toy_pool

from diptych.core.errors import MissingExtra
from diptych.core.image import BytesImage
from diptych.data.media.decode import decode
from diptych.report.page import Section, figure, page, sheet
from diptych.report.pictures import data_uri
from diptych.train.fit import fit, resume
from diptych.train.options import TrainOptions
from diptych.train.trackers import publish

PLAIN: dict[str, Any] = {"save_every": 2, "log_every": 1, "progress": False, "precision": "fp32"}


class Stand(ModuleType):
    """What `wandb` and `mlflow` offer of what is used, which writes down what it was told."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.told: dict[int, dict[str, float]] = {}
        self.begun: list[Any] = []
        self.ended = 0
        self.statuses: list[str] = []
        self.params: dict[str, str] = {}

    def init(self, **options: Any) -> Any:
        self.begun.append(options)
        return SimpleNamespace(
            id="w1",
            log=lambda values, step: self.told.update({step: values}),
            finish=lambda exit_code: self.end_run(str(exit_code)),
        )

    def set_tags(self, values: dict[str, str]) -> None:
        self.tags = values

    def set_experiment(self, name: str) -> None:
        self.experiment = name

    def start_run(self, **options: Any) -> Any:
        self.begun.append(options)
        return SimpleNamespace(info=SimpleNamespace(run_id="m1"))

    def log_params(self, values: dict[str, str]) -> None:
        self.params |= values

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.told[step] = values

    def end_run(self, status: str) -> None:
        self.ended += 1
        self.statuses.append(status)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_numbers_reach_the_board_and_a_resumed_run_its_own(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(name)
    monkeypatch.setitem(sys.modules, name, stand)
    options = TrainOptions(**PLAIN, **{name: True})
    run = fit(Toy(steps=6, witness=str(tmp_path / "w"), stop_at=3), toy_pool(), tmp_path / "run", options)
    assert run.state["status"] == "stopped"
    assert stand.ended == 1
    resume(run.path, toy_pool(), kind=Toy)
    assert sorted(stand.told) == [1, 2, 3, 4, 5, 6]
    logged = {line["step"]: line["loss"] for line in run.metrics() if line["kind"] == "train"}
    assert {step: values["train/loss"] for step, values in stand.told.items()} == logged
    assert stand.statuses == (["0", "0"] if name == "wandb" else ["KILLED", "FINISHED"])
    again = stand.begun[1]
    assert (again.get("id"), again.get("run_id")) == (("w1", None) if name == "wandb" else (None, "m1"))
    if name == "mlflow":
        assert stand.params["recipe.steps"] == "6"


def test_without_the_package_the_run_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, package in (("wandb", "wandb"), ("mlflow", "mlflow-skinny")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtra, match=rf"needs the package '{package}'.*pip install"):
            fit(Toy(steps=2), toy_pool(), tmp_path / "run", TrainOptions(**PLAIN, **{name: True}))
        assert not (tmp_path / "run").exists()


class Refusing(Stand):
    """A store that takes nothing from a step on, as when its disk or its server is gone."""

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        if step >= 2:
            raise OSError("the store is read-only\nand more")
        super().log_metrics(values, step)


def test_a_board_that_fails_costs_the_board_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand = Refusing("mlflow")
    monkeypatch.setitem(sys.modules, "mlflow", stand)
    run = fit(
        Toy(steps=4), toy_pool(), tmp_path / "run", TrainOptions(**PLAIN, mlflow=True, board_tags=("first",), board_group="g")
    )
    assert run.state["status"] == "finished"
    assert [line["step"] for line in run.metrics() if line["kind"] == "train"] == [1, 2, 3, 4]
    assert sorted(stand.told) == [1]
    assert stand.tags == {"tag.first": "true", "group": "g"}
    error = capsys.readouterr().err
    assert error == "note: mlflow failed and is left out: OSError: the store is read-only\n"
    assert [line["text"] for line in run.metrics() if line["kind"] == "note" and "mlflow" in line["text"]]
    monkeypatch.setattr(stand, "start_run", lambda **options: 1 / 0)
    again = fit(Toy(steps=2), toy_pool(), tmp_path / "other", TrainOptions(**PLAIN, mlflow=True))
    assert again.state["status"] == "finished"
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_names_are_those_that_mlflow_takes_and_results_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand("mlflow")
    pages: list[str] = []
    monkeypatch.setattr(stand, "log_artifact", pages.append, raising=False)
    monkeypatch.setitem(sys.modules, "mlflow", stand)
    run = fit(Toy(steps=2), toy_pool(), tmp_path / "run", TrainOptions(**PLAIN, mlflow=True))
    page = tmp_path / "report.html"
    page.write_text("<p>failures</p>")
    publish(run, {"held_out/test/r@1": 0.5}, page, print)
    assert stand.told[2]["held_out/test/r at 1"] == 0.5
    assert pages == [str(page)]
    assert stand.begun[1]["run_id"] == "m1"
    assert stand.statuses == ["FINISHED", "FINISHED"]


def test_tensorboard_gets_the_pictures_of_failures(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = fit(Toy(steps=2), toy_pool(), tmp_path / "run", TrainOptions(**PLAIN, tensorboard=True))
    uris = [data_uri(np.full((8, 12, 3), value, np.uint8)) for value in (40, 200, 90)]
    right, *wrong = (sheet([figure(uri, "caption")]) for uri in uris)
    report = tmp_path / "report.html"
    report.write_text(page("Run", "", [Section("Examples", (right,)), Section("Failures", tuple(wrong))]))
    publish(run, {"held_out/test/r@1": 0.5}, report, print)
    read = event_accumulator.EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert sorted(read.Tags()["images"]) == ["failures/0", "failures/1"]
    for name, value in (("failures/0", 200), ("failures/1", 90)):
        (event,) = read.Images(name)
        shown_HWC = decode(BytesImage(event.encoded_image_string))
        assert shown_HWC.shape == (8, 12, 3)
        assert abs(int(shown_HWC.mean()) - value) <= 2
