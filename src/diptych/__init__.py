"""Diptych: the workbench for language-image pre-training.

>>> import diptych as dp
>>> run = dp.train("clip", data="emoji", out="runs/clip")      # doctest: +SKIP
>>> model = dp.load("runs/clip")                                # doctest: +SKIP
>>> dp.evaluate(model, "retrieval", data="emoji")               # doctest: +SKIP

Names are imported when they are first used, so that ``import diptych`` costs next to nothing.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from diptych.api import (
        ask,
        blend,
        caption,
        compare,
        detect,
        estimate,
        evaluate,
        evaluate_answers,
        evaluate_run,
        evaluate_splits,
        export,
        generate,
        ground,
        index,
        leaderboard,
        learning_rate_range,
        load,
        named_after,
        open_index,
        read,
        recipe,
        report,
        resume,
        run_info,
        soup,
        sweep,
        train,
        tune_report,
    )

__all__ = [
    "__version__",
    "ask",
    "blend",
    "caption",
    "compare",
    "detect",
    "estimate",
    "evaluate",
    "evaluate_answers",
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
    "report",
    "resume",
    "run_info",
    "soup",
    "sweep",
    "train",
    "tune_report",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from diptych import api

        return getattr(api, name)
    raise AttributeError(f"module 'diptych' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _Face(ModuleType):
    """Keeps public functions reachable: importing a room of the same name (train, index, report) would put itself in their place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
