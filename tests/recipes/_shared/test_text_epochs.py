"""Epochs whose rows are texts: the steps of released fine-tunings, whose lists have a row for each caption, question or statement."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import pytest

from diptych.core.errors import ConfigError
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.recipes.domains.plip_person import PLIPPerson
from diptych.recipes.grounding.fiber import FIBER
from diptych.recipes.grounding.fiber_cider import FIBERCider
from diptych.recipes.grounding.fiber_statements import FIBERStatements
from diptych.train.options import TrainOptions
from diptych.train.stages import total_steps

CAPTIONS = (("a dog", "a dog", "a cat"), ("a bird",), ("a cow", "the cow", "one cow", "cows", "a cow"))
ASKED = (("red", "red"), ("blue", "red", "mauve"), ("blue", "mauve"))
SMALL: dict[str, Any] = {"tokenizer": "data", "pieces": 300, "batch_size": 4}


def rows() -> Pool:
    """Pictures with 3, 1 and 5 captions, of which 2, 1 and 4 differ, and with 2, 3 and 2 questions, of which one reads twice."""
    samples = []
    for number, (captions, answers) in enumerate(zip(CAPTIONS, ASKED, strict=True)):
        asked = [{"question": "what is it?", "answer": answer} for answer in answers]
        texts = (*map(Text, captions), Text("a horse", origin="negative"))
        samples.append(Sample(str(number), group=str(number), texts=texts, extras={"questions": asked}))
    return Pool.from_samples(samples)


def steps(recipe: Any) -> int:
    ready = recipe.prepare(rows())
    assert ready.prepare(rows()) == ready
    return total_steps(ready, rows(), TrainOptions())


@pytest.mark.parametrize("preset", ["retrieval", "retrieval_fused", "captions", "captions_gold"])
def test_captions_that_differ_are_the_rows_of_fibers_fine_tuning(preset: str) -> None:
    recipe = replace(getattr(FIBER, preset)(), **SMALL)
    assert steps(recipe) == math.ceil(10 * 7 / 4)
    assert steps(replace(recipe, counted="pictures")) == math.ceil(10 * 3 / 4)
    assert steps(replace(recipe, steps=3)) == 3


def test_questions_with_a_listed_answer_are_the_rows_of_fibers_answering() -> None:
    recipe = replace(FIBER.vqa(), **SMALL, answers_least=3)
    assert recipe.prepare(rows()).answers == ("red",)
    assert steps(recipe) == math.ceil(10 * 3 / 4)
    assert steps(replace(recipe, answers_least=1)) == math.ceil(10 * 7 / 4)


def test_the_other_stages_of_fiber_count_captions_and_statements() -> None:
    assert steps(replace(FIBERCider.paper(), **SMALL)) == math.ceil(10 * 7 / 4)
    assert steps(replace(FIBERStatements.paper(), **SMALL)) == math.ceil(5 * 7 / 4)


def test_captions_are_the_rows_of_plips_fine_tuning() -> None:
    recipe = replace(PLIPPerson.finetune(), **SMALL)
    assert steps(recipe) == math.ceil(30 * 9 / 4)
    ready = recipe.prepare(rows())
    assert (ready.persons, ready.optimiser().periods) == (("0", "1", "2"), 30.0)


def test_other_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="counted is 'words'"):
        replace(FIBER.retrieval(), **SMALL, counted=cast(Any, "words")).prepare(rows())
