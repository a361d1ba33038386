"""Planning: every domain's plan, what is refused, shared names, and trials as they are published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import unified_planning.shortcuts as up
from unified_planning.exceptions import UPProblemDefinitionError

import diptych as dp
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.data.planning.domains import CUT, DOMAINS, Action, Domain, domain_of
from diptych.data.planning.goals import Goal, goal_of, labels_of
from diptych.data.planning.planner import Plan, accepts, plan_for, symbol

PLANS = {
    ("contain", "egg", "pot"): ["pickup egg arm", "place egg arm pot"],
    ("contain", "cup", "hand"): ["pickup cup arm", "delivery cup arm hand"],
    ("cut", "apple", "knife"): ["pickup knife arm", "cut apple knife arm"],
    ("clean", "mug", "sink"): ["pickup mug arm", "dropoff mug arm sink", "toggle mug sink faucet"],
    ("cook", "bread", "toaster"): ["pickup bread arm", "dropoff bread arm toaster", "toggle bread toaster"],
    ("cook", "egg", "microwave"): [
        "open microwave arm",
        "pickup egg arm",
        "dropoff egg arm microwave",
        "close microwave arm",
        "toggle egg microwave",
    ],
}


@pytest.mark.parametrize("triple", PLANS)
def test_plans_of_all_domains(triple: tuple[str, str, str]) -> None:
    goal, seen = Goal(*triple), [*triple[1:], "faucet", "sponge", "Cell phone"]
    plan = plan_for(goal, seen)
    assert plan.steps is not None
    assert [" ".join(step) for step in plan.steps] == PLANS[triple]
    assert accepts(plan, goal, seen)
    assert not accepts(plan, goal, [triple[1]] if triple[2] != "hand" else [])
    assert not accepts(Plan(goal, (("pickup", "egg"),)), goal, seen)  # too few objects
    assert not accepts(Plan(goal, (("fly", "egg", "arm"),)), goal, seen)


def test_refusals_name_their_reason() -> None:
    assert plan_for(Goal("cook", "egg", "unknown"), ["egg"]).refusal == "the object is unknown"
    assert plan_for(Goal("cook", "egg", "pan"), ["pan"]).refusal == "there is no egg"
    nowhere = plan_for(Goal("cook", "egg", "toaster"), ["egg", "toaster"])  # a planner without a plan
    assert (nowhere.steps, nowhere.refusal) == (None, "no sequence of actions leads to it")
    assert nowhere.lines() == ["no plan for (cook egg toaster): no sequence of actions leads to it"]
    assert plan_for(Goal("clean", "cup", "sink"), ["cup", "sink", "faucet"], facts=["contains cup sink"]).steps == (
        ("toggle", "cup", "sink", "faucet"),
    )


def test_wrong_requests_are_one_line() -> None:
    with pytest.raises(ConfigError, match="no domain has the predicate 'fry'"):
        domain_of(Goal("fry", "egg", "pan"))
    with pytest.raises(UnknownName, match="unknown planner 'fast'"):
        plan_for(Goal("contain", "apple", "bowl"), ["apple", "bowl"], planner="fast")
    with pytest.raises(ConfigError, match="'cook egg pan' is not a fact of the domain 'cut'"):
        plan_for(Goal("cook", "egg", "pan"), ["egg", "pan"], domain=CUT)
    with pytest.raises(ConfigError, match="'carry cup' is not a fact"):
        plan_for(Goal("cook", "egg", "pan"), ["egg", "pan"], facts=["carry cup"])
    with pytest.raises(ConfigError, match="names 'oven'"):
        Action("bake", ("item",), ("free oven",), ())
    with pytest.raises(DataError, match="not a name of an object"):
        plan_for(Goal("cook", "egg", "pan"), ["egg", "pan", "7 (up)"])
    assert symbol("Cell phone") == "cell_phone"


def test_a_predicate_may_be_named_like_an_action() -> None:
    """unified-planning refuses it by itself; here it is planned, and the library's setting is as before."""
    environment = up.get_environment()
    assert environment.error_used_name
    problem = up.Problem("shared")
    problem.add_fluent(up.Fluent("cut"))
    with pytest.raises(UPProblemDefinitionError):
        problem.add_action(up.InstantaneousAction("cut"))
    assert plan_for(Goal("cut", "tomato", "knife"), ["tomato", "knife"]).steps is not None
    assert environment.error_used_name
    own = Domain("own", (Action("on", ("lamp",), ("off lamp",), ("on lamp lamp",), ("off lamp",)),), (), {"lamp": ("off",)})
    assert plan_for(Goal("on", "lamp", "lamp"), ["lamp"], domain=own).steps == (("on", "lamp"),)


def test_domains_agree_with_themselves() -> None:
    assert set(DOMAINS) == {"pick_and_place", "delivery", "cut", "clean", "cook"}
    assert DOMAINS["cook"].arities()["contains"] == 2
    twice = Domain("twice", (Action("a", ("x",), ("p x",), ("p x x",)),), (), {})
    with pytest.raises(ConfigError, match="has 1 and 2 parameters"):
        twice.arities()


def test_trials_as_published(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "clean_task" / "easy" / "0"
    folder.mkdir(parents=True)
    (folder / "natural_language.txt").write_text("Rinse the dirty cup.\n")
    (folder / "pddl_goal_state.txt").write_text("clean cup sink")
    things = [{"type": name} for name in ("SinkBasin", "Cup", "Faucet", "DishSponge", "Cup")]
    (folder / "transformations.json").write_text(json.dumps({"objects": things}))
    for path in (tmp_path / "data", tmp_path / "data" / "clean_task", folder.parent):
        pool = dp.data.read.read(str(path))
        assert len(pool) == 1
    sample = dp.data.read.read(str(tmp_path / "data"))[0]
    assert goal_of(sample) == Goal("clean", "cup", "sink")
    assert labels_of(sample) == ("sink", "cup", "faucet", "sponge")
    assert (sample.extras["task"], sample.extras["level"]) == ("clean_task", "easy")
    assert plan_for(goal_of(sample), labels_of(sample)).steps is not None
    (folder / "pddl_goal_state.txt").write_text("clean cup")
    with pytest.raises(DataError, match=r"pddl_goal_state.txt: is 'clean cup'"):
        dp.data.read.read(str(tmp_path / "data"))
