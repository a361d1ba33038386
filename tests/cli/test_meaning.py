"""Every field has its meaning: of each recipe, curation step, task and pipeline, and of what every training takes."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import pytest

from diptych.cli.options.meaning import documented
from diptych.core.contracts.tuning import Tuning
from diptych.core.registry import OPERATORS, PIPELINES, RECIPES, TASKS
from diptych.recipes.alignment.rlaif_v import RLAIFV
from diptych.recipes.alignment.stic import STIC
from diptych.recipes.contrastive.tips import TIPS
from diptych.train.options import TrainOptions


@dataclass
class Layered:
    """A thing.

    hidden       width of the layer; hidden_other that of its output
    steps, rate  of all of it
    odd_long_one of one space
    weight_...   of the terms
    """

    hidden: int = 0
    hidden_other: int = 0
    steps: int = 0
    rate: int = 0
    odd_long_one: int = 0
    weight_a: int = 0
    weight_b: int = 0
    seed: int = 0
    untold: int = 0


def test_entries_of_all_forms_are_read() -> None:
    found = documented(Layered)
    assert found["hidden_other"] == "that of its output"
    assert found["steps"] == found["rate"] == "of all of it"
    assert found["odd_long_one"] == "of one space"
    assert found["weight_a"] == found["weight_b"] == "of the terms"
    assert found["seed"], "means the same everywhere"
    assert "untold" not in found
    assert "draws" not in found, "no field of this one"


def test_an_own_entry_stands_before_a_mention_in_the_sentence_of_another() -> None:
    for kind in (RLAIFV, STIC):
        help_texts = documented(kind)
        assert help_texts["small_steps"] == "training steps of the small language model, 100 passes over its rows at most"
        assert help_texts["small_image_steps"].startswith("training steps of the small image encoder")
    assert documented(STIC)["answer_lr"] == "highest learning rate of the second stage"
    assert "widths of the inner layers" in documented(TIPS)["head_hidden"]


@pytest.mark.parametrize("registry", [RECIPES, OPERATORS, TASKS, PIPELINES], ids=["recipes", "operators", "tasks", "pipelines"])
def test_every_field_is_documented(registry: Any) -> None:
    untold = []
    for slug in registry:
        made = registry.load(slug)
        kind = made if isinstance(made, type) else type(made)
        if is_dataclass(kind):
            told = documented(kind)
            untold += [(slug, item.name) for item in fields(kind) if not item.metadata.get("prepared") and item.name not in told]
    assert untold == []


@pytest.mark.parametrize("kind", [TrainOptions, Tuning])
def test_what_every_training_takes_is_documented(kind: Any) -> None:
    assert {item.name for item in fields(kind)} <= {*documented(kind)}
