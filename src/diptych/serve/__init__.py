"""HTTP service and search page over any model and any index."""

from __future__ import annotations

from diptych.serve.app import create_app, run
from diptych.serve.limits import Limits

__all__ = ["Limits", "create_app", "run"]
