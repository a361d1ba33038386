"""Opening a saved model folder of any kind."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diptych.core.disk.json_text import read_object
from diptych.core.disk.paths import near_sibling, refuse_other
from diptych.core.errors import DiptychError, RunError
from diptych.core.registry import MODELS


def open_model(folder: Path) -> Any:
    """Model from a folder that `Deployable.save` wrote. Raises RunError for a folder without model or of an unknown kind."""
    file = folder / "config.json"
    if not file.is_file():
        if not folder.exists():
            raise RunError(
                f"there is no model {folder}{near_sibling(folder)} (expected a run folder, a model folder, hf:FOLDER, ...)"
            )
        if (folder / "adapter_config.json").is_file():
            raise RunError(
                f"{folder} contains only low-rank adapters (expected lora:{folder}#BASE, with the model they were trained on)"
            )
        expected = "a run folder, a model folder, hf:NAME, open_clip:ARCH/FILE, timm:NAME"
        raise RunError(f"{folder} is not a model: it has no config.json (expected {expected})")
    try:
        kind = read_object(file).get("kind", "")
    except ValueError as error:
        raise RunError(f"{file} {error} (expected the configuration of a model)") from error
    if not isinstance(kind, str) or kind not in MODELS:
        near = difflib.get_close_matches(str(kind)[:40], list(MODELS), n=3) or ["dual_encoder", "bridge", "relation_detector"]
        raise RunError(f"{file}: unknown kind of model ({kind!r:.40}; expected one of {len(MODELS)}, such as {', '.join(near)})")
    with one_line_errors(folder):
        return MODELS.load(kind).load(folder)


@contextmanager
def one_line_errors(folder: Path) -> Iterator[None]:
    """Context manager that turns errors of libraries that read untrusted files into RunErrors of one line.
    Pipes and devices are refused first, for a library would wait for them."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.is_dir():
            continue
        try:
            refuse_other(path.stat())
        except OSError as error:
            raise RunError(f"{path} {error.strerror or error} (expected a file of a model)") from error
    try:
        yield
    except DiptychError:
        raise
    except Exception as error:  # a hostile header or configuration can be anything
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        reason = f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__
        raise RunError(f"{folder} contains no model that can be opened: {reason}") from error
