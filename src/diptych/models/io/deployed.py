"""A saved model back from its folder, whatever kind it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diptych.core.errors import RunError
from diptych.core.registry import MODELS


def open_model(folder: Path) -> Any:
    """What `Deployable.save` wrote. Raises RunError for a folder without model or of a kind this version does not know."""
    file = folder / "config.json"
    if not file.is_file():
        expected = "a run folder, a model folder, hf:NAME, open_clip:ARCH/FILE, timm:NAME"
        raise RunError(f"{folder} is not a model: it has no config.json (expected {expected})")
    kind = json.loads(file.read_text(encoding="utf-8")).get("kind", "")
    if kind not in MODELS:
        hint = f"; for a transformers folder say hf:{folder}" if not kind else ""
        raise RunError(f"{file}: no kind of model that this version knows ('{kind}'; expected {', '.join(MODELS)}){hint}")
    return MODELS.load(kind).load(folder)
