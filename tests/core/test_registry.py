"""One form for everything that has a name: what is listed can be imported, and a package outside adds its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from warm_programs import run

from diptych.core import systems
from diptych.core.entries import Registry
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.registry import MODELS, OPERATORS, RECIPES, REGISTRIES, TASKS, WORLDS
from diptych.core.systems import System

MODULE = '''
from dataclasses import dataclass
from typing import ClassVar

from diptych.curate.duplicates.exact import ExactDuplicates
from diptych.recipes.contrastive.clip import CLIP
from diptych.tasks.pairs.retrieval import Retrieval


@dataclass(frozen=True)
class Warm(CLIP):
    """A recipe of another package."""

    slug: ClassVar[str] = "warm_clip"


@dataclass(frozen=True)
class Copies(ExactDuplicates):
    """A step of another package."""

    slug: ClassVar[str] = "copies"


@dataclass(frozen=True)
class Recall(Retrieval):
    """A task of another package."""
'''
POINTS = """
[diptych.recipes]
warm_clip = warm_package:Warm
[diptych.operators]
copies = warm_package:Copies
[diptych.tasks]
recall = warm_package:Recall
"""


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.group)
def test_every_name_can_be_imported_and_says_what_it_is(registry: Registry) -> None:
    assert registry
    for name, entry in registry.items():
        assert callable(registry.load(name))
        assert entry.about
        assert entry.package == ""


def test_near_matches_come_from_names_that_are_no_systems_too() -> None:
    for registry, wrong, right in (
        (RECIPES, "codebook_captoner", "codebook_captioner"),
        (OPERATORS, "near_duplicate", "near_duplicates"),
        (TASKS, "retreival", "retrieval"),
        (WORLDS, "scnes", "scenes"),
        (MODELS, "dual_encodr", "dual_encoder"),
    ):
        with pytest.raises(UnknownName, match=f"unknown {registry.kind} '{wrong}'; did you mean '{right}'"):
            registry.find(wrong)


def test_names_of_the_table_that_are_not_there_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = System("planned", "A planned system", "mllm", "diptych.recipes.bridges.planned:Planned")
    monkeypatch.setattr(systems, "rows", lambda: (*systems.SYSTEMS, planned))
    with pytest.raises(ConfigError, match=r"'planned' .* is not built yet"):
        RECIPES.find("planned")
    with pytest.raises(ConfigError, match=r"'clip' .* is not a task: it lives in recipes/"):
        TASKS.find("clip")


def install(site: Path, name: str, points: str, module: str = MODULE) -> None:
    """A distribution as pip leaves it: a module, and the folder that holds its entry points."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    (site / f"{name}.py").write_text(module, encoding="utf-8")


RUN = """
import json, sys
from diptych.cli import main
for words in json.loads(sys.argv[1]):
    if code := main(words):
        sys.exit(code)
"""


def diptych(site: Path, *commands: list[str]) -> subprocess.CompletedProcess[str]:
    """The commands one after the other, up to the first that fails, in a process that has the packages in `site`."""
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    return run("-c", RUN, json.dumps(commands), environment={**os.environ, "PYTHONPATH": path}, folder=site)


def test_a_package_outside_adds_a_recipe_an_operator_and_a_task(tmp_path: Path) -> None:
    install(tmp_path, "warm_package", POINTS)
    data, run = "world:scenes?n=12&size=32", str(tmp_path / "run")
    done = diptych(
        tmp_path,
        ["train", "warm-clip", "--data", data, "--out", run, "--steps", "1", "--batch-size", "4", "--no-evaluation"],
        ["train", "--resume", run],
        ["eval", run, "recall", "--data", data, "--split", "val", "--json"],
        ["curate", "copies", data, str(tmp_path / "curated")],
        ["curate", "--help"],
    )
    assert done.returncode == 0, done.stderr
    assert '"results"' in done.stdout
    assert "from the package warm_package" in done.stdout


def test_a_name_that_is_taken_and_a_package_that_is_broken_cost_one_line(tmp_path: Path) -> None:
    install(tmp_path / "taken", "copycat", "[diptych.recipes]\nclip = copycat:Warm\n")
    twice = diptych(tmp_path / "taken", ["train", "clip", "--data", "emoji", "--out", "run"])
    assert (twice.returncode, twice.stderr.count("\n")) == (2, 1)
    assert "recipe 'clip' is in the package 'copycat' and in 'diptych'" in twice.stderr
    install(tmp_path / "broken", "broken", "[diptych.recipes]\nlost = broken:Nothing\n", module="")
    lost = diptych(tmp_path / "broken", ["train", "lost", "--data", "emoji", "--out", "run"])
    assert (lost.returncode, lost.stderr.count("\n")) == (2, 1)
    assert "'lost' of the package 'broken' cannot be imported from broken:Nothing" in lost.stderr
