"""A run holds what it was made with, and goes on under changed code only when asked; moved files and classes of a session are found."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from diptych import api
from diptych.cli import main
from diptych.core.errors import RunError
from diptych.core.run_folder import RunFolder
from diptych.core.sources.closure import SOURCES
from diptych.core.sources.program import code_hash, local_files, same_syntax
from diptych.recipes.contrastive.clip import CLIP
from diptych.train.provenance import _hash_of, changed_modules, changed_packages, edited_fields, installed_packages, keep_config

WORLD = "world:scenes?n=16&test=8"
CALLS: list[str] = []
SMALL: dict[str, Any] = {"steps": 1, "batch_size": 4, "width": 16, "progress": False, "save_every": 0}
FILE = '''
from dataclasses import dataclass
from diptych.recipes.contrastive.clip import CLIP
from factor_of_mine import FACTOR

@dataclass(frozen=True, kw_only=True)
class Warm(CLIP):
    """A CLIP whose loss counts more."""

    slug = "warm_clip"

    def losses(self, features, batch):
        return {name: FACTOR * loss for name, loss in super().losses(features, batch).items()}
'''


@dataclass(frozen=True, kw_only=True)
class Mine(CLIP):
    """A class of a test file, without a slug of its own."""

    def losses(self, features: Any, batch: Any) -> dict[str, Any]:
        CALLS.append(type(self).__name__)
        return {name: 3 * loss for name, loss in super().losses(features, batch).items()}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "warm.py").write_text(FILE)
    (tmp_path / "factor_of_mine.py").write_text("FACTOR = 2.0\n")
    return tmp_path / "warm.py"


def test_a_run_folder_is_whole_and_edits_are_told(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = api.train(f"{file}:Warm", WORLD, tmp_path / "run", **SMALL)
    assert {path.name for path in run.source.iterdir()} == {"warm.py", "factor_of_mine.py", "modules.json", "config.yaml"}
    assert (run.source / "warm.py").read_text() == FILE
    assert any(line.startswith("torch==") for line in (run.path / "requirements.txt").read_text().splitlines())
    assert main(["run-info", str(run.path), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["recipe"] == f"{file}:Warm"
    assert info["fingerprint"] == run.state["data"]["fingerprint"]
    assert info["changed"] == []
    assert info["command"]
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    config["recipe"]["lr"] = 0.5
    (run.path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "--resume", str(run.path)]) == 0
    assert (
        "config.yaml was edited after the run began (recipe.lr 0.0008 -> 0.5), which changes nothing" in capsys.readouterr().err
    )
    assert main(["run-info", str(run.path)]) == 0
    assert "config.yaml: recipe.lr 0.0008 -> 0.5" in capsys.readouterr().out


def test_changed_code_is_refused_or_noted_and_a_moved_file_is_named(file: Path, tmp_path: Path) -> None:
    run = api.train(f"{file}:Warm", WORLD, tmp_path / "run", **SMALL)
    file.write_text(f"# a comment more\n{FILE}")
    again = api.resume(run.path, steps=2)
    assert not [line for line in again.metrics() if line["kind"] == "note" and "changed" in line["text"]]
    (tmp_path / "factor_of_mine.py").write_text("FACTOR = 4.0\n")
    with pytest.raises(RunError, match=r"factor_of_mine\.py changed since .*run began.*--changed-code, which the log notes"):
        api.resume(run.path, steps=3)
    assert run.state["step"] == 2
    again = api.resume(run.path, steps=3, changed_code=True)
    assert [line["text"] for line in again.metrics() if line["kind"] == "note" and "factor_of_mine.py changed" in line["text"]]
    (tmp_path / "factor_of_mine.py").write_text("FACTOR = 2.0\n")
    (tmp_path / "new").mkdir()
    for name in ("warm.py", "factor_of_mine.py"):
        shutil.move(tmp_path / name, tmp_path / "new" / name)
    moved = Path(shutil.move(run.path, tmp_path / "elsewhere"))
    with pytest.raises(
        RunError, match=r"which no longer exists: give its new path with --recipe FILE\.py, or use the copy.*source/warm\.py"
    ):
        api.resume(moved, steps=4)
    assert main(["train", "--resume", str(moved), "--steps", "4", "--recipe", str(tmp_path / "new/warm.py")]) == 0
    assert RunFolder(moved).state["recipe"] == f"{tmp_path / 'new/warm.py'}:Warm"
    assert RunFolder(moved).state["step"] == 4


def test_an_object_of_a_class_of_ones_own_goes_on_as_that_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))

    @dataclass(frozen=True, kw_only=True)
    class Inner(Mine):
        """A class that no file leads to."""

    run = api.train(Inner(**{**CLIP.tiny().__dict__, **{k: v for k, v in SMALL.items() if k in ("steps", "batch_size", "width")}}), WORLD,
                    tmp_path / "run", progress=False)  # fmt: skip
    assert run.state["slug"] == "clip"
    with pytest.raises(RunError, match=r"was trained with the class .*Inner of .*: give it"):
        api.resume(run.path, steps=2)
    again = api.resume(run.path, steps=2, recipe=Inner)
    assert again.state["step"] == 2
    assert CALLS == ["Inner", "Inner"]
    assert (run.source / Path(__file__).name).is_file()


def test_the_hash_of_code_follows_files_and_ignores_space(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("from two import f\n\n\ndef g():\n    return f()\n")
    (tmp_path / "two.py").write_text("def f():\n    return 1\n")
    assert {path.name for path in local_files([tmp_path / "one.py"])} == {"one.py", "two.py"}
    before = code_hash([CLIP], files=[tmp_path / "one.py"])
    (tmp_path / "two.py").write_text('"""Twos."""\n\n\ndef f():\n\n    return   1  # one\n')
    assert code_hash([CLIP], files=[tmp_path / "one.py"]) == before
    (tmp_path / "two.py").write_text("def f():\n    return 2\n")
    assert code_hash([CLIP], files=[tmp_path / "one.py"]) != before
    assert code_hash([CLIP]) != code_hash([Mine])
    assert same_syntax("x = 1", "x  =  1  # one")
    assert not same_syntax("x = 1", "x = 2")


def test_a_kept_hash_follows_the_file(tmp_path: Path) -> None:
    """Hashes are kept within a process; a file of the same size that is written later, and one that is gone, have others."""
    file = tmp_path / "one.py"
    file.write_text("x = 1\n")
    os.utime(file, ns=(10**9, 10**9))
    first = _hash_of(file)
    assert first == _hash_of(file) == hashlib.sha256(b"x = 1\n").hexdigest()[:12]
    file.write_text("x = 2\n")
    os.utime(file, ns=(10**9 + 1, 10**9 + 1))
    assert _hash_of(file) == hashlib.sha256(b"x = 2\n").hexdigest()[:12]
    file.unlink()
    assert _hash_of(file) == ""


def test_changed_packages_modules_and_fields_are_listed(tmp_path: Path) -> None:
    torch_now = metadata.version("torch")
    packages = {"torch": torch_now, "numpy": "0.1", "never-installed": "3"}
    folder: Any = SimpleNamespace(path=tmp_path, source=tmp_path / "source", state={"environment": {"packages": packages}})
    assert changed_packages(folder) == [f"numpy 0.1 -> {metadata.version('numpy')}", "never-installed 3 -> missing"]
    assert changed_modules(folder) == [], "a run of an earlier version kept none"
    assert edited_fields(folder) == []
    folder.source.mkdir()
    (tmp_path / "config.yaml").write_text("recipe: {lr: 0.1, betas: [0.9, 0.98], gone: 1}\n", encoding="utf-8")
    keep_config(folder)
    assert edited_fields(folder) == []
    (tmp_path / "config.yaml").write_text("recipe: {lr: 0.2, betas: [0.9, 0.98], new: x}\n", encoding="utf-8")
    assert edited_fields(folder) == ["recipe.lr 0.1 -> 0.2", "recipe.gone 1 -> None", "recipe.new None -> 'x'"]
    changed, own = "diptych/train/provenance.py", "diptych/train/fit.py"
    recipe = SOURCES / own
    folder.state["source_files"] = {"fit.py": str(recipe)}
    hashes = {changed: "0" * 12, own: "0" * 12, "diptych/train/gone.py": "0" * 12}
    (folder.source / "modules.json").write_text(json.dumps(hashes), encoding="utf-8")
    assert changed_modules(folder) == [changed]
    listed = installed_packages()
    assert listed == sorted(listed, key=lambda line: line.partition("==")[0])
    assert f"torch=={torch_now}" in listed
