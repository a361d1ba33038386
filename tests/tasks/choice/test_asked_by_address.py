"""Multiple choice asked of a model behind an address: what is kept, counted, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import diptych as dp
from diptych.cli import main
from diptych.core.errors import RunError

from ...text_server import Server, said, server

__all__ = ["server"]


def letters(number: int, body: Any) -> Any:
    return said("ABCD"[len(str(body["messages"])) % 2], chat=True)


def test_a_run_is_counted_goes_on_and_is_known_the_second_time(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    address = f"openai:{server.address}#tiny?calls=2&patience=0&price_read=1"
    task = ["multiple_choice", "--data", "world:questions?n=60", "--split", "test", "--no-blind", "--orders", "2"]
    server.behave = lambda number, body: letters(number, body) if number < 7 else (503, {}, b"away")
    with pytest.raises(RunError, match=r"refused: HTTP 503 'away'\. What was answered is kept"):
        dp.evaluate(address, "multiple_choice", "world:questions?n=60", split="test", blind=False, orders=2)
    server.behave = letters
    assert main(["eval", address, *task]) == 0
    first = capsys.readouterr().out
    assert "looked up 7, failed 0" in first
    assert ", cost 0.00" in first
    before = len(server.asked)
    assert main(["eval", address, *task]) == 0
    again = capsys.readouterr().out
    assert "asked 0, looked up" in again
    assert len(server.asked) == before
    assert first.splitlines()[:5] == again.splitlines()[:5]


def test_a_server_that_answers_html_is_one_line(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path))
    server.behave = lambda number, body: (200, {}, b"<html><body>It works!</body></html>")
    assert main(["eval", f"openai:{server.address}#tiny", "multiple_choice", "--data", "world:questions?n=60"]) != 0
    said = capsys.readouterr()
    (line,) = said.err.strip().splitlines()
    assert "malformed: no choice with a text in '<html><body>It works!" in line
    assert "expected a server of chat completions" in line
