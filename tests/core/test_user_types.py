"""A user's package that subclasses each contract is clean under mypy --strict, and a method with a wrong type is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = Path(__file__).parent / "typed/every_contract.py"


def checked(path: Path) -> subprocess.CompletedProcess[str]:
    """mypy on a file, with the settings and the cache of `make lint`: both are strict."""
    environment = {**os.environ, "MYPYPATH": "src"}
    words = [sys.executable, "-m", "mypy", "--strict", str(path)]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)


@pytest.mark.slow
def test_a_package_with_every_contract_is_clean_and_a_wrong_type_is_seen(tmp_path: Path) -> None:
    done = checked(PACKAGE)
    assert done.returncode == 0, done.stdout + done.stderr
    source = PACKAGE.read_text(encoding="utf-8")
    wrong = tmp_path / "wrong_types.py"
    wrong.write_text(source.replace("texts: Sequence[str]", "texts: Sequence[int]"), encoding="utf-8")
    done = checked(wrong)
    assert done.returncode == 1
    assert "embed_texts" in done.stdout
