"""The table of systems: complete, unambiguous, honest about what is built."""

from __future__ import annotations

import dataclasses
import runpy
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from diptych.cli import main
from diptych.core import systems
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.registry import RECIPES


def table_problems(rows: Sequence[systems.System]) -> list[str]:
    """Slugs and entries that stand in the table twice, and rows that are gone: the table grows and never loses a system."""
    names, entries = [row.slug for row in systems.SYSTEMS], [row.entry for row in rows]
    twice = [name for name, count in Counter([*names, *entries]).items() if count > 1]
    return [*twice, *(["systems are gone"] if len(names) < 82 else [])]


def test_all_systems_stand_in_the_table_once() -> None:
    assert table_problems([*systems.SYSTEMS, *systems.BASELINES]) == []


def test_an_83rd_system_is_counted_by_the_command_and_fails_no_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new = systems.System("new_clip", "NewCLIP", "objectives", "diptych.recipes.contrastive.new_clip:NewCLIP")
    count = len(systems.SYSTEMS)
    monkeypatch.setattr(systems, "SYSTEMS", (*systems.SYSTEMS, new))
    assert table_problems([*systems.SYSTEMS, *systems.BASELINES]) == []
    assert follows_the_pattern(new)
    assert main(["systems"]) == 0
    assert f"{count + 1} systems: " in capsys.readouterr().out
    assert f"one of the {count + 1} systems but is not built yet" in new.not_built
    monkeypatch.setattr(systems, "SYSTEMS", systems.SYSTEMS[:81])
    assert table_problems([*systems.SYSTEMS, *systems.BASELINES]) == ["systems are gone"]
    assert table_problems([systems.SYSTEMS[0], systems.SYSTEMS[0]])[0] == systems.SYSTEMS[0].entry


def follows_the_pattern(system: systems.System) -> bool:
    """Its entry point lies in the room and the folder of its family, in a file of its slug."""
    module, _, name = system.entry.partition(":")
    root, room, *family, file = module.split(".")
    return (
        len(family) == (room in {"recipes", "curate", "tasks"})
        and root == "diptych"
        and room == system.room in {"recipes", "curate", "tasks", "pipelines", "worlds"}
        and file == system.slug
        and name.isidentifier()
    )


def test_entry_points_follow_one_pattern() -> None:
    assert [system.slug for system in (*systems.SYSTEMS, *systems.BASELINES) if not follows_the_pattern(system)] == []
    astray = systems.System("new_clip", "NewCLIP", "objectives", "diptych.recipes.new_clip:NewCLIP")
    assert not follows_the_pattern(astray)


def test_built_systems_can_be_loaded() -> None:
    found = {system.slug: system.load().slug for system in (*systems.SYSTEMS, *systems.BASELINES) if system.built}
    assert [slug for slug, loaded in found.items() if loaded != slug] == []


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
    unbuilt = systems.System("new_clip", "NewCLIP", "objectives", "diptych.recipes.contrastive.new_clip:NewCLIP")
    with pytest.raises(ConfigError, match="not built yet"):
        unbuilt.load()
    assert not unbuilt.works
    assert unbuilt.missing


@pytest.mark.parametrize("asked", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "commands answer"])
def test_the_computed_state_is_up_to_date(
    asked: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every system's command is asked for its help in the slow run alone; the contract of recipes makes the options of each as well."""
    script = Path(__file__).parents[2] / "scripts/make_systems.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--check"])
    check = runpy.run_path(str(script))["main"]
    if not asked:
        check.__globals__["answers"] = lambda system: True
    assert check() == 0, capsys.readouterr().out


def test_one_system_says_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Purpose, paper and command, read without importing the system."""
    assert main(["systems", "clip"]) == 0
    lines = capsys.readouterr().out.splitlines()
    purpose = "CLIP: a dual encoder trained to match every image with its text among all texts of the batch."
    assert lines[1].split(maxsplit=1) == ["for", purpose]
    assert lines[2].split() == ["paper", "https://arxiv.org/abs/2103.00020"]
    assert lines[3].endswith("diptych train clip --data DATA --out runs/clip")
    assert main(["systems", "laion"]) == 0  # no recipe: nothing is trained
    assert "diptych train" not in capsys.readouterr().out


@pytest.mark.parametrize("slug", ["medslip", "clip"])
def test_fields_of_a_system_are_options_of_its_training(slug: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["systems", slug]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  fields"))
    shown = line.removeprefix("  fields  ").partition(";")[0].split(", ")
    assert set(shown) <= {each.name for each in dataclasses.fields(RECIPES.load(slug))}
