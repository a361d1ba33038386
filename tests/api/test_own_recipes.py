"""A recipe in a file of one's own, by its name everywhere; and a run folder that names a program is not believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import diptych as dp
from diptych import api
from diptych.cli import main
from diptych.comparisons import job
from diptych.core.errors import ConfigError, RunError
from diptych.core.run_folder import RunFolder
from diptych.worlds.address import open_data, with_held_out

FILE = '''
from dataclasses import dataclass
from diptych.recipes.contrastive.clip import CLIP
from helper_of_mine import FACTOR

@dataclass(frozen=True, kw_only=True)
class Warm(CLIP):
    """A CLIP whose loss counts twice.

    factor  by how much
    """

    slug = "warm"
    factor: float = FACTOR

    def losses(self, features, batch):
        return {name: self.factor * loss for name, loss in super().losses(features, batch).items()}

thing = 3
'''
WORLD = "world:scenes?n=16&test=8"
TINY = ["--steps", "1", "--batch-size", "4", "--width", "16"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "helper_of_mine.py").write_text("FACTOR = 2.0\n")
    return tmp_path / "mine.py"


@pytest.mark.parametrize("first", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["positional", "--recipe"])
def test_it_trains_resumes_evaluates_and_compares(
    first: bool, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = job.run_apart

    def only_the_file_apart(cell: job.Job, say: Any) -> Any:
        """A process of its own has to find the file; for the packaged recipe it has nothing to show."""
        return job.run_job(cell, with_held_out(open_data(WORLD))) if cell.arm == "clip" else apart(cell, say)

    monkeypatch.setattr(job, "run_apart", only_the_file_apart)
    words, out = f"{file}:Warm", str(tmp_path / "run")
    lead = ["train", words] if first else ["train", "--recipe", words]
    assert main([*lead, "--data", WORLD, "--out", out, "--factor", "3", *TINY]) == 0
    run = RunFolder.open(Path(out))
    assert run.state["recipe"] == words
    assert api.training.recipe_of(run).factor == 3.0  # type: ignore[attr-defined]
    assert main(["train", "--resume", out, "--steps", "2"]) == 0
    assert main(["eval", out, "retrieval", "--data", WORLD]) == 0
    assert main(["report", out]) == 0
    compared = dp.compare(
        ["clip", f"{words}:factor=1.5"], WORLD, seeds=1, budget="steps:1", out=tmp_path / "c", batch_size=4, width=16
    )
    assert not compared.measured.failures


def test_a_run_from_elsewhere_carries_out_nothing(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = api.train(f"{file}:Warm", WORLD, tmp_path / "run", steps=1, batch_size=4, width=16, progress=False)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'witness')!r}, 'w')")
    run.write_state(recipe=f"{tmp_path / 'evil.py'}:Warm")
    with pytest.raises(RunError, match="a program that was not used on this machine before"):
        api.evaluate_run(run)
    assert not (tmp_path / "witness").exists()
    run.write_state(recipe=f"{file}:Warm")
    assert api.evaluate_run(run)
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "another"))
    with pytest.raises(RunError, match=r"run `diptych train .*mine\.py:Warm --help` once"):
        api.resume(run.path, steps=2)


def test_what_is_no_recipe_is_named(file: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    for words, reason in (
        (f"{tmp_path / 'none.py'}:Warm", r"none\.py does not exist \(expected FILE\.py:CLASS"),
        (f"{file}:Wram", "has no 'Wram'"),
        (f"{file}:thing", "'thing' of .* is not a recipe"),
        (f"{tmp_path / 'broken.py'}:Warm", "cannot be carried out: ZeroDivisionError"),
    ):
        with pytest.raises(ConfigError, match=reason):
            api.recipe(words)
