"""The tables of memory and time on the page are those of the stored measurement, and arithmetic that can be done by hand."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def script() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_memory", ROOT / "scripts/gpu_memory.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_measurement() -> None:
    rows = json.loads((ROOT / "docs/measured/gpu_memory.json").read_text(encoding="utf-8"))["rows"]
    made = script()
    assert made.page(rows) == (ROOT / "docs/gpus.md").read_text(encoding="utf-8"), "python scripts/gpu_memory.py --page"
    plain, saving = (rows["ViT-B/32"][way] for way in ("", "`--checkpoint-layers 1`"))
    each = {name: (made.bytes_at(of, 1024) - made.bytes_at(of, 256)) / 768 for name, of in (("plain", plain), ("saving", saving))}
    assert made.bytes_at(plain, 64) == plain["64"]["tensor_memory_bytes"]
    weights = 4 * plain["256"]["parameters"]
    assert weights == 4 * 151_277_313
    assert 3 * weights < plain["256"]["tensor_memory_bytes"] - 256 * each["plain"] < 5 * weights, (
        "weights, two moments, gradients"
    )
    assert each["saving"] < each["plain"] / 2, "activations of a block are computed again"
    assert made.flops_of_pair(rows, "ViT-B/16") == pytest.approx(3 * 2 * (17.5e9 + 3e9), rel=0.1), (
        "thrice the multiply-adds forward"
    )
