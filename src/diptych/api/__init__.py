"""The public face: read, train, load, evaluate, index. Names of recipes, worlds, models and tasks become objects here.

>>> import diptych as dp
>>> pool = dp.read("emoji", split="unseen_style")
>>> pool[0].positives("en")[0].string != ""
True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diptych.api.checking import data_report, refuse_missing, validators
    from diptych.api.comparison import compare
    from diptych.api.data import read
    from diptych.api.evaluation import (
        confusions,
        evaluate,
        evaluate_answers,
        evaluate_kept,
        evaluate_run,
        evaluate_splits,
        report,
    )
    from diptych.api.exports import export
    from diptych.api.generation import ask, caption
    from diptych.api.initial_weights import weights_of
    from diptych.api.leaderboards import leaderboard
    from diptych.api.models import detect, ground, load
    from diptych.api.naming import named_after
    from diptych.api.pictures import generate
    from diptych.api.recipes import recipe
    from diptych.api.restarting import train_or_resume
    from diptych.api.runs import run_info
    from diptych.api.search import index, open_index
    from diptych.api.slides import cut_slides, slide_features
    from diptych.api.sweeps import sweep
    from diptych.api.training import estimate, learning_rate_range, resume, train
    from diptych.api.tuning import blend, blend_curve, soup, tune_report

_WHERE = {
    "ask": "generation",
    "blend": "tuning",
    "blend_curve": "tuning",
    "caption": "generation",
    "compare": "comparison",
    "confusions": "evaluation",
    "cut_slides": "slides",
    "data_report": "checking",
    "detect": "models",
    "estimate": "training",
    "evaluate": "evaluation",
    "evaluate_answers": "evaluation",
    "evaluate_kept": "evaluation",
    "evaluate_run": "evaluation",
    "evaluate_splits": "evaluation",
    "export": "exports",
    "generate": "pictures",
    "ground": "models",
    "index": "search",
    "leaderboard": "leaderboards",
    "learning_rate_range": "training",
    "load": "models",
    "named_after": "naming",
    "open_index": "search",
    "read": "data",
    "recipe": "recipes",
    "refuse_missing": "checking",
    "report": "evaluation",
    "resume": "training",
    "run_info": "runs",
    "slide_features": "slides",
    "soup": "tuning",
    "sweep": "sweeps",
    "train": "training",
    "train_or_resume": "restarting",
    "tune_report": "tuning",
    "validators": "checking",
    "weights_of": "initial_weights",
}

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
    "evaluate_answers",
    "evaluate_kept",
    "evaluate_run",
    "evaluate_splits",
    "export",
    "generate",
    "ground",
    "index",
    "leaderboard",
    "learning_rate_range",
    "load",
    "named_after",
    "open_index",
    "read",
    "recipe",
    "refuse_missing",
    "report",
    "resume",
    "run_info",
    "slide_features",
    "soup",
    "sweep",
    "train",
    "train_or_resume",
    "tune_report",
    "validators",
    "weights_of",
]


def __getattr__(name: str) -> Any:
    """A public function, imported on first use: a search need not wait for the modules of training."""
    if name not in _WHERE:
        raise AttributeError(f"module 'diptych.api' has no attribute {name!r}")
    attribute = getattr(import_module(f"diptych.api.{_WHERE[name]}"), name)
    globals()[name] = attribute
    return attribute


def __dir__() -> list[str]:
    return sorted(__all__)
