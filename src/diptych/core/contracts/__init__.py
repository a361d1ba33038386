"""What the rooms promise each other, one noun a file. `train` meets recipes and tasks, and `curate` meets models, only through these.

torch is imported for type checking only.
"""

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
    Generator,
    Grounder,
    LexicalEmbedder,
    MatchMap,
    MatchMapper,
    PairJudge,
    PairScorer,
    PointEmbedder,
    Ranker,
    Relater,
    Segmenter,
    Streamer,
    TokenEmbedder,
    Unit,
    VectorIndex,
    WordMapper,
    WordRanker,
    Written,
)
from diptych.core.contracts.curation import Curated, Drop, Operator
from diptych.core.contracts.data import Batch, Dataset, Draw, Draws, Order
from diptych.core.contracts.engine import Acting, Engine, Outcome, Preferring, Solvable, Trainer
from diptych.core.contracts.optimiser import Optimiser, Rule
from diptych.core.contracts.pipeline import Answer, Pipeline
from diptych.core.contracts.recipe import Recipe, Stage
from diptych.core.contracts.reply import Reply, Respondent
from diptych.core.contracts.role import AsksOthers, Role
from diptych.core.contracts.run import Hook, Run
from diptych.core.contracts.task import RowInWords, Task, TaskByItem, TaskInWords
from diptych.core.contracts.tuning import Tuning

__all__ = [
    "Acting",
    "Answer",
    "AsksOthers",
    "Batch",
    "Classifier",
    "ClipEmbedder",
    "ClipScorer",
    "ContextEmbedder",
    "Curated",
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
    "Generator",
    "Grounder",
    "Hook",
    "LexicalEmbedder",
    "MatchMap",
    "MatchMapper",
    "Operator",
    "Optimiser",
    "Order",
    "Outcome",
    "PairJudge",
    "PairScorer",
    "Pipeline",
    "PointEmbedder",
    "Preferring",
    "Ranker",
    "Recipe",
    "Relater",
    "Reply",
    "Respondent",
    "Role",
    "RowInWords",
    "Rule",
    "Run",
    "Segmenter",
    "Solvable",
    "Stage",
    "Streamer",
    "Task",
    "TaskByItem",
    "TaskInWords",
    "TokenEmbedder",
    "Trainer",
    "Tuning",
    "Unit",
    "VectorIndex",
    "WordMapper",
    "WordRanker",
    "Written",
]
