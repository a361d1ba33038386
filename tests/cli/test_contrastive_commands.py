"""Contrastive recipes from the command line, on emoji and on rendered scenes; a missing text names what makes it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from diptych.cli import main
from diptych.data.read import read
from diptych.data.shards.build import build

SHORT = ("--steps", "2", "--batch-size", "8", "--no-evaluation", "--no-progress", "--json")


@pytest.fixture(scope="module")
def few_emoji(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of 96 emoji: what is looked at before training takes seconds of processor time for all 7,000."""
    folder = tmp_path_factory.mktemp("few") / "emoji"
    build(read("emoji").split("train")[:96], folder)
    return str(folder)


@pytest.mark.parametrize("data", ["few emoji", "world:scenes?n=24"])
@pytest.mark.parametrize("slug", ["align", "alip", "dreamlip", "mrl", "filip", "dcd"])
def test_trains_on_real_and_on_rendered_data(
    slug: str, data: str, few_emoji: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = few_emoji if data == "few emoji" else data
    assert main(["train", slug, "--data", address, "--out", str(tmp_path / "run"), *SHORT]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["status"], answer["step"]) == ("finished", 2)
    assert json.loads((tmp_path / "run/model/config.json").read_text())["name"] == slug


@pytest.mark.slow
def test_the_packaged_emoji_train_by_their_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "filip", "--data", "emoji", "--out", str(tmp_path / "run"), *SHORT]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "finished"


def test_the_command_that_an_error_names_makes_what_was_missing(
    few_emoji: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Emoji have no text of origin "synthetic"."""
    captions = str(tmp_path / "captions")
    words = ["train", "alip", "--synthetic", "synthetic", "--data", few_emoji, "--out", str(tmp_path / "run"), *SHORT]
    assert main(words) == 1
    problem = json.loads(capsys.readouterr().out)["error"]
    named = re.search(r"`diptych (curate \w+) DATA FOLDER` and pass --captions FOLDER", problem)
    assert named, problem
    assert main([*shlex.split(named[1]), few_emoji, captions]) == 0
    capsys.readouterr()
    assert main([*words, "--captions", captions]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "finished"
