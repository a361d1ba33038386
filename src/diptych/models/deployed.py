"""A saved model back from its folder, whatever kind it is."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from diptych.core.errors import RunError

KINDS = {
    "codebook_captioner": "diptych.models.codebook_captioner:CodebookCaptions",
    "dual_encoder": "diptych.models.embedder:PairEmbedder",
    "locked": "diptych.models.locked:LockedEmbedder",
    "relation_detector": "diptych.models.graph_detector:GraphDetector",
}
"""The word in config.json -> the class that reads it. A word and not an import path: a model folder may come from anywhere."""


def open_model(folder: Path) -> Any:
    """What `Deployable.save` wrote. Raises RunError for a folder without model or of a kind this version does not know."""
    file = folder / "config.json"
    if not file.is_file():
        expected = "a run folder, a model folder, hf:NAME, open_clip:ARCH/FILE, timm:NAME"
        raise RunError(f"{folder} is not a model: it has no config.json (expected {expected})")
    kind = json.loads(file.read_text(encoding="utf-8")).get("kind", "")
    if kind not in KINDS:
        hint = f"; for a transformers folder say hf:{folder}" if not kind else ""
        raise RunError(f"{file}: no kind of model that this version knows ('{kind}'; expected {', '.join(KINDS)}){hint}")
    module, _, attribute = KINDS[kind].partition(":")
    return getattr(import_module(module), attribute).load(folder)
