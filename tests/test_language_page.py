"""The numbers of docs/language.md are what its scripts print."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("script", ["english_accuracy", "wrong_captions"])
def test_the_page_says_what_the_script_prints(script: str) -> None:
    made = runpy.run_path(str(ROOT / f"scripts/{script}.py"))["page"](ROOT)
    assert (ROOT / "docs/language.md").read_text("utf8") == made, f"run python scripts/{script}.py"


def test_two_hundred_were_looked_at() -> None:
    rows = [line.split("\t") for line in (ROOT / "docs/measured/wrong_captions.tsv").read_text("utf8").splitlines()]
    assert len(rows) == 200
    assert {row[4] for row in rows} == {"false", "true", "nonsense"}
    assert all(caption != wrong for _, _, caption, wrong, _ in rows)
