"""ProVision's rows against as many captions: a bridge that is tuned on either answers questions about other scenes.

The language model before which the bridge stands has read captions and questions of a seed that no verdict draws, and the image encoder
has learned from captions; both are made once and shared by all arms and seeds. An image brings one row a step either way: its caption,
which names size, colour, shape and relation, or one of its questions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.bridges import PAIRS, SMOKE_STEPS
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.claims.training import opened, untrained
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.curate.programs import SINGLE
from diptych.curate.programs.graph import graph_of
from diptych.curate.programs.questions import Settings, write_turn
from diptych.data.text.question_answering.questions import FIELD
from diptych.recipes._shared.language.small_language import SmallLanguage, small_language
from diptych.recipes.bridges.instructblip import InstructBLIP
from diptych.tasks.generation.vqa import VQA
from diptych.worlds.rendered import RenderedDataset
from diptych.worlds.scenes.world import Split, scenes

SCENES, TESTED, SMOKE_ROWS, STEPS = 1000, 60, 24, 150
ELSEWHERE = 1
"""The seed of what the language model reads."""
PROGRAMS = ("graph_object", "graph_attribute")
ASKED, LENGTH = 2, 192
"""Questions of a program that an image brings, and tokens in which the language model reads them all one after the other."""


def asked(sample: Sample) -> Sample:
    """The sample with questions of the programs about its graph, descriptions of one element."""
    settings = Settings(elements=1)
    graph = graph_of(sample, settings.types)
    questions = []
    for name in PROGRAMS:
        rng = keyed_rng("provision claim", name, sample.uid)
        every = SINGLE[name].ask(graph, settings, rng)
        for row in rng.permutation(len(every))[:ASKED].tolist():
            turn = write_turn(every[row], rng, choices=False)
            questions.append({"question": turn.question, "answer": turn.answer, "kind": name})
    return replace(sample, extras={**sample.extras, FIELD: questions})


def drawn(split: Split, count: int, seed: int, cell: Cell, *, questions: bool) -> RenderedDataset:
    """Scenes of two things with a caption; with questions instead, or (for the language model) beside it."""
    rows = SMOKE_ROWS if cell.smoke else count
    data = scenes(rows, seed=seed, split=split, max_objects=2, lengths=("short",), paraphrases=0, negatives=False)
    return data.changed(asked, "asked by programs") if questions else data


@dataclass(frozen=True)
class QuestionTuned:
    """Learns from scenes of the cell's seed, by questions or by captions, and chooses the likeliest answer about others of that seed."""

    recipe: InstructBLIP
    questions: bool
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        elsewhere = drawn("train", SCENES, ELSEWHERE, cell, questions=True)
        steps = SMOKE_STEPS if cell.smoke else self.recipe.small_steps
        reader = SmallLanguage(steps=steps, pieces=self.recipe.pieces, language=self.recipe.language, length=LENGTH)
        host = small_language("", elsewhere, reader)
        recipe = replace(self.recipe, language_model=f"hf:{host}", image_weights=PAIRS)
        recipe = replace(recipe, small_image_steps=SMOKE_STEPS) if cell.smoke else recipe
        rows = drawn("train", SCENES, cell.seed, cell, questions=self.questions).remembering()
        model = (opened if self.learns else untrained)(recipe, rows, cell)
        task = VQA(how="mean", draws=1, blind=False)
        result = task.score(task.predict(model, drawn("test", TESTED, cell.seed, cell, questions=True)))
        return {name: metric.value for name, metric in result.metrics.items()}


def claims() -> tuple[Claim, ...]:
    small: dict[str, Any] = {"small_steps": 300, "small_image_steps": 300}
    tuned = replace(InstructBLIP.tiny(), **small, steps=STEPS, batch_size=32, requests=("Describe the picture.",))
    rates = around(tuned.lr)
    return (
        declare(
            slug="provision",
            sentence="A bridge that is tuned on questions of programs answers more questions about described objects than one "
            "that is tuned on as many captions",
            source="2412.07012: instruction data from scene graphs raise accuracy on questions about relations, attributes and depth",
            baseline=Arm("captions", QuestionTuned(tuned, questions=False), rates),
            method=Arm("questions", QuestionTuned(tuned, questions=True), rates),
            controls=(Arm("blind", QuestionTuned(replace(tuned, blind=True), questions=True)),),
            metric="accuracy",
            margins=0.05,
            equal_budget=("steps", "samples", "trained_parameters"),
            data=f"{SCENES:,} scenes of two things a seed, {TESTED} of the same seed to test, by programs that ask for a described object "
            "and for its attributes; language model and image encoder are shared and made once",
            reported=tuple(f"accuracy/{name}" for name in PROGRAMS),
            seeds=3,
            tuning_seeds=(0,),
        ),
    )
