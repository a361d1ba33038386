"""Which commit the sources are at, and whether they are exactly that: a verdict on changed sources could not be found again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
WATCHED = ("src", "pyproject.toml")
LIMIT = 600
"""Seconds that the sources of another commit may take."""


@dataclass(frozen=True, slots=True)
class Tree:
    """`commit` is "" outside a checkout; `changed` names what differs from it, untracked files too."""

    commit: str
    changed: tuple[str, ...]

    @property
    def clean(self) -> bool:
        return bool(self.commit) and not self.changed


def tree(root: Path = ROOT) -> Tree:
    """The state of the sources; the ledger itself may differ, since runs write it."""
    if not (root / ".git").exists():
        return Tree("", ())
    head = _git(root, "rev-parse", "--short", "HEAD").strip()
    status = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *WATCHED)
    return Tree(head, tuple(line[3:] for line in status.splitlines()))


@contextmanager
def sources_of(commit: str, root: Path = ROOT) -> Iterator[Path | None]:
    """A folder with `src` as it was at a commit, for as long as the block lasts; None where the commit cannot be had."""
    # A ledger is a file that came from somewhere: nothing in it is an option of git.
    if not commit.isalnum() or not (root / ".git").exists():
        yield None
        return
    with TemporaryDirectory() as folder:
        archive = Path(folder, "src.tar")
        words = ["git", "-C", str(root), "archive", "--format=tar", f"--output={archive}", commit, "src"]
        if subprocess.run(words, capture_output=True, timeout=60).returncode:
            yield None
            return
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
        yield Path(folder)


def run_at(commit: str, program: str, *words: str) -> Any:
    """The JSON that a program prints last by the sources of a commit, on this machine; None where that commit cannot be had or fails."""
    with sources_of(commit) as folder:
        if folder is None:
            return None
        paths = {**os.environ, "PYTHONPATH": str(folder / "src")}
        try:
            done = subprocess.run(
                [sys.executable, "-c", program, *words], env=paths, cwd=folder, capture_output=True, text=True, timeout=LIMIT
            )
        except subprocess.TimeoutExpired:
            return None
    return None if done.returncode else json.loads(done.stdout.splitlines()[-1])


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=30, check=True).stdout
