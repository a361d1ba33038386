"""HTTP service and search page over any model and any index."""

from __future__ import annotations

from diptych.serve.admission.limits import Limits
from diptych.serve.app import create_app, run

__all__ = ["Limits", "create_app", "run"]
