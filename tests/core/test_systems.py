"""The table of systems: complete, unambiguous, honest about what is built."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diptych.core import systems
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.registry import RECIPES


def test_all_82_systems_stand_in_the_table_once() -> None:
    names = [system.slug for system in systems.SYSTEMS]
    assert len(names) == len(set(names)) == 82
    entries = [system.entry for system in (*systems.SYSTEMS, *systems.BASELINES)]
    assert len(entries) == len(set(entries))


@pytest.mark.parametrize("system", [*systems.SYSTEMS, *systems.BASELINES], ids=lambda s: s.slug)
def test_entry_points_follow_one_pattern(system: systems.System) -> None:
    module, _, name = system.entry.partition(":")
    root, room, *family, file = module.split(".")
    assert len(family) == (room in {"recipes", "curate", "tasks"}), "a system lies in the folder of its family"
    assert root == "diptych"
    assert room == system.room in {"recipes", "curate", "tasks", "pipelines", "worlds"}
    assert file == system.slug
    assert name.isidentifier()


@pytest.mark.parametrize("system", [s for s in (*systems.SYSTEMS, *systems.BASELINES) if s.built], ids=lambda s: s.slug)
def test_built_systems_can_be_loaded(system: systems.System) -> None:
    assert system.load().slug == system.slug


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("fillip", "filip"), ("clipp", "clip"), ("RLIPv3", "rlipv2"), ("sigllip", "siglip"), ("dream-lip", "dreamlip")],
)
def test_near_matches_come_from_all_systems_and_baselines(wrong: str, right: str) -> None:
    with pytest.raises(UnknownName, match=f"unknown recipe '{wrong}'; did you mean '{right}'"):
        RECIPES.find(wrong)


def test_dashes_and_capitals_are_forgiven() -> None:
    assert systems.find("RAD-DINO").slug == "rad_dino"


def test_a_system_of_another_room_says_where_it_lives() -> None:
    with pytest.raises(ConfigError, match="is not a recipe: it lives in curate/"):
        RECIPES.find("metaclip")


def test_a_system_that_is_not_built_says_so() -> None:
    unbuilt = next(s for s in systems.SYSTEMS if not s.built)
    with pytest.raises(ConfigError, match="not built yet"):
        unbuilt.load()
    assert not unbuilt.works
    assert unbuilt.missing


def test_the_computed_state_is_up_to_date() -> None:
    script = Path(__file__).parents[2] / "scripts/make_systems.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
