"""Nouns check themselves when made, errors explain themselves, configuration round-trips."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core import contracts
from diptych.core.config import config_hash, from_plain, load_config, save_config, to_plain
from diptych.core.disk.files import atomic_folder, write_atomic
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.randomness import keyed_rng, keyed_seed
from diptych.core.result import Metric, Result
from diptych.core.run_folder import RunFolder
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region, Relation, SceneGraph


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    names: tuple[str, ...] = ("a",)


@dataclasses.dataclass(frozen=True)
class Outer:
    steps: int = 3
    inner: Inner = Inner()
    size: int | None = None
    words: str = dataclasses.field(default="", metadata={"prepared": True})


def test_data_error_names_file_row_field_and_what_would_work() -> None:
    error = DataError("caption is empty", file="pairs.csv", row=3, field="caption", expected="some text")
    assert str(error) == "pairs.csv, row 3, field 'caption': caption is empty (expected some text)"


def test_box_without_area_and_dangling_relation_are_refused() -> None:
    with pytest.raises(DataError, match="no area"):
        Region((5, 0, 5, 9), "line")
    with pytest.raises(DataError, match=r"row 0.*points at region 2.*expected 0\.\.0"):
        SceneGraph((Region((0, 0, 1, 1), "dot"),), (Relation(0, "on", 2),))


def test_negative_texts_are_never_positives() -> None:
    sample = Sample("u", texts=(Text("a dog", "en"), Text("ein Hund", "de"), Text("a cat", "en", "negative"), Text("dog")))
    assert [t.string for t in sample.positives("en")] == ["a dog", "dog"]
    assert len(sample.positives()) == 3
    with pytest.raises(DataError, match="unknown origin"):
        Text("x", origin="made up")  # type: ignore[arg-type]


@given(st.lists(st.integers() | st.text(max_size=5), min_size=1, max_size=4))
def test_keyed_randomness_depends_on_the_key_alone(key: list[int | str]) -> None:
    assert keyed_rng(*key).integers(2**60) == keyed_rng(*key).integers(2**60)
    assert keyed_seed(*key) == keyed_seed(*key) < 2**63
    assert keyed_rng(*key, "x").integers(2**60) != keyed_rng(*key, "y").integers(2**60)


def test_keyed_draws_are_those_of_philox_with_the_digest_as_its_key() -> None:
    digest = hashlib.blake2b(b"1\x1f2\x1fcat", digest_size=16).digest()
    plain = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    ours = keyed_rng(1, 2, "cat")
    assert ours.integers(2**60, size=5).tolist() == plain.integers(2**60, size=5).tolist()
    assert pickle.loads(pickle.dumps(ours)).normal() == plain.normal()


def test_keyed_randomness_is_the_same_in_another_process() -> None:
    code = "from diptych.core.randomness import keyed_rng; print(keyed_rng(1, 2, 'cat').integers(2**60))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(out) == keyed_rng(1, 2, "cat").integers(2**60)


def test_config_round_trip_and_hash(tmp_path: Path) -> None:
    value = Outer(steps=7, inner=Inner(0.5, ("x", "y")), size=4, words="learned from data")
    assert from_plain(Outer, json.loads(json.dumps(to_plain(value)))) == value
    assert config_hash(value) == config_hash(from_plain(Outer, to_plain(value))) != config_hash(Outer())
    save_config(tmp_path, {"recipe": value})
    assert "learned" not in (tmp_path / "config.yaml").read_text()
    assert from_plain(Outer, load_config(tmp_path)["recipe"]) == value


@pytest.mark.parametrize(
    ("plain", "problem"),
    [
        ({"step": 3}, r"unknown field of Outer 'step'; did you mean 'steps'"),
        ({"steps": "many"}, r"Outer.steps is 'many' \(expected int\)"),
        ({"steps": True}, r"Outer.steps is True \(expected int\)"),
        ({"inner": {"rate": "fast"}}, r"Inner.rate is 'fast' \(expected float\)"),
        ({"size": "big"}, r"Outer.size is 'big' \(expected int \| nothing\)"),
        ({"inner": {"names": ["x", 3]}}, r"Inner.names\[1\] is 3 \(expected str\)"),
    ],
)
def test_config_refuses_what_it_does_not_know(plain: dict[str, object], problem: str) -> None:
    with pytest.raises((ConfigError, UnknownName), match=problem):
        from_plain(Outer, plain)


def test_result_round_trip_keeps_missing_numbers() -> None:
    result = Result("retrieval", 1, "r@1", {"r@1": Metric(0.5, 0.4, 0.6), "r@5": Metric(0.7)}, 10, 5, notes={"ties": math.nan})
    plain = json.loads(json.dumps(result.to_json(), allow_nan=False))
    back = Result.from_json(plain)
    assert back.metrics["r@1"] == result.metrics["r@1"]
    assert math.isnan(back.metrics["r@5"].low)
    assert back.value == 0.5


def test_direction_belongs_to_the_metric_and_older_results_open() -> None:
    rank = Metric(3.0, higher_is_better=False, unit="rank")
    result = Result("x", 1, "medr", {"medr": rank, "r@1": Metric(0.5)}, 1, 1)
    assert not result.higher_is_better
    assert rank.better(4.0)
    assert not rank.better(3.0)
    assert not rank.better(2.0)
    assert Result.from_json(result.to_json()).metrics["medr"] == Metric(3.0, math.nan, math.nan, math.nan, False, "rank")
    older = {**result.to_json(), "higher_is_better": True, "metrics": {"medr": {"value": 3.0}}}
    assert Result.from_json(older).value == 3.0


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.txt", "old")

    def half_done() -> None:
        with atomic_folder(tmp_path / "folder") as work:
            (work / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half_done()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt"]
    with atomic_folder(tmp_path / "folder") as work:
        (work / "whole").write_text("1")
    with atomic_folder(tmp_path / "folder") as work:
        (work / "whole").write_text("2")
    assert (tmp_path / "folder" / "whole").read_text() == "2"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "folder"]


def test_run_folder_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", slug="clip", environment={})
    folder.metrics_file.write_text('{"step": 1}\n{"step": 2}\n{"step"')
    assert [line["step"] for line in folder.metrics()] == [1, 2]
    with pytest.raises(Exception, match="holds a run"):
        RunFolder.create(tmp_path / "run", slug="clip", environment={})
    folder.write_state(format=99)
    with pytest.raises(Exception, match="run format 99"):
        RunFolder.open(tmp_path / "run")
    with pytest.raises(Exception, match="is not a run folder"):
        RunFolder.open(tmp_path)


def test_an_error_is_one_line_whatever_it_quotes() -> None:
    from diptych.core.errors import DataError, ShapeError, UnknownName

    for error in (DataError("no column 'a\nb'", file="x\r\ny.csv"), ShapeError("a\nb"), UnknownName("task", "a\nb", ["ab"])):
        assert len(str(error).splitlines()) == 1
        assert "\\n" in str(error)


def test_former_names_of_the_contracts_still_open() -> None:
    with pytest.warns(DeprecationWarning, match="is GenerationOutput now"):
        former = getattr(contracts, "Written")  # noqa: B009
    assert former is contracts.GenerationOutput
    with pytest.raises(AttributeError, match="no attribute 'Writen'"):
        getattr(contracts, "Writen")  # noqa: B009
