"""Answers by line: a killed run goes on, another run's file is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.core.disk.line_log import LineLog
from diptych.core.errors import DataError, RunError


def test_a_cut_line_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with LineLog(path, {"model": "a"}) as log:
        for name in "xyz":
            log.write({"id": name, "text": f"of {name}"})
    whole = path.read_bytes()
    for cut in range(whole.rindex(b'{"id": "z"'), len(whole)):
        path.write_bytes(whole[:cut])
        with LineLog(path, {"model": "a"}) as log:
            assert [name in log for name in "xyz"] == [True, True, False], "a line counts when its end is there"
            log.write({"id": "z", "text": "of z"})
        assert path.read_bytes() == whole


def test_in_memory() -> None:
    with LineLog(None, {}) as log:
        log.write({"id": "x"})
        assert "x" in log


def test_another_run_and_another_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    LineLog(path, {"model": "a", "tries": 3}).__exit__(None, None, None)
    with pytest.raises(RunError, match=r"holds answers for model 'a', this run has 'b'"):
        LineLog(path, {"model": "b", "tries": 3})
    path.write_text('{"other": 1}\n')
    with pytest.raises(DataError, match="row 1: is not a file of answers"):
        LineLog(path, {"model": "a"})
    path.write_text("")
    with pytest.raises(DataError, match="contains no answers"):
        LineLog(path, {"model": "a"})
