"""Every trainable recipe on a CUDA device that is only pretended: losses are the processor's, nothing is left behind, no wait is new."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diptych.core.registry import RECIPES

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests/helpers/pretended_steps.py"
STORED = ROOT / "docs/measured/device_waits.json"
PRECISIONS = ("fp32", "bf16")
TOLERANCE = {"fp32": 1e-4, "bf16": 0.05}
"""Relative. On the processor autocast casts other operators to bf16 than on CUDA."""
OWN_ANSWERS = 0.02
"""Absolute, in bf16, where a policy learns from answers that it drew: weights whose last digits differ after the stages before draw other
tokens. In float32 they draw the same."""
AT_ONCE = 5
"""Recipes in a process."""
NOWHERE = ("clip", "siglip", "filip", "locked", "limber", "llava", "minigpt4")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="the pretended device is built by g++, which is not there"),
]


class Steps:
    """Rows of the program by recipe and precision, some recipes at a time: a session that is stopped in between has what it asked for."""

    def __init__(self, slugs: list[str]) -> None:
        self._left, self._rows = slugs, dict[tuple[str, str], dict[str, Any]]()

    def __call__(self, slug: str, precision: str) -> dict[str, Any]:
        if slug in self._left:
            at = self._left.index(slug)
            self._run(self._left[at : at + AT_ONCE])
        row = self._rows.get((slug, precision)) or self._rows.get((slug, "-"))
        assert row is not None, f"{slug} gave no result"
        assert row["precision"] != "-", f"{row['error']}\n{row.get('traceback', '')}"
        return row

    def _run(self, slugs: list[str]) -> None:
        program = [sys.executable, SCRIPT, "--precision", *PRECISIONS, "--", *slugs]
        done = subprocess.run(program, capture_output=True, text=True, check=False)
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        ended = {"precision": "-", "error": f"the program ended with status {done.returncode}", "traceback": done.stderr[-3000:]}
        rows += [{"slug": slug, **ended} for slug in slugs if done.returncode and slug not in {row["slug"] for row in rows}]
        self._rows |= {(row["slug"], row["precision"]): row for row in rows}
        self._left = [slug for slug in self._left if slug not in slugs]


@pytest.fixture(scope="session")
def steps(request: pytest.FixtureRequest) -> Steps:
    """Of the recipes that are tested in this session."""
    items = [item for item in request.session.items if hasattr(item, "callspec") and item.path == Path(__file__)]
    return Steps(list(dict.fromkeys(item.callspec.params["slug"] for item in items)))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("slug", list(RECIPES), scope="module")  # all of a recipe in turn
def test_losses_are_those_of_the_processor(slug: str, precision: str, steps: Steps) -> None:
    row = steps(slug, precision)
    assert "error" not in row, f"{row['error']}\n{row.get('traceback', '')}"
    draws = precision == "bf16" and RECIPES.load(slug).engine == "policy"
    assert row["cuda"] == pytest.approx(row["cpu"], rel=TOLERANCE[precision], abs=OWN_ANSWERS if draws else None)
    assert row["left_behind"] == [], "tensors of a batch that do not move to the device with it"
    assert row["faults"] == [], "operators that mix devices, or have no kernel"


@pytest.mark.parametrize("slug", list(RECIPES), scope="module")  # all of a recipe in turn
def test_no_wait_is_new(slug: str, steps: Steps) -> None:
    stored = json.loads(STORED.read_text(encoding="utf-8"))["waits"].get(slug, {})
    waits = steps(slug, "fp32")["waits"]
    new = [
        f"{name} ({line}): {count:g} a step, {stored.get(name, 0):g} before"
        for name, (count, line) in waits.items()
        if count > stored.get(name, 0) + 0.01
    ]
    assert not new, (
        f"the host waits for the device in a step of {slug}:\n" + "\n".join(new) + "\n(python scripts/device_waits.py)"
    )
    assert slug not in NOWHERE or not waits
