"""Cache folder of files that can be recomputed at any time."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$DIPTYCH_CACHE``, else ``$XDG_CACHE_HOME/diptych``, else ``~/.cache/diptych``. Deleting it only costs time."""
    if own := os.environ.get("DIPTYCH_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diptych"
