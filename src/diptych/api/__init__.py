"""The public face: read, train, load, evaluate, index. Names of recipes, worlds, models and tasks become objects here.

>>> import diptych as dp
>>> pool = dp.read("emoji", split="unseen_style")
>>> pool[0].positives("en")[0].string != ""
True
"""

from __future__ import annotations

from diptych.api.checking import data_report, refuse_missing, validators
from diptych.api.comparison import compare
from diptych.api.data import read
from diptych.api.evaluation import confusions, evaluate, evaluate_kept, evaluate_run, evaluate_splits, report
from diptych.api.export import export
from diptych.api.generation import ask, caption
from diptych.api.leaderboards import leaderboard
from diptych.api.models import detect, ground, load
from diptych.api.search import index, open_index
from diptych.api.slides import cut_slides, slide_features
from diptych.api.starting import weights_of
from diptych.api.training import estimate, recipe, resume, train
from diptych.api.tuning import blend, blend_curve, tune_report

__all__ = [
    "ask",
    "blend",
    "blend_curve",
    "caption",
    "compare",
    "confusions",
    "cut_slides",
    "data_report",
    "detect",
    "estimate",
    "evaluate",
    "evaluate_kept",
    "evaluate_run",
    "evaluate_splits",
    "export",
    "ground",
    "index",
    "leaderboard",
    "load",
    "open_index",
    "read",
    "recipe",
    "refuse_missing",
    "report",
    "resume",
    "slide_features",
    "train",
    "tune_report",
    "validators",
    "weights_of",
]
