"""Arms of a comparison, and what is refused of them before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diptych.comparisons import job as cells
from diptych.core.contracts import Embedder, Recipe
from diptych.core.errors import ConfigError, RunError
from diptych.core.own_recipes import named_programs
from diptych.core.sources.program import code_hash
from diptych.models.io.open_address import require, require_deployed
from diptych.worlds.address import training_rows


@dataclass(frozen=True, slots=True)
class ComparedArm:
    """A side of a comparison: a recipe to train, or a model that is there and where it came from. Exactly one of the two. `named`: its
    name was chosen by hand."""

    name: str
    recipe: Recipe | None = None
    model: Embedder | None = None
    address: str = ""
    named: bool = False


def check_arms(arms: Sequence[ComparedArm]) -> None:
    """Refuse fewer than two arms, equal names, and recipes beside models."""
    if len(arms) < 2:
        raise ConfigError(f"a comparison needs two arms or more, got {len(arms)}")
    names = [arm.name for arm in arms]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"'{twice[0]}' is given twice (arms may differ in options: {twice[0]}:lr=1e-4)")
    trained = [arm.name for arm in arms if arm.model is None]
    if 0 < len(trained) < len(arms):
        ready = next(arm.name for arm in arms if arm.model is not None)
        raise ConfigError(
            f"'{trained[0]}' is a recipe and '{ready}' a model: compare recipes with recipes, or train first and compare run folders"
        )


def check_capabilities(arms: Sequence[ComparedArm], tasks: Sequence[str]) -> None:
    """Refuse an arm whose model cannot do a task, before anything is trained."""
    for task in map(cells.make_task, tasks):
        for arm in arms:
            if arm.recipe is not None:
                require_deployed(arm.recipe, task.needs, who=f"task '{task.name}'")
            else:
                require(arm.model, task.needs, who=f"task '{task.name}'")


def check_version(name: str, run_state: dict[str, Any], whole: Any) -> None:
    """Refuse a run folder that was trained on another version of the data, with both fingerprints."""
    trained_on, now = run_state.get("data", {}), training_rows(whole).fingerprint
    if trained_on and trained_on.get("fingerprint") != now:
        raise RunError(
            f"{name} was trained on '{trained_on.get('name')}' with fingerprint {trained_on.get('fingerprint')}; "
            f"'{whole.name}' has {now}: compare it on the data it was trained on"
        )


def arm_code(arm: ComparedArm, tasks: Sequence[str]) -> str:
    """Hash of all code that a cell of an arm reaches: recipe or model, training, evaluation."""
    kinds: list[type] = [type(cells.make_task(words)) for words in tasks]
    files = named_programs(arm.recipe) if arm.recipe is not None else []
    kinds.append(type(arm.recipe) if arm.recipe is not None else type(arm.model))
    return code_hash(kinds, modules=("diptych.comparisons.job",), files=[file for file, _ in files])
