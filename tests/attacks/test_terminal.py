"""What captions and names can do to the terminal of whoever looks at them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diptych as dp
from diptych.cli import main
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool

NASTY = "a red bus\x1b]0;owned\x07\x1b[2J\u202egpj.exe\x9b31m"
SPELLED = "a red bus\\x1b]0;owned\\x07\\x1b[2J\\u202egpj.exe\\x9b31m"
ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nasty") / "index"
    pool = Pool.from_samples([Sample(NASTY, None, (Text(NASTY),)), Sample("b", None, (Text("a green tree"),))])
    dp.index("words", pool, folder, kind="lexical", progress=False).close()
    return folder


def test_search_shows_captions_and_uids_spelled_out(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(index), "red bus"]) == 0
    shown = capsys.readouterr().out
    assert SPELLED in shown
    assert not ACTIVE.search(shown)


def test_json_holds_what_the_data_hold_and_still_acts_on_nothing(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(index), "red bus", "--json"]) == 0
    line = capsys.readouterr().out.rstrip("\n")
    assert not ACTIVE.search(line)
    assert json.loads(line)["hits"][0]["uid"] == NASTY


def test_errors_spell_out_what_they_quote(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(index), "red", "--where", f"{NASTY}=1"]) != 0
    shown = capsys.readouterr().err
    assert "\\x1b]0;owned" in shown
    assert not ACTIVE.search(shown)


def test_inspection_shows_captions_spelled_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        Image.fromarray(np.full((8, 8, 3), 60 * number, np.uint8)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(NASTY, encoding="utf-8")
    assert main(["data", "inspect", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "owned" in said.out
    assert not ACTIVE.search(said.out + said.err)
