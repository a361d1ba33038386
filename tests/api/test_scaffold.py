"""Packages of `diptych new`: their own tests pass, their code is that of the page, bad names are refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from diptych.api.scaffold import TEMPLATES, new_package
from diptych.cli import main
from diptych.core.errors import ConfigError, UnknownName

PAGE = Path(__file__).parents[2] / "docs/add-a-system.md"
ENTRY = re.compile(r'\[project.entry-points."(.*?)"\]\n(.*)\n')


def installed(folder: Path, name: str) -> Path:
    """Entry points as pip leaves them, in the package's src."""
    group, line = ENTRY.findall((folder / "pyproject.toml").read_text(encoding="utf-8"))[0]
    info = folder / f"src/{name}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[{group}]\n{line}\n".replace('"', ""), encoding="utf-8")
    return folder / "src"


@pytest.mark.parametrize(
    "kind", [kind if kind == "operator" else pytest.param(kind, marks=pytest.mark.slow) for kind in TEMPLATES]
)
def test_the_tests_of_a_new_package_pass(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "own"
    assert main(["new", kind, "word_order", "--out", str(folder)]) == 0
    assert "pip install -e" in capsys.readouterr().out
    source = installed(folder, "word_order")
    path = os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder / "tests")],
        capture_output=True, text=True, check=False, cwd=folder, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    for text in folder.rglob("*.py"):
        assert TEMPLATES[kind].type_name not in text.read_text(encoding="utf-8")
        assert TEMPLATES[kind].slug not in text.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", list(TEMPLATES))
def test_the_page_quotes_the_template(kind: str) -> None:
    text = resources.files("diptych.api").joinpath("templates", f"{kind}.py.txt").read_text(encoding="utf-8")
    assert text.strip() in PAGE.read_text(encoding="utf-8")


def test_bad_names_and_folders_are_refused(tmp_path: Path) -> None:
    for name in ("Word", "word order", "class", "../up", ""):
        with pytest.raises(ConfigError, match="expected lower case"):
            new_package("task", name, tmp_path / "a")
    with pytest.raises(ConfigError, match="there is a system 'clip' already"):
        new_package("system", "clip", tmp_path / "a")
    with pytest.raises(UnknownName, match="known: operator, system, task"):
        new_package("recipe", "mine", tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    with pytest.raises(ConfigError, match="is not empty"):
        new_package("task", "mine", tmp_path / "full")
    assert not (tmp_path / "a").exists()
