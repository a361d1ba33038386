"""The table of host waits on the page is that of the stored measurement, and names every recipe."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from diptych.core.registry import RECIPES

ROOT = Path(__file__).parents[2]


def script() -> Any:
    spec = importlib.util.spec_from_file_location("device_waits", ROOT / "scripts/device_waits.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_that_of_the_measurement() -> None:
    waits = json.loads((ROOT / "docs/measured/device_waits.json").read_text(encoding="utf-8"))["waits"]
    assert script().page(waits) == (ROOT / "docs/gpus.md").read_text(encoding="utf-8"), "python scripts/device_waits.py --page"
    assert set(waits) <= set(RECIPES), "a recipe is gone: python scripts/device_waits.py"
