"""The help of a recipe is made once and printed at once after that, until a file that it was made from is another."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from diptych.cli import main
from diptych.cli.options.cached_help import print_help


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "help"


def test_it_is_made_once(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made: list[str] = []

    def make() -> int:
        made.append("")
        print("the options")
        raise SystemExit(0)

    for _ in range(3):
        assert print_help(["train", "clip", "--help"], make) == 0
        assert capsys.readouterr().out == "the options\n"
    assert len(made) == 1
    print_help(["train", "siglip", "--help"], make)
    assert len(made) == 2, "other words, another help"


def test_it_is_made_again_when_a_file_changed_or_went(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a_module_of_this_test.py"
    source.write_text("FIELD = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def make() -> int:
        import a_module_of_this_test  # type: ignore[import-not-found]

        made.append(a_module_of_this_test.__name__)
        return 0

    for change in (None, "FIELD = 12\n", None):
        if change:
            source.write_text(change)
        print_help(["train", "clip", "--help"], make)
    assert len(made) == 2
    source.unlink()
    print_help(["train", "clip", "--help"], make)
    assert len(made) == 3
    del sys.modules["a_module_of_this_test"]


def test_help_that_failed_and_help_of_another_form_are_not_kept(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "fillip", "--help"]) == 2
    assert not cache.exists()
    assert print_help(["run", "x", "--help"], lambda: 0) == 0
    (file,) = cache.iterdir()
    file.write_text(json.dumps({"text": 1}))
    assert print_help(["run", "x", "--help"], lambda: print("again") or 0) == 0
    assert "again" in capsys.readouterr().out


def test_the_help_of_a_recipe_is_the_same_from_there(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for _ in range(2):
        assert main(["train", "clip", "--help"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert "--text-length" in said[0]
    assert len(list(cache.iterdir())) == 1
