"""Interfaces (protocols) between packages, one per file.

`train` uses recipes and tasks, and `curate` uses models, only through these. torch is imported for type checking only.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from diptych.core.contracts.capabilities import (
    Classifier,
    ClipEmbedder,
    ClipScorer,
    ContextEmbedder,
    DenseEmbedder,
    Deployable,
    Detector,
    Embedder,
    FusedEmbedder,
    GenerationOutput,
    Generator,
    GoalPredictor,
    Grounder,
    LayerReader,
    LayerStates,
    LexicalEmbedder,
    MatchMap,
    MatchMapper,
    PairJudge,
    PairScorer,
    PhraseMapper,
    PictureChooser,
    PointEmbedder,
    PointSegmenter,
    Ranker,
    Reasoner,
    Relater,
    RoomAnswerer,
    RoomDescriber,
    RoomDetector,
    RoomGrounder,
    Segmenter,
    Streamer,
    TokenEmbedder,
    Unit,
    VectorIndex,
    WordMapper,
    WordRanker,
)
from diptych.core.contracts.curation import CurationStepResult, Drop, Operator
from diptych.core.contracts.data import Batch, Dataset, Draw, Draws, Order
from diptych.core.contracts.engine import ClosedFormRecipe, Engine, PolicyRecipe, PreferenceRecipe, StepOutput, Trainer
from diptych.core.contracts.optimiser import Optimiser, Rule
from diptych.core.contracts.picture_generation import ImageGenerator, ReferenceImage
from diptych.core.contracts.pipeline import Pipeline, PipelineOutput
from diptych.core.contracts.recipe import Recipe, Stage
from diptych.core.contracts.reply import Reply, Respondent
from diptych.core.contracts.role import Role, TaskWithRoles
from diptych.core.contracts.run import Hook, Run
from diptych.core.contracts.task import ReadableRow, ReadableTask, ReportColumns, Task, TaskByItem
from diptych.core.contracts.tuning import Tuning

__all__ = [
    "Batch",
    "Classifier",
    "ClipEmbedder",
    "ClipScorer",
    "ClosedFormRecipe",
    "ContextEmbedder",
    "CurationStepResult",
    "Dataset",
    "DenseEmbedder",
    "Deployable",
    "Detector",
    "Draw",
    "Draws",
    "Drop",
    "Embedder",
    "Engine",
    "FusedEmbedder",
    "GenerationOutput",
    "Generator",
    "GoalPredictor",
    "Grounder",
    "Hook",
    "ImageGenerator",
    "LayerReader",
    "LayerStates",
    "LexicalEmbedder",
    "MatchMap",
    "MatchMapper",
    "Operator",
    "Optimiser",
    "Order",
    "PairJudge",
    "PairScorer",
    "PhraseMapper",
    "PictureChooser",
    "Pipeline",
    "PipelineOutput",
    "PointEmbedder",
    "PointSegmenter",
    "PolicyRecipe",
    "PreferenceRecipe",
    "Ranker",
    "ReadableRow",
    "ReadableTask",
    "Reasoner",
    "Recipe",
    "ReferenceImage",
    "Relater",
    "Reply",
    "ReportColumns",
    "Respondent",
    "Role",
    "RoomAnswerer",
    "RoomDescriber",
    "RoomDetector",
    "RoomGrounder",
    "Rule",
    "Run",
    "Segmenter",
    "Stage",
    "StepOutput",
    "Streamer",
    "Task",
    "TaskByItem",
    "TaskWithRoles",
    "TokenEmbedder",
    "Trainer",
    "Tuning",
    "Unit",
    "VectorIndex",
    "WordMapper",
    "WordRanker",
]

_RENAMED = {
    "Acting": "PolicyRecipe",
    "Answer": "PipelineOutput",
    "AsksOthers": "TaskWithRoles",
    "Curated": "CurationStepResult",
    "Outcome": "StepOutput",
    "Preferring": "PreferenceRecipe",
    "RowInWords": "ReadableRow",
    "Solvable": "ClosedFormRecipe",
    "TaskInWords": "ReadableTask",
    "Written": "GenerationOutput",
}
"""Former names, for packages that import them; they go with version 0.2."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """The class that a former name stands for, with a DeprecationWarning."""
        if (new := _RENAMED.get(name)) is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        warnings.warn(f"diptych.core.contracts.{name} is {new} now", DeprecationWarning, stacklevel=2)
        return globals()[new]
